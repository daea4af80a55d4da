"""The items of an input: a question file, a folder, one image, or standard input."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from sts_cli.errors import InputError, did_you_mean
from sts_cli.inputs.rows import invalid, item_of, item_of_line
from sts_cli.records import Item, Problem

CAPTION = "Describe the image."
IMAGES = frozenset(
    """.apng .avif .bmp .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tga
    .tif .tiff .webp""".split()  # noqa: SIM905
)
LONGEST_LINE = 16 << 20  # bytes


@dataclass
class Input:
    """Where items come from. `skipped` counts what a folder held that is not an image."""

    name: str
    path: Path | None  # None: standard input
    kind: str  # "jsonl", "csv", "json", "folder" or "image"
    question: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Item]:
        """Every row once, in order. An id that was used before makes its row invalid."""
        seen: set[int] = set()
        for item in self._items():
            key = hash(item.id)
            if key in seen:
                message = f"the id '{item.id[:80]}' was used before; ids must differ"
                item = replace(item, problem=item.problem or Problem("row_invalid", message))
            seen.add(key)
            yield item

    def count(self) -> int | None:
        """How many rows there are, as far as a quick look tells; None for standard input."""
        if self.path is None or self.kind == "json":
            return None
        if self.kind == "folder":
            return sum(1 for _ in images_in(self.path, Counter()))
        if self.kind == "image":
            return 1
        with self.path.open("rb") as file:
            return sum(1 for line in file if line.strip()) - (self.kind == "csv")

    def identity(self) -> str:
        """What tells this input from another: a file's content, a folder's place."""
        if self.path is None:
            return "standard input"
        if self.kind in ("folder", "image"):
            return str(self.path.resolve())
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return f"{self.path.name} {digest.hexdigest()[:16]}"

    def _items(self) -> Iterator[Item]:
        if self.path is None:
            yield from _lines(sys.stdin.buffer, Path(), self.question)
        elif self.kind == "folder":
            question = self.question or CAPTION
            for name in images_in(self.path, self.skipped):
                yield Item(id=name, images=(name,), question=question, folder=self.path)
        elif self.kind == "image":
            yield Item(
                id="1",
                images=(str(self.path),),
                question=self.question or CAPTION,
            )
        elif self.kind == "csv":
            yield from _csv(self.path, self.question)
        elif self.kind == "json":
            yield from _vqa(self.path)
        else:
            with self.path.open("rb") as file:
                yield from _lines(file, self.path.parent, self.question)


def find_input(name: str, question: str | None = None) -> Input:
    """What `name` is: `-`, a folder, a question file or an image. Raises InputError if nothing.

    `question` is asked about every image of a folder, and of rows that ask nothing.
    """
    if name == "-":
        return Input(name, None, "jsonl", question)
    path = Path(name)
    if not path.exists():
        around = [entry.name for entry in _listed(path.parent)]
        raise InputError(
            f"There is no file or folder '{name}'.{did_you_mean(path.name, around)} "
            "Give a questions.jsonl, a folder of images, an image, or - for standard input."
        )
    if path.is_dir():
        if (path / "metadata.jsonl").is_file():
            return Input(name, path / "metadata.jsonl", "jsonl", question or CAPTION)
        if next(images_in(path, Counter()), None) is None:
            raise InputError(f"The folder '{name}' holds no images ({' '.join(sorted(IMAGES))}).")
        return Input(name, path, "folder", question)
    suffix = path.suffix.lower()
    kinds = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".json": "json"}
    kind = kinds.get(suffix) or ("image" if suffix in IMAGES else None)
    if kind is None:
        raise InputError(
            f"'{name}' is neither a question file (.jsonl, .csv, .json) nor an image that sts "
            "knows by its name."
        )
    if not os.access(path, os.R_OK):
        raise InputError(f"'{name}' cannot be read: permission denied.")
    if kind != "image" and path.stat().st_size == 0:
        raise InputError(f"'{name}' is empty. A line looks like {{\"image\": ..., ...}}.")
    return Input(name, path, kind, question)


def images_in(folder: Path, skipped: Counter[str]) -> Iterator[str]:
    """Names of images under `folder`, relative to it, sorted, each real folder visited once.

    `skipped` comes to count what was passed over: "hidden" and "not an image".
    """
    visited: set[tuple[int, int]] = set()

    def walk(inside: Path) -> Iterator[str]:
        try:
            stat = inside.stat()
        except OSError:
            return
        if (stat.st_dev, stat.st_ino) in visited:
            return
        visited.add((stat.st_dev, stat.st_ino))
        for entry in _listed(inside):
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif entry.is_dir():
                yield from walk(Path(entry.path))
            elif Path(entry.name).suffix.lower() in IMAGES:
                yield os.path.relpath(entry.path, folder)
            else:
                skipped["not an image"] += 1

    return walk(folder)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _lines(file: BinaryIO, folder: Path, question: str | None) -> Iterator[Item]:
    """Items of JSON lines; blank lines are passed over, a byte order mark is too."""
    number = 0
    while True:
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            yield invalid(number, folder, f"longer than {LONGEST_LINE >> 20} MiB")
            continue
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield _asked(item_of_line(line, number, folder), question)


def _asked(item: Item, question: str | None) -> Item:
    """The item with a default question, where asking nothing was its only problem."""
    if question and item.images and item.problem and 'no "question"' in item.problem.message:
        return replace(item, question=question, problem=None)
    return item


def _csv(path: Path, question: str | None) -> Iterator[Item]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows: Iterable[dict[str | Any, Any]] = csv.DictReader(file)
        number = 1
        try:
            for number, row in enumerate(rows, 2):
                plain = {
                    key: value for key, value in row.items() if key and value not in (None, "")
                }
                yield _asked(item_of(plain, number, path.parent), question)
        except csv.Error as error:
            yield invalid(number + 1, path.parent, f"not valid CSV ({error})")


def _vqa(path: Path) -> Iterator[Item]:
    """A VQAv2 question file, or a JSON list of rows. Read whole: it is one JSON value."""
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not valid JSON ({error}).") from error
    rows = data.get("questions") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise InputError(f"'{path}' holds no list of questions.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            yield invalid(number, path.parent, "not a JSON object")
            continue
        if "image_id" in row and not any(key in row for key in ("image", "image_path")):
            split = data.get("data_subtype", "val2014") if isinstance(data, dict) else "val2014"
            row = {**row, "image": f"COCO_{split}_{int(row['image_id']):012d}.jpg"}
        yield item_of(row, number, path.parent)
