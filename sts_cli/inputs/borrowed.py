"""Images that rows of a table share: the cell has another row's index, as in MMBench."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LONGEST_INDEX = 64  # characters; an image in base64 has more

Row = tuple[int, dict[str, Any] | str]  # the line that it begins in; a text says what is wrong


def noting(rows: Iterable[Row], asked: set[str]) -> Iterator[Row]:
    """The rows again; `asked` takes what their image cells have instead of images."""
    for line, row in rows:
        if isinstance(row, dict) and "index" in row and is_index(row.get("image")):
            asked.add(row["image"])
        yield line, row


def lent(rows: Iterable[Row], asked: set[str]) -> dict[str, str]:
    """The images of the rows whose indices are asked for."""
    return {
        row["index"]: row["image"]
        for _, row in rows
        if isinstance(row, dict)
        and row.get("index") in asked
        and isinstance(row.get("image"), str)
        and not is_index(row["image"])
    }


def with_image(row: dict[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    """The row with the image that its cell stands for."""
    image = row.get("image")
    found = images.get(image) if isinstance(image, str) else None
    return row if found is None else {**row, "image": found}


def is_index(cell: object) -> bool:
    return isinstance(cell, str) and len(cell) <= LONGEST_INDEX and cell.isdigit()
