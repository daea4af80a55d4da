"""The formats of output files: an answer becomes a record, and records are read again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sts_cli.errors import OutputError, did_you_mean
from sts_cli.machine.packages import missing, to_add
from sts_cli.records import Answer, Item

NAMES = ("llava", "openai-batch", "vqav2")
LINES = (".jsonl", ".ndjson")
ENDINGS = {
    "jsonl": LINES,
    "csv": (".csv",),
    "parquet": (".parquet",),
    "llava": LINES,
    "openai-batch": LINES,
    "vqav2": (".json", *LINES),
}


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A whole record in an output file: its bytes [start, end), and the key of its row."""

    start: int
    end: int
    key: int
    failed: bool
    model: str | None = None  # None if the format has no model
    agree: bool | None = None  # with the unpruned answer, if there is one


class Format(Protocol):
    """One kind of output file: records with separators before and after them."""

    name: str
    closing: bytes  # follows the last record of a finished file
    by_id: bool  # True if records identify their row by its id alone

    def before(self, first: bool) -> bytes:
        """The bytes before a record: the first of its file, or a later one."""
        ...

    def record(self, answer: Answer) -> bytes: ...

    def row_of(self, record: bytes) -> dict[str, Any]:
        """The row of docs/formats.md in a whole record, as far as the format holds it."""
        ...

    def key(self, item: Item) -> int:
        """The number that identifies the item's record."""
        ...

    def begins(self, torn: bytes) -> bool:
        """True if these bytes are the beginning of a record."""
        ...

    def read(self, file: BinaryIO) -> Iterator[StoredRecord | bytes]:
        """The records of a file, in order; the bytes themselves if they are no whole record."""
        ...


def format_of(out: Path | None, name: str | None) -> Format:
    """The format that --format names, or else that of the output file's ending."""
    suffix = ".jsonl" if out is None else out.suffix.lower()
    plain = {".csv": "csv", ".parquet": "parquet"}
    if name is not None and name not in NAMES:
        raise OutputError(
            f"--format {name} is unknown. Known: {', '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        )
    if suffix not in (".jsonl", ".ndjson", *((".json",) if name == "vqav2" else plain)):
        ends = ".json or .jsonl" if name == "vqav2" else ".jsonl, .csv or .parquet"
        raise OutputError(f"--out {out}: the name must end in {ends}.")
    if name is not None and suffix in plain:
        raise OutputError(f"--format {name} writes JSON: --out must end in .jsonl.")
    if out is not None and suffix == ".parquet":
        check_library(out)
    return format_named(name or plain.get(suffix, "jsonl"))


def check_library(path: Path) -> None:
    """Raise OutputError if pyarrow is not installed."""
    if missing("parquet"):
        raise OutputError(f"{path} needs pyarrow; run: {to_add('parquet')}")


def format_named(name: str) -> Format:
    """The format of a name in a run's settings."""
    from sts_cli.outputs import csv, jsonl, packed, vqav2

    formats: dict[str, type[Format]] = {
        "jsonl": jsonl.JsonLines,
        "csv": csv.Table,
        "parquet": packed.Rows,
        "llava": jsonl.Llava,
        "openai-batch": jsonl.OpenAI,
        "vqav2": vqav2.Results,
    }
    return formats[name]()
