"""The formats of an output file: how an answer becomes a record, and how records are read back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from sts_cli.errors import OutputError, did_you_mean
from sts_cli.records import Answer, Item

NAMES = ("llava", "openai-batch", "vqav2")


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole record of an output file: its bytes [start, end), and whose answer it is."""

    start: int
    end: int
    key: int
    failed: bool
    model: str | None = None  # None where the format does not say
    agree: bool | None = None  # with the unpruned answer, where there is one


class Format(Protocol):
    """One kind of output file: records that follow each other, each behind what parts it."""

    name: str
    closing: bytes  # what stands behind the last record of a finished file
    by_id: bool  # whether records name nothing but the id of their row

    def before(self, first: bool) -> bytes:
        """What stands before a record: the first of its file, or a later one."""
        ...

    def record(self, answer: Answer) -> bytes: ...

    def key(self, item: Item) -> int:
        """What tells the item's record from others."""
        ...

    def begins(self, torn: bytes) -> bool:
        """Whether bytes that are no whole record are the beginning of one."""
        ...

    def read(self, file: BinaryIO) -> Iterator[Kept | bytes]:
        """The records of a file, in order; the bytes of what is no whole record."""
        ...


def format_of(out: Path | None, name: str | None) -> Format:
    """The format that --format names, else the one that the output file's name ends in."""
    suffix = ".jsonl" if out is None else out.suffix.lower()
    if name is not None and name not in NAMES:
        raise OutputError(
            f"--format {name}: known are {', '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        )
    if suffix not in (".jsonl", ".ndjson", ".json" if name == "vqav2" else ".csv"):
        ends = ".json or .jsonl" if name == "vqav2" else ".jsonl or .csv"
        raise OutputError(f"--out {out}: the name must end in {ends}.")
    if name is not None and suffix == ".csv":
        raise OutputError(f"--format {name} writes JSON: --out must end in .jsonl.")
    return format_named(name or ("csv" if suffix == ".csv" else "jsonl"))


def format_named(name: str) -> Format:
    """The format of this name, which a run's settings keep."""
    from sts_cli.outputs import csv, jsonl, vqav2

    formats: dict[str, type[Format]] = {
        "jsonl": jsonl.Rows,
        "csv": csv.Table,
        "llava": jsonl.Llava,
        "openai-batch": jsonl.OpenAI,
        "vqav2": vqav2.Results,
    }
    return formats[name]()
