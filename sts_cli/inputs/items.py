"""An input, whatever it is, as a stream of items: `Input.items()` can be read again and again."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Literal

from sts_cli.errors import InputError, did_you_mean
from sts_cli.inputs.columns import open_columns
from sts_cli.inputs.documents import is_json_lines, open_document
from sts_cli.inputs.embedded import LONGEST_PATH
from sts_cli.inputs.folder import is_image_name, read_folder
from sts_cli.inputs.forms import form_of
from sts_cli.inputs.jsonl import is_image_path, open_lines, open_list
from sts_cli.inputs.lines import BOM, UTF16
from sts_cli.inputs.piped import read_piped
from sts_cli.inputs.rows import CAPTION, EXAMPLE, METADATA, Origin
from sts_cli.inputs.survey import Contents, Survey
from sts_cli.inputs.table import open_table
from sts_cli.inputs.webdataset import open_tar
from sts_cli.records import Item, printable

Kind = Literal[
    "jsonl", "table", "document", "columns", "tar", "list", "folder", "image", "stdin", "several"
]
KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "document",
    ".csv": "table",
    ".tsv": "table",
    ".parquet": "columns",
    ".arrow": "columns",
    ".feather": "columns",
    ".tar": "tar",
    ".tgz": "tar",
    ".tar.gz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
    ".txt": "list",
}
READERS: dict[Kind, Callable[[Path, str], Contents]] = {
    "jsonl": open_lines,
    "table": open_table,
    "document": open_document,
    "columns": open_columns,
    "tar": open_tar,
    "list": open_list,
}
# Where benchmarks keep their images, as seen from the question file.
HOMES = {"ChartQA": "png", "GQA": "images", "TextVQA": "train_images", "ScienceQA": "images"}


@dataclass(frozen=True, slots=True)
class Input:
    """Questions from one place."""

    name: str  # as the user wrote it
    path: Path
    kind: Kind
    read: Callable[[], Iterator[Item]]
    survey: Callable[[], Survey] | None = None  # of a question file, which it reads at most once
    skipped: Counter[str] = field(default_factory=Counter)  # entries of a folder, by reason
    form: str | None = None  # whose form the rows have, if it is not ours
    folder: Path | None = None  # where image names start, if not the file's own
    parts: tuple[Input, ...] = ()  # of several

    def items(self, limit: int | None = None, shard: tuple[int, int] = (1, 1)) -> Iterator[Item]:
        """The items of a shard, `(i, n)` from 1: every n-th row; at most `limit` of them."""
        self.skipped.clear()
        part, parts = shard
        return islice(islice(self.read(), part - 1, None, parts), limit)

    @property
    def one_each(self) -> bool:
        """True if no image is asked about twice."""
        if self.parts:
            return all(part.one_each for part in self.parts)
        return self.kind in ("folder", "image", "list") or self.path.name in METADATA

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read for questions, or as the only image."""
        return tuple(part.path for part in self.parts or (self,))

    @property
    def start(self) -> Path:
        """The folder that image names are relative to."""
        return self.path.parent if self.folder is None else self.folder

    @property
    def named_from(self) -> Path | None:
        """The folder that a question file's names of images start in; None for what has no rows."""
        return None if self.parts or self.kind in ("folder", "image", "list") else self.start

    def count(self) -> int | None:
        """The number of items; None for stdin."""
        if self.parts:
            return sum(part.count() or 0 for part in self.parts)
        if self.kind == "stdin":
            return None
        return self.survey().count if self.survey else sum(1 for _ in self.items())

    def identity(self) -> str:
        """A text that tells this input from another: a file's content, a folder's place."""
        if self.parts:
            every = " ".join(part.identity() for part in self.parts)
            return f"{len(self.parts)} inputs of SHA-256 {sha256(every.encode()).hexdigest()[:16]}"
        if self.kind == "stdin":
            return "stdin"
        if self.survey is None:
            return printable(str(self.path.resolve()))
        return f"a file of SHA-256 {self.survey().sha256[:16]}"


def open_input(
    name: str,
    question: str | None = None,
    images: Path | None = None,
    tell: Callable[[str], None] = lambda form: None,
    remote: bool = False,
) -> Input:
    """The input that a user named; `question` is for rows without one, `images` their folder.

    `tell` is for standard input: it gets the form of the first row, if that is not ours.

    Rows may name images on object stores if `remote`. A folder with an ImageFolder's
    metadata.jsonl, .csv or .parquet is that file. Raises InputError for what holds no question at
    all.
    """
    if not name:  # a shell's variable that is not set; Path("") would be the current folder
        raise InputError("an input has no name; give a file, a folder of images, or - for stdin.")
    if question is not None and not question.strip():
        raise InputError("the question for all rows (--question) is empty; leave it out, or ask.")
    if name == "-":
        return from_stdin(question, images, tell)
    path, shown = Path(name), printable(name)
    if not path.exists():
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        raise InputError(
            f"No file or folder '{shown}'.{did_you_mean(path.name, beside)} Give a "
            "questions.jsonl, a folder of images, an image, or - for stdin."
        )
    if path.is_dir():
        metadata = next((path / one for one in METADATA if (path / one).is_file()), None)
        if metadata is not None:
            opened = from_file(name, metadata, question or CAPTION, images, remote)
        else:
            opened = from_folder(name, path, question or CAPTION)
    elif path.is_file():
        opened = from_file(name, path, question, images, remote)
    else:
        raise InputError(f"'{shown}' is neither a file nor a folder.")
    if next(opened.items(), None) is None:
        passed = ", ".join(f"{count} {reason}" for reason, count in opened.skipped.items())
        raise InputError(
            f"'{shown}' holds no images{f' (passed over: {passed})' if passed else ''}."
            if opened.kind == "folder"
            else f"'{shown}' is empty. A line looks like {EXAMPLE}"
        )
    return opened


def from_folder(name: str, path: Path, question: str) -> Input:
    """One question about every image of a folder."""
    skipped: Counter[str] = Counter()
    read = partial(read_folder, path, question, skipped)
    return Input(name, path, "folder", read, skipped=skipped, folder=path)


def from_stdin(question: str | None, images: Path | None, tell: Callable[[str], None]) -> Input:
    """What another program writes; image names are relative to the current folder.

    `tell` gets the form of the first row when it is there, if that is not ours.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("'-' reads JSON lines from stdin, not from a terminal; pipe them in.")
    origin = Origin("stdin", images or Path(), question)
    # Detached: Python closes its own stream at the end, and dies if a thread still reads it.
    stream = sys.stdin.detach()  # type: ignore[union-attr]
    read = partial(read_piped, stream, origin, tell)
    return Input("-", Path("-"), "stdin", read, folder=origin.folder)


def from_file(
    name: str, path: Path, question: str | None, images: Path | None, remote: bool = False
) -> Input:
    """A question file or one image, told apart by the name, else by how the content starts."""
    if is_image_name(path.name):
        item = Item(printable(path.name), (path.name,), question or CAPTION, path.parent)
        return Input(name, path, "image", lambda: iter([item]))
    kind, shown = kind_of(path, printable(name)), printable(path.name)
    if kind == "document" and is_json_lines(path):
        kind = "jsonl"
    contents = READERS[kind](path, shown)
    told = form_of(contents.first)
    form = contents.form or (told.name if told else None)
    home = path.parent / HOMES.get(form or "", "")
    folder = images or (home if home.is_dir() else path.parent)
    asked = question or (CAPTION if kind == "tar" else None)  # it may hold images alone
    read = partial(contents.items, Origin(shown, folder, asked, remote))
    return Input(name, path, kind, read, contents.survey, form=form, folder=folder)


def kind_of(path: Path, shown: str) -> Kind:
    """The kind of a question file. Raises InputError for what is none."""
    try:
        with path.open("rb") as file:
            start = file.read(LONGEST_PATH)
    except OSError as error:
        raise InputError(f"Cannot read '{shown}': {error.strerror}.") from error
    first = start.removeprefix(BOM).lstrip()[:1]
    kind = next((kind for end, kind in KINDS.items() if path.name.lower().endswith(end)), None)
    kind = kind or ("jsonl" if first == b"{" else None)
    if kind == "list" and not is_image_path(start.partition(b"\n")[0].strip()):
        kind = "jsonl" if first == b"{" else None
    kind = "columns" if start.startswith((b"PAR1", b"ARROW1")) else kind
    if kind in ("columns", "tar"):
        return kind
    marked = start.startswith(UTF16)
    if (marked and kind != "table") or (kind and not marked and b"\0" in start):
        raise InputError(f"'{shown}' is UTF-16 text, or no text at all; save it as UTF-8.")
    if kind is None and start:
        raise InputError(
            f"'{shown}' is neither an image nor a question file. Known: a folder of "
            f"images, .jsonl with lines such as {EXAMPLE}, .csv, .json and .parquet of benchmarks, "
            ".tar of WebDataset, and .txt with the path of an image a line."
        )
    return kind or "jsonl"
