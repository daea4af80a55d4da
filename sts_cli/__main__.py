"""The `sts` command."""

from __future__ import annotations

import os
import sys

import typer

from sts_cli import __version__
from sts_cli.cli import ask, batch, doctor, eval, merge, models, profiles
from sts_cli.errors import StsError
from sts_cli.report.console import stderr

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask vision-language models about images, faster: visual tokens are pruned under a named "
    "profile, and --compare shows what that changed.",
)


def version(wanted: bool) -> None:
    if wanted:
        print(f"sts {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Ask vision-language models about images, faster."""


app.command("ask")(ask.ask)
app.command("batch")(batch.batch)
app.command("eval")(eval.evaluate)
app.command("merge")(merge.merge)
app.add_typer(profiles.app, name="profiles")
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run; a user's mistake is one message and exit code 2, Ctrl-C is 130, a closed pipe 141."""
    try:
        app()
    except StsError as error:
        stderr().print(f"sts: {error}", style="red", markup=False)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
