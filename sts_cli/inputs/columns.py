"""Parquet and Arrow files, read by pyarrow (the extra `parquet`) a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sts_cli.errors import InputError
from sts_cli.inputs.answers import is_answer
from sts_cli.inputs.forms import IMAGE
from sts_cli.inputs.mmmu import NUMBERED
from sts_cli.inputs.rows import Origin, item_of
from sts_cli.inputs.survey import Contents, Survey, survey
from sts_cli.machine.packages import missing, to_add
from sts_cli.records import Item, printable

AT_ONCE = 16  # rows; with their images in them
NAMED = (*IMAGE, *NUMBERED)
IMAGES = (*NAMED, "imgname", "imageId", "image_id", "image_local_name", "body")


def open_columns(path: Path, name: str) -> Contents:
    """Rows and bytes counted, and the items. Raises InputError, also without pyarrow."""
    if missing("parquet"):
        raise InputError(f"{name} needs pyarrow; run: {to_add('parquet')}")
    rows = partial(rows_of, path, name)
    first = next(rows(), None)
    if first is not None and not any(key in first for key in IMAGES):
        shown = ", ".join(printable(key)[:30] for key in list(first)[:8])
        raise InputError(f"{name} has no column of images; its columns are {shown}.")
    hashed = survey(path, lambda file: iter(partial(file.read, 1 << 20), b""))
    counted = Survey(sum(len(batch) for batch in batches(path, name, counting=True)), hashed.sha256)

    def items(origin: Origin) -> Iterator[Item]:
        return (item_of(row, number, origin) for number, row in enumerate(rows(), 1))

    return Contents(items, lambda: counted, first)


def rows_of(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows as JSON would have them."""
    for batch in batches(path, name):
        for start in range(0, len(batch), AT_ONCE):
            for row in batch.slice(start, AT_ONCE).to_pylist():
                pictures = [key for key, value in row.items() if is_picture(value)]
                if len(pictures) == 1 and not any(key in row for key in NAMED):
                    row["image"] = row.pop(pictures[0])
                cells = {key: as_json(value, key in NAMED) for key, value in row.items()}
                yield with_extra(cells) if is_answer(cells) else cells


def with_extra(row: dict[str, Any]) -> dict[str, Any]:
    """A row of our answers, whose unknown keys are JSON in its cell `extra`."""
    try:
        return {**row, "extra": json.loads(row.get("extra") or "{}")}
    except (ValueError, TypeError, RecursionError):
        return row


def is_picture(value: object) -> bool:
    """True for an image as `datasets` keeps it."""
    return isinstance(value, dict) and {"bytes", "path"} == value.keys()


def batches(path: Path, name: str, counting: bool = False) -> Iterator[Any]:
    """Record batches of a file, or what is as long, for counting.

    Raises InputError where it is damaged.
    """
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        with path.open("rb") as file:
            start = file.read(8)
        if start.startswith(b"PAR1"):
            with parquet.ParquetFile(path) as table:
                if counting:
                    yield range(table.metadata.num_rows)
                else:
                    yield from table.iter_batches(batch_size=AT_ONCE)
            return
        with pyarrow.memory_map(str(path)) as source:
            if start.startswith(b"ARROW1"):
                table = ipc.open_file(source)
                yield from (table.get_batch(n) for n in range(table.num_record_batches))
            else:  # as `datasets` keeps its tables
                yield from ipc.open_stream(source)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = printable(str(error).splitlines()[0][:150]) if str(error) else "damaged"
        raise InputError(f"{name} is no Parquet or Arrow file, or damaged: {reason}.") from error


def as_json(value: Any, image: bool = False) -> Any:
    """A cell as JSON would have it; the bytes of an image stay for `image` columns."""
    if isinstance(value, bytes):
        return value if image else f"({len(value):,} bytes)"
    if isinstance(value, dict):
        return {str(key): as_json(inner, image) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner, image) for inner in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, (Decimal, timedelta)) else value
