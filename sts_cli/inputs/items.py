"""An input, whatever it is, as a stream of items: `Input.items()` can be read again and again."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Literal

from sts_cli.errors import InputError, did_you_mean
from sts_cli.inputs.documents import is_json_lines, read_document
from sts_cli.inputs.folder import is_image_name, read_folder
from sts_cli.inputs.jsonl import read_jsonl
from sts_cli.inputs.lines import BOM, UTF16, read_lines
from sts_cli.inputs.rows import CAPTION, EXAMPLE, Origin
from sts_cli.inputs.survey import Survey, survey
from sts_cli.inputs.table import check_table, read_table
from sts_cli.records import Item, printable

Kind = Literal["jsonl", "table", "document", "folder", "image", "stdin"]
METADATA = "metadata.jsonl"  # what an ImageFolder describes its images in
KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "document",
    ".csv": "table",
    ".tsv": "table",
}


@dataclass(frozen=True, slots=True)
class Input:
    """Questions from one place."""

    name: str  # as the user wrote it
    path: Path
    kind: Kind
    read: Callable[[], Iterator[Item]]
    survey: Callable[[], Survey] | None = None  # of a question file, which it reads at most once
    skipped: Counter[str] = field(default_factory=Counter)  # entries of a folder, by reason

    def items(self, limit: int | None = None, shard: tuple[int, int] = (1, 1)) -> Iterator[Item]:
        """The items of a shard, `(i, n)` from 1: every n-th row; at most `limit` of them."""
        self.skipped.clear()
        part, parts = shard
        return islice(islice(self.read(), part - 1, None, parts), limit)

    @property
    def one_each(self) -> bool:
        """True if no image is asked about twice."""
        return self.kind in ("folder", "image") or self.path.name == METADATA

    def count(self) -> int | None:
        """The number of items; None for stdin."""
        if self.kind == "stdin":
            return None
        return self.survey().count if self.survey else sum(1 for _ in self.items())

    def identity(self) -> str:
        """A text that tells this input from another: a file's content, a folder's place."""
        if self.kind == "stdin":
            return "stdin"
        if self.survey is None:
            return printable(str(self.path.resolve()))
        return f"a file of SHA-256 {self.survey().sha256[:16]}"


def open_input(name: str, question: str | None = None, images: Path | None = None) -> Input:
    """The input that a user named; `question` is for rows without one, `images` their folder.

    A folder with an ImageFolder's metadata.jsonl is that file. Raises InputError for what holds
    no question at all.
    """
    if name == "-":
        return from_stdin(question, images)
    path, shown = Path(name), printable(name)
    if not path.exists():
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        raise InputError(
            f"No file or folder '{shown}'.{did_you_mean(path.name, beside)} Give a "
            "questions.jsonl, a folder of images, an image, or - for stdin."
        )
    if path.is_dir():
        metadata = path / METADATA
        if metadata.is_file():
            opened = from_file(name, metadata, question or CAPTION, images)
        else:
            opened = from_folder(name, path, question or CAPTION)
    elif path.is_file():
        opened = from_file(name, path, question, images)
    else:
        raise InputError(f"'{shown}' is neither a file nor a folder.")
    if next(opened.items(), None) is None:
        passed = ", ".join(f"{count} {reason}" for reason, count in opened.skipped.items())
        raise InputError(
            f"'{shown}' holds no images{f' ({passed})' if passed else ''}."
            if opened.kind == "folder"
            else f"'{shown}' is empty. A line looks like {EXAMPLE}"
        )
    return opened


def from_folder(name: str, path: Path, question: str) -> Input:
    """One question about every image of a folder."""
    skipped: Counter[str] = Counter()
    read = partial(read_folder, path, question, skipped)
    return Input(name, path, "folder", read, skipped=skipped)


def from_stdin(question: str | None, images: Path | None) -> Input:
    """JSON lines that another program writes; image names are relative to the current folder."""
    if sys.stdin.isatty():
        raise InputError("'-' reads JSON lines from stdin, not from a terminal; pipe them in.")
    origin = Origin("stdin", images or Path(), question)
    return Input("-", Path("-"), "stdin", lambda: read_jsonl(sys.stdin.buffer, origin))


def from_file(name: str, path: Path, question: str | None, images: Path | None) -> Input:
    """A question file or one image, told apart by the name, else by how the content starts."""
    if is_image_name(path.name):
        item = Item(printable(path.name), (path.name,), question or CAPTION, path.parent)
        return Input(name, path, "image", lambda: iter([item]))
    shown = printable(name)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"Cannot read '{shown}': {error.strerror}.") from error
    first = start.removeprefix(BOM).lstrip()[:1]
    kind = KINDS.get(path.suffix.lower()) or ("jsonl" if first == b"{" else None)
    marked = start.startswith(UTF16)
    if (marked and kind != "table") or (kind and not marked and b"\0" in start):
        raise InputError(f"'{shown}' is UTF-16 text, or no text at all; save it as UTF-8.")
    if kind is None and start:
        raise InputError(
            f"'{shown}' is neither an image nor a question file. Known: a folder of "
            f"images, .jsonl with lines such as {EXAMPLE}, .csv, and VQAv2's .json."
        )
    origin = Origin(printable(path.name), images or path.parent, question)
    if kind == "table":
        checked = check_table(path, origin.name)
        return Input(name, path, kind, partial(read_table, path, origin), lambda: checked)
    if kind == "document" and not is_json_lines(path):
        surveyed, items = read_document(path, origin)
        return Input(name, path, kind, items, lambda: surveyed)

    def read() -> Iterator[Item]:
        with path.open("rb") as file:
            yield from read_jsonl(file, origin)

    return Input(name, path, "jsonl", read, cache(partial(survey, path, read_lines)))
