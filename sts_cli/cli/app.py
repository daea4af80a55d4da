"""The commands of `sts`, put together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer

from sts_cli import __version__
from sts_cli.cli import ask, batch, docs, doctor, eval, merge, models, profiles, tune
from sts_cli.cli.help import Command, Group, page
from sts_cli.cli.interrupt import while_read
from sts_cli.cli.options import OptionError
from sts_cli.cli.ray import BatchCommand
from sts_cli.errors import did_you_mean
from sts_cli.report.console import stream
from sts_cli.report.visible import visible

UsageError: Any = typer.BadParameter.__bases__[0]  # click's, or the one that typer carries


@contextlib.contextmanager
def as_other_mistakes() -> Iterator[None]:
    """Usage errors end as all mistakes of a user do; typer would draw them in a box."""
    try:
        yield
    except UsageError as error:
        raise OptionError(mistake(error)) from None


def mistake(error: Any) -> str:
    """A usage error in one sentence, and where the help is. It quotes what was typed."""
    told = error.format_message()
    told += "" if told.endswith((".", "?")) else "."
    if getattr(error, "possibilities", None):
        name = error.option_name
        told = f"No such option: {name}.{did_you_mean(name, error.possibilities)}"
    command = error.ctx.command_path if error.ctx is not None else "sts"
    return visible(f"{told} See: {command} --help")


class Commands(Group):
    """All commands, each of which ends quietly once nobody reads what it prints."""

    def make_context(self, *given: Any, **options: Any) -> Any:
        with while_read(), as_other_mistakes():  # --version prints here
            return super().make_context(*given, **options)

    def invoke(self, ctx: Any) -> Any:
        with while_read(), as_other_mistakes():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask vision-language models about images, faster: visual tokens are pruned under a named "
    "profile, and --compare shows what that changed.",
)


def version(wanted: bool) -> None:
    if wanted:
        stream(f"sts {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", "-V", callback=version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Ask vision-language models about images, faster."""
    if context.invoked_subcommand is None:
        stream(page(context))
        raise typer.Exit(2)


app.command("ask", cls=Command)(ask.ask)
app.command("batch", cls=BatchCommand)(batch.batch)
app.command("eval", cls=Command)(eval.evaluate)
app.command("tune", cls=Command)(tune.tune)
app.command("merge", cls=Command)(merge.merge)
app.add_typer(profiles.app, name="profiles")
app.command("models", cls=Command)(models.models)
app.command("doctor", cls=Command)(doctor.doctor)
app.command("docs", cls=Command)(docs.docs)
