"""The `sts` command."""

from __future__ import annotations

import os
import sys

import typer

from sts_cli.cli.app import app
from sts_cli.cli.interrupt import while_read
from sts_cli.cli.streams import settle_streams
from sts_cli.errors import StsError
from sts_cli.report.console import Log, stderr


def main() -> None:
    """Run; a user's mistake is one message and exit code 2."""
    if sys.stdout is None:  # closed by `>&-`; a file opened later would get its number
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    settle_streams()
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
