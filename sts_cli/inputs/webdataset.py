"""WebDataset: a tar whose neighbouring files of one name are a row. Nothing is extracted."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from sts_cli.errors import InputError
from sts_cli.inputs.folder import is_image_name
from sts_cli.inputs.lines import LONGEST_LINE
from sts_cli.inputs.picture import LARGEST_FILE
from sts_cli.inputs.rows import Origin, invalid, item_of
from sts_cli.inputs.survey import Contents, survey
from sts_cli.records import Item, printable

TEXTS = {"txt": "caption", "caption": "caption", "question": "question", "answer": "answer"}
LARGEST_ROW = 4 * LARGEST_FILE  # bytes of all its files together

Row = dict[str, Any] | str  # a text says what is wrong


def open_tar(path: Path, name: str) -> Contents:
    """Rows counted, and the items, in the order of the tar. Raises InputError."""
    surveyed = survey(path, lambda file: rows_in(file, name, read=False))

    def rows() -> Iterator[Row]:
        with path.open("rb") as file:
            yield from rows_in(file, name)

    def items(origin: Origin) -> Iterator[Item]:
        for number, row in enumerate(rows(), 1):
            if isinstance(row, str):
                yield invalid(number, origin, row)
            else:
                yield item_of(row, number, origin)

    return Contents(items, lambda: surveyed, next(rows(), None), "WebDataset")


def rows_in(file: io.BufferedReader, name: str, read: bool = True) -> Iterator[Row]:
    """The rows of a tar, as a stream; without `read`, empty ones to count. Raises InputError."""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for key, members in groupby(files_of(tar), lambda member: split(member.name)[0]):
                yield row_of(key, members, tar) if read else {}
        while file.read(1 << 20):  # what follows the end of the tar counts for its digest
            pass
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = printable(str(error).partition("\n")[0][:150])
        raise InputError(f"{name} is no tar file, or damaged: {reason}.") from error


def files_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar that are not hidden; links and devices are passed over."""
    for member in tar:
        if member.isreg() and is_shown(member.name):
            yield member
        tar.members = []  # type: ignore[attr-defined]  # else it keeps the names of millions


def is_shown(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/") if part not in (".", ".."))


def split(name: str) -> tuple[str, str]:
    """The key of a file, and its ending: of a/b.left.jpg they are a/b and left.jpg."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def row_of(key: str, members: Iterator[tarfile.TarInfo], tar: tarfile.TarFile) -> Row:
    """A row of the files of one key: images, texts, and the fields of its JSON."""
    row: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    images: list[bytes] = []
    size = 0
    for member in members:
        ending = split(member.name)[1]
        last = ending.rpartition(".")[2]
        image = is_image_name(f"x.{last}")
        if not image and last not in (*TEXTS, "json", "cls"):
            row.setdefault("files", []).append(ending)
            continue
        size += member.size
        if member.size > (LARGEST_FILE if image else LONGEST_LINE) or size > LARGEST_ROW:
            return f"{printable(member.name)[:100]} has {member.size:,} bytes, too many to read."
        opened = tar.extractfile(member)
        content = b"" if opened is None else opened.read()
        if image:
            images.append(content)
            continue
        try:
            text = content.decode("utf-8-sig")
            if last == "json":
                found = json.loads(text, parse_constant=lambda name: None)
                fields = found if isinstance(found, dict) else {"json": found}
                continue
        except (ValueError, RecursionError) as error:
            return f"{printable(member.name)[:100]} cannot be read: {str(error)[:100]}."
        known = ending.partition(".")[0] if ending.endswith(".txt") else last
        row["label" if last == "cls" else TEXTS.get(known, known)] = text.strip()
    named = {} if any(name in fields for name in ("id", "question_id")) else {"id": key}
    held = {"image": images if len(images) > 1 else images[0]} if images else {}
    return {**row, **fields, **named, **held}
