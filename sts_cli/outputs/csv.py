"""Answers as comma-separated values. Records end in CR LF; line breaks inside fields are LF."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sts_cli.records import Answer, answer_row

COLUMNS = (
    *("id", "image", "question", "answer", "model", "profile"),
    *("visual", "structure", "semantics", "average", "generated", "seconds", "rows", "finish"),
    *("error", "message", "full_answer", "agree", "speedup"),
)
END = b"\r\n"


def _line(fields: Iterable[Any]) -> bytes:
    text = io.StringIO(newline="")
    clean = ("" if field is None else str(field).replace("\r\n", "\n") for field in fields)
    csv.writer(text).writerow(field.replace("\r", "\n") for field in clean)
    return text.getvalue().encode("utf-8", "backslashreplace")


HEADER = _line(COLUMNS)


def encode(answer: Answer) -> bytes:
    """One record with the columns of COLUMNS."""
    row = answer_row(answer)
    tokens, error, full = row["tokens"] or {}, row["error"] or {}, row.get("full") or {}
    images = row["image"] if isinstance(row["image"], list) else [row["image"]]
    return _line(
        (
            row["id"],
            "; ".join(image for image in images if image),
            row["question"],
            row["answer"],
            row["model"],
            row["profile"],
            *(tokens.get(k) for k in ("visual", "structure", "semantics", "average", "generated")),
            (row["seconds"] or {}).get("total"),
            row["rows"],
            row["finish"],
            error.get("kind"),
            error.get("message"),
            full.get("answer"),
            row.get("agree"),
            (row.get("speedup") or {}).get("total"),
        )
    )


def finished(path: Path) -> Iterator[tuple[str, bool]]:
    """The id of every record in the file, and whether it was answered. Raises ValueError."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is not None and tuple(reader.fieldnames) != COLUMNS:
            raise ValueError("its columns are not those that sts writes")
        for row in reader:
            yield row["id"], not row["error"]


def answered_only(path: Path) -> Iterator[bytes]:
    """The file's records without those that have an error, header first."""
    with path.open(newline="", encoding="utf-8") as file:
        yield HEADER
        for row in csv.DictReader(file):
            if not row["error"]:
                yield _line(row[column] for column in COLUMNS)
