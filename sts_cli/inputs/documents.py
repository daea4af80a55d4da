"""Question files that are one JSON document: VQAv2's questions, or a list of rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sts_cli.errors import InputError
from sts_cli.inputs.lines import read_lines
from sts_cli.inputs.requests import is_request
from sts_cli.inputs.rows import EXAMPLE, IMAGE, Origin, item_of
from sts_cli.inputs.survey import Survey
from sts_cli.records import Item

LARGEST_DOCUMENT = 1 << 30  # bytes; it is read as a whole, unlike JSON lines


def is_json_lines(path: Path) -> bool:
    """True if a file named .json holds one row a line, as POPE's do."""
    with path.open("rb") as file:
        _, line = next(read_lines(file), (0, None))
        more = bool(file.read(1))
    try:
        row = json.loads(line or b"null")
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "questions" not in row and (more or is_row(row))


def is_row(row: dict[str, Any]) -> bool:
    return is_request(row) or any(key in row for key in IMAGE)


def read_document(path: Path, origin: Origin) -> tuple[Survey, Callable[[], Iterator[Item]]]:
    """Read a document as a whole; its items, numbered from 1, come again at each call."""
    if path.stat().st_size > LARGEST_DOCUMENT:
        raise InputError(f"{origin.name} is larger than 1 GiB; use JSON lines such as {EXAMPLE}")
    try:
        content = path.read_bytes()
        data = json.loads(content, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin.name} is not valid JSON: {str(error)[:200]}.") from error
    rows = data.get("questions") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise InputError(
            f"{origin.name} is neither a list of rows nor VQAv2's {{'questions': [...]}}. "
            f"A row looks like {EXAMPLE}"
        )
    template = coco_name(data) if isinstance(data, dict) else None

    def items() -> Iterator[Item]:
        for number, row in enumerate(rows, 1):
            if template and isinstance(row, dict) and not any(key in row for key in IMAGE):
                row = {**row, "image": template.format(row.get("image_id"))}
                if isinstance(row.get("image_id"), int):
                    row["image"] = template.format(f"{row['image_id']:012d}")
            yield item_of(row, number, origin)

    return Survey(len(rows), hashlib.sha256(content).hexdigest()), items


def coco_name(data: dict[str, Any]) -> str:
    """The pattern of image names in a VQAv2 file, such as COCO_val2014_000000000042.jpg."""
    subtype = data.get("data_subtype")
    if isinstance(subtype, str) and subtype:
        return f"COCO_{subtype.replace('{', '').replace('}', '')}_{{}}.jpg"
    return "{}.jpg"
