"""sts docs: the pages of documentation that come with sts."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table

from sts_cli.cli.options import OptionError
from sts_cli.errors import did_you_mean
from sts_cli.report.console import stdout, stream


def docs(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="A page; without one, their list.")
    ] = None,
) -> None:
    """Show a page of the documentation, or the list of pages.

    A terminal shows it formatted; a file or a pipe gets the Markdown.

    \b
      sts docs formats
      sts docs formats | less
    """
    known = pages()
    if topic is None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("topic", style="bold")
        table.add_column("about", overflow="fold")
        for name, path in known.items():
            table.add_row(name, title(path))
        stdout().print(table)
        return
    name = topic.removeprefix("docs/").removesuffix(".md")
    if name not in known:
        raise OptionError(
            f"no page '{topic}'. Known: {', '.join(known)}.{did_you_mean(name, known)}"
        )
    text = known[name].read_text("utf-8")
    if sys.stdout.isatty():
        stdout().print(Markdown(text, hyperlinks=False))
    else:
        stream(text)


def pages() -> dict[str, Path]:
    """The pages that come with the package: topic -> file."""
    installed = Path(str(files("sts_cli"))) / "docs"
    folder = installed if installed.is_dir() else installed.parents[1] / "docs"
    return {path.stem: path for path in sorted(folder.glob("*.md"))}


def title(path: Path) -> str:
    """A page's heading."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
