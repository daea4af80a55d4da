"""The `sts` command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer

from sts_cli import __version__
from sts_cli.cli import ask, batch, docs, doctor, eval, merge, models, profiles, tune
from sts_cli.cli.help import Command, Group
from sts_cli.cli.interrupt import while_read
from sts_cli.errors import StsError
from sts_cli.report.console import Log, stderr, stream
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
    no_args_is_help=True,
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
    version: bool = typer.Option(
        False, "--version", "-V", callback=version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Ask vision-language models about images, faster."""


app.command("ask", cls=Command)(ask.ask)
app.command("batch", cls=Command)(batch.batch)
app.command("eval", cls=Command)(eval.evaluate)
app.command("tune", cls=Command)(tune.tune)
app.command("merge", cls=Command)(merge.merge)
app.add_typer(profiles.app, name="profiles")
app.command("models", cls=Command)(models.models)
app.command("doctor", cls=Command)(doctor.doctor)
app.command("docs", cls=Command)(docs.docs)


def main() -> None:
    """Run; a user's mistake is one message and exit code 2."""
    if sys.stdout is None:  # closed by `>&-`; a file opened later would get its number
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        with while_read():  # also of --help and --version, which are no command's
            app(prog_name="sts")
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except StsError as error:
        console = Log() if "--log-json" in sys.argv else stderr()
        console.print(f"sts: {error}", style="red")
        sys.exit(2)


if __name__ == "__main__":
    main()
