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
from sts_cli.cli.ray import BatchCommand
from sts_cli.report.console import stream
from sts_cli.report.visible import visible

UsageError: Any = typer.BadParameter.__bases__[0]  # click's, or the one that typer carries


@contextlib.contextmanager
def quoted_visibly() -> Iterator[None]:
    """Usage errors quote what was typed, and typer prints them by itself."""
    try:
        yield
    except UsageError as error:
        error.message = visible(error.message)
        raise


class Commands(Group):
    """All commands, each of which ends quietly once nobody reads what it prints."""

    def make_context(self, *given: Any, **options: Any) -> Any:
        with while_read(), quoted_visibly():  # --version prints here
            return super().make_context(*given, **options)

    def invoke(self, ctx: Any) -> Any:
        with while_read(), quoted_visibly():
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
