"""Question files as comma-separated tables with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from sts_cli.errors import InputError
from sts_cli.inputs.rows import EXAMPLE, IMAGE, Origin, invalid, item_of
from sts_cli.records import Item

LARGEST_CELL = 8 << 20  # characters


def read_table(path: Path, origin: Origin) -> Iterator[Item]:
    """One item for each row under the header; the columns are named as the keys of JSON rows."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(LARGEST_CELL)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        header = next(rows, [])
        if not any(name in header for name in IMAGE):
            raise InputError(
                f"{origin.name}: the first line names no column 'image'. It must be a header such "
                f"as id,image,question; or use JSON lines such as {EXAMPLE}"
            )
        while True:
            try:
                cells = next(rows, None)
            except csv.Error as error:
                yield invalid(rows.line_num, origin, f"not a row of the table: {error}.")
                continue
            if cells is None:
                return
            if not any(cells):
                continue
            if len(cells) != len(header):
                reason = f"{len(cells)} cells, but the header has {len(header)}."
                yield invalid(rows.line_num, origin, reason)
                continue
            row = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
            yield item_of(row, rows.line_num, origin)
