"""Question files with one JSON object, or the path of one image, a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

from sts_cli.inputs.folder import is_image_name
from sts_cli.inputs.lines import LONGEST_LINE, read_lines
from sts_cli.inputs.rows import CAPTION, Origin, invalid, item_of
from sts_cli.inputs.survey import Contents, survey
from sts_cli.records import Item, printable


def read_jsonl(file: BinaryIO, origin: Origin) -> Iterator[Item]:
    """One item for each line that is not blank, whatever stands in it."""
    return items_of_lines(read_lines(file), origin)


def items_of_lines(lines: Iterable[tuple[int, bytes | None]], origin: Origin) -> Iterator[Item]:
    """One item for each line, by its number; None is a line that is too long."""
    for number, line in lines:
        if line is None:
            yield too_long(number, origin)
        elif is_image_path(line):
            yield named_image(line, number, origin)
        else:
            yield read_line(line, number, origin)


def open_lines(path: Path, name: str) -> Contents:
    """A file of JSON lines; `survey` counts and hashes them, if asked."""
    with path.open("rb") as file:
        _, line = next(read_lines(file), (0, None))
    try:
        first = json.loads(line or b"null")
    except (ValueError, RecursionError):
        first = None

    def items(origin: Origin) -> Iterator[Item]:
        with path.open("rb") as file:
            yield from read_jsonl(file, origin)

    return Contents(items, cache(partial(survey, path, read_lines)), first)


def open_list(path: Path, name: str) -> Contents:
    """A file with the path of an image in each line."""

    def items(origin: Origin) -> Iterator[Item]:
        with path.open("rb") as file:
            for number, line in read_lines(file):
                yield named_image(line, number, origin) if line else too_long(number, origin)

    return Contents(items, cache(partial(survey, path, read_lines)))


def named_image(line: bytes, number: int, origin: Origin) -> Item:
    """The item of a line that is the path of an image: one question, or what the image shows."""
    name = os.fsdecode(line)
    row = {"image": name, "question": origin.question or CAPTION}
    return replace(item_of(row, number, origin), id=printable(name))


def is_image_path(line: bytes) -> bool:
    return not line.startswith((b"{", b"[", b'"')) and is_image_name(os.fsdecode(line))


def too_long(number: int, origin: Origin) -> Item:
    size = f"longer than {LONGEST_LINE >> 20} MiB"
    return invalid(number, origin, f"the line is {size}, the most that sts reads.")


def read_line(line: bytes, number: int, origin: Origin) -> Item:
    """The item of one line; a line that is not JSON becomes an item with that problem."""
    if line.startswith((b"#", b"//")):
        return invalid(number, origin, "a comment; JSON Lines files have none. Delete the line.")
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=lambda name: None)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text (byte {error.start + 1}); save the file as UTF-8."
        return invalid(number, origin, reason)
    except RecursionError:
        return invalid(number, origin, "not valid JSON: nested too deeply.")
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        if b"\r" in line:
            return invalid(number, origin, "lines end in CR alone; save the file with LF or CR LF.")
        slashes = " In JSON a path of Windows has '/' or '\\\\' between its folders."
        hint = slashes if "escape" in str(error) else ""
        return invalid(number, origin, f"not valid JSON: {str(error)[:200]}.{hint}")
    return item_of(row, number, origin)
