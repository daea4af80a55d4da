"""A table with a header: one row per answer, one column per figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from sts_cli.inputs.cells import cells_of, guarded, unguarded
from sts_cli.outputs.formats import StoredRecord
from sts_cli.outputs.keys import cell, images_of, key
from sts_cli.records import Answer, Item, answer_row

CERTAINTY = ("probability", "margin")
TOKENS = ("visual", "structure", "semantics", "left", "average", "text", "generated")
SECONDS = ("image", "encode", "select", "prefill", "decode", "first_token", "total")
COLUMNS = (
    *("id", "image", "question", "answer", "error", "message", "model", "profile", "escalated"),
    *(f"certainty_{name}" for name in CERTAINTY),
    *(f"tokens_{name}" for name in TOKENS),
    *(f"seconds_{name}" for name in SECONDS),
    *("rows", "finish", "expected", "extra"),
    *("full_answer", "agree", "similarity", "speedup_prefill", "speedup_total"),
)


class Table:
    """Comma-separated values; lists in a cell are JSON. CR LF only ends records.

    Text that a spreadsheet would read as a formula gets an apostrophe in front.
    """

    name = "csv"
    closing = b""
    by_id = False

    def before(self, first: bool) -> bytes:
        return encoded(list(COLUMNS)) if first else b""

    def record(self, answer: Answer) -> bytes:
        row = cells(answer_row(answer))
        return encoded([row.get(name) for name in COLUMNS])

    def row_of(self, record: bytes) -> dict[str, Any]:
        return row_of(columns(record))

    def key(self, item: Item) -> int:
        images = item.labels[0] if len(item.labels) == 1 else list(item.labels)
        return key(plain(item.id), plain(cell(images)), plain(item.question))

    def begins(self, torn: bytes) -> bool:
        return True  # the header came before; `read` refuses files without it

    def read(self, file: BinaryIO) -> Iterator[StoredRecord | bytes]:
        start, header = 0, self.before(first=True)
        for record in records(file):
            if start > 0:
                yield stored_record(record, start, start + len(record)) or record
            elif not header.startswith(record):
                raise ValueError("its columns are not those that sts writes")
            start += len(record)


def cells(row: dict[str, Any]) -> dict[str, Any]:
    """An output row without nesting."""
    error = row["error"] or {}
    full, speedup = row.get("full") or {}, row.get("speedup") or {}
    return {
        **{name: row[name] for name in ("id", "question", "answer", "model", "profile")},
        **{name: row[name] for name in ("escalated", "finish")},
        "image": cell(images_of(row)),
        "error": error.get("kind"),
        "message": error.get("message"),
        **{f"certainty_{name}": (row["certainty"] or {}).get(name) for name in CERTAINTY},
        **{f"tokens_{name}": cell_of((row["tokens"] or {}).get(name)) for name in TOKENS},
        **{f"seconds_{name}": (row["seconds"] or {}).get(name) for name in SECONDS},
        "rows": row["rows"],
        "expected": json.dumps(row["expected"]) if "expected" in row else None,
        "extra": json.dumps(row["extra"]) if row["extra"] else None,
        "full_answer": full.get("answer"),
        "agree": row.get("agree"),
        "similarity": row.get("similarity"),
        "speedup_prefill": speedup.get("prefill"),
        "speedup_total": speedup.get("total"),
    }


def cell_of(value: Any) -> Any:
    """A figure unchanged; a list as JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def plain(text: str) -> str:
    """Line breaks as LF, so that CR LF only ends records."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encoded(row: list[Any]) -> bytes:
    line = io.StringIO(newline="")
    values = (guarded(plain(value)) if isinstance(value, str) else value for value in row)
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().encode()


def records(file: BinaryIO) -> Iterator[bytes]:
    """The records of a table as bytes; the last may be incomplete."""
    lines: list[bytes] = []
    for line in file:
        lines.append(line)
        if line.endswith(b"\r\n"):
            yield b"".join(lines)
            lines.clear()
    if lines:
        yield b"".join(lines)


def stored_record(record: bytes, start: int, end: int) -> StoredRecord | None:
    try:
        row = columns(record)
    except ValueError:
        return None
    if not record.endswith(b"\r\n"):
        return None
    row_key = key(row["id"], row["image"], row["question"])
    agree = {"True": True, "False": False}.get(row["agree"])
    return StoredRecord(start, end, row_key, row["error"] != "", row["model"], agree)


def columns(record: bytes) -> dict[str, str]:
    """The cells of a record by their columns. Raises ValueError for another number of them."""
    values = cells_of(record.decode().removesuffix("\r\n"), ",")
    return dict(zip(COLUMNS, map(unguarded, values), strict=True))


def row_of(row: dict[str, str]) -> dict[str, Any]:
    """The output row that `cells` made flat; figures that no report shows are left out."""
    failed, compared = row["error"] != "", row["agree"] != ""
    tokens = {name: row[f"tokens_{name}"] for name in ("visual", "left", "average")}
    return {
        **{name: row[name] for name in ("id", "question", "model", "profile")},
        "answer": None if failed else row["answer"],
        "image": None,
        "images": listed(row["image"]),
        "error": {"kind": row["error"], "message": row["message"]} if failed else None,
        "tokens": None if failed else {name: json.loads(text) for name, text in tokens.items()},
        "seconds": None if failed else {one: float(row[f"seconds_{one}"]) for one in SECONDS},
        "expected": json.loads(row["expected"]) if row["expected"] else [],
        "extra": json.loads(row["extra"]) if row["extra"] else {},
        **(compared_of(row) if compared else {}),
    }


def listed(cell: str) -> list[str]:
    """The images in a cell: a list as JSON, null, or one name."""
    try:
        value = json.loads(cell)
    except ValueError:
        return [cell]
    return value if isinstance(value, list) else [] if value is None else [cell]


def compared_of(row: dict[str, str]) -> dict[str, Any]:
    """The part of an output row about the unpruned answer."""
    return {
        "full": {"answer": row["full_answer"]},
        "agree": row["agree"] == "True",
        "speedup": {name: float(row[f"speedup_{name}"]) for name in ("prefill", "total")},
    }
