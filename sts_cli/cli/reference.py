"""The page docs/cli.md, made of the commands' help: python -m sts_cli.cli.reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from sts_cli.cli.app import app
from sts_cli.cli.help import page
from sts_cli.report.console import stream

WIDTH = 100  # columns


def reference() -> str:
    """The page as Markdown."""
    parts = ["# Every command and option\n\nMade of the help: `python -m sts_cli.cli.reference`.\n"]
    for context in contexts(get_command(app)):
        parts.append(f"## {context.command_path}\n\n```\n{page(context, width=WIDTH)}```\n")
    return "\n".join(parts)


def contexts(command: Any, name: str = "sts", parent: Any = None) -> Iterator[Any]:
    """The contexts of a command and of all commands below it."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield context
    for inner, one in getattr(command, "commands", {}).items():
        yield from contexts(one, inner, context)


if __name__ == "__main__":
    stream(reference())
