"""Question files as tables with a header: comma-separated, or one row a line with tabs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from sts_cli.errors import InputError
from sts_cli.inputs.answers import fields_of_answer, is_answer
from sts_cli.inputs.borrowed import Row, lent, noting, with_image
from sts_cli.inputs.cells import LONGEST_RECORD, StrayQuote, cells_of, records_of, unguarded
from sts_cli.inputs.lines import UTF16
from sts_cli.inputs.rows import (
    ANSWER,
    CAPTIONS,
    EXAMPLE,
    ID,
    IMAGE,
    LABEL,
    QUESTION,
    Origin,
    invalid,
    item_of,
)
from sts_cli.inputs.survey import Contents, survey
from sts_cli.records import Item, printable

KNOWN = {*ID, *IMAGE, *QUESTION, *ANSWER, *CAPTIONS, LABEL}
# Columns whose cells may be JSON lists.
LISTS = (*IMAGE, "expected", "answers", "choices", "options", "image_at")


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of table, and the way it parts its cells."""

    quoting: bool
    delimiters: str
    cells: Callable[[str, str], list[str]]
    example: str  # of a header


COMMAS = Layout(True, ",;\t", cells_of, "id,image,question")
TABS = Layout(False, "\t", str.split, "id, image and question with tabs between them")


def open_table(path: Path, name: str) -> Contents:
    """Read a whole table. Raises InputError where one of its rows cannot be told from others."""
    asked: set[str] = set()
    read = partial(rows_of, name=name, layout=layout_of(path))
    surveyed = survey(path, lambda file: noting(read(file), asked))
    images: dict[str, str] = {}
    if asked:
        with path.open("rb") as file:
            images = lent(read(file), asked)

    def rows() -> Iterator[Row]:
        with path.open("rb") as file:
            for line, row in read(file):
                yield line, row if isinstance(row, str) else with_image(row, images)

    def items(origin: Origin) -> Iterator[Item]:
        for line, row in rows():
            yield invalid(line, origin, row) if isinstance(row, str) else item_of(row, line, origin)

    return Contents(items, lambda: surveyed, next(rows(), (1, None))[1])


def layout_of(path: Path) -> Layout:
    return TABS if path.suffix.lower() == ".tsv" else COMMAS


def rows_of(file: BufferedReader, name: str, layout: Layout) -> Iterator[Row]:
    """The rows under the header, as a stream. Raises InputError."""
    encoding = "utf-16" if file.peek(2).startswith(UTF16) else "utf-8-sig"
    with TextIOWrapper(file, encoding, "surrogateescape") as decoded:  # any line ends
        lines = lines_of(decoded, name)
        records = records_of(lines) if layout.quoting else lines
        full = ((line, record.rstrip("\n")) for line, record in records if record.strip())
        line, header = next(full, (1, ""))
        if not header:
            return
        delimiter, columns = columns_of(header, name, layout)
        answers = is_answer(columns)
        for line, record in full:
            cells = cells_at(record, delimiter, line, name, layout)
            if not any(cells):
                continue
            if len(cells) == len(columns):
                row = {key: cell for key, cell in zip(columns, cells, strict=True) if cell}
                yield line, fields_of(row, answers)
            else:
                quotes = '"' in record and not layout.quoting
                yield line, wrong_count(len(cells), len(columns), quotes)


def lines_of(file: TextIO, name: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line. Raises InputError for what is not text, or endless."""
    number = 0
    try:
        while line := file.readline(LONGEST_RECORD):
            number += 1
            if not line.isascii() and printable(line) != line:
                raise InputError(
                    f"{name}:{number} is not UTF-8 text (perhaps Windows-1252); save the file as "
                    "UTF-8, in Excel as 'CSV UTF-8'."
                )
            if len(line) == LONGEST_RECORD:
                raise InputError(
                    f"{name}:{number} is longer than {LONGEST_RECORD:,} characters, the most that "
                    "sts reads; keep images in files."
                )
            yield number, line
    except UnicodeError as error:
        raise InputError(
            f"{name} is not whole UTF-16 text (after line {number}); save the file as UTF-8."
        ) from error


def columns_of(header: str, name: str, layout: Layout) -> tuple[str, list[str]]:
    """The delimiter of a table's cells, and the names of its columns."""
    for delimiter in layout.delimiters:
        try:
            cells = layout.cells(header, delimiter)
        except StrayQuote:
            continue
        columns = [column(cell, number) for number, cell in enumerate(cells, 1)]
        if not any(key in columns for key in IMAGE):
            continue
        twice = [key for key, count in Counter(columns).items() if count > 1]
        if twice:
            raise InputError(f"{name}: the header names '{twice[0]}' twice; rename one of the two.")
        return delimiter, columns
    raise InputError(
        f"{name}: the first line names no column 'image'. It must be a header such as "
        f"{layout.example}; or use JSON lines such as {EXAMPLE}"
    )


def column(cell: str, number: int) -> str:
    """A column's name: one that sts knows in any case and with blanks, others as they stand."""
    name = cell.strip()
    plain = name.casefold().replace(" ", "_")
    return plain if plain in KNOWN else name or f"column {number}"


def cells_at(record: str, delimiter: str, line: int, name: str, layout: Layout) -> list[str]:
    """The cells of the record that begins in `line`. Raises InputError for a stray quote."""
    try:
        return layout.cells(record, delimiter)
    except StrayQuote as error:
        number = line + record.count("\n", 0, error.at)
        start = record[error.at :].partition("\n")[0][:30]
        raise InputError(
            f"{name}:{number}: the quote at {start!r} is stray or not closed, so it is not certain "
            'where rows end. Begin and end such a cell with " and write "" for each quote in it; '
            "or save the table with tabs as .tsv, where quotes are text."
        ) from error


def wrong_count(cells: int, columns: int, quotes: bool) -> str:
    hint = " Quotes in a .tsv file are plain text; if they enclose cells, name the file .csv."
    return f"{cells} cells, but the header has {columns}.{hint if quotes else ''}"


def fields_of(row: dict[str, Any], answers: bool) -> dict[str, Any]:
    """A row as JSON would have it: lists in cells are lists, and a table of answers is not flat."""
    if answers:  # as sts wrote them, so that no spreadsheet takes them for formulas
        row = {key: unguarded(cell) for key, cell in row.items()}
    for key in row.keys() & LISTS:
        row[key] = from_json(row[key], "[", list)
    if not answers:
        return row
    if row.get("image") == "null":  # of a row that named none
        del row["image"]
    return fields_of_answer({**row, "extra": from_json(row.get("extra", ""), "{", dict)})


def from_json(cell: str, start: str, kind: type) -> Any:
    """The list or object that a cell holds as JSON, or as Python writes a list; else the text."""
    if not cell.startswith(start):
        return cell
    for text in (cell, cell.replace("'", '"')):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, kind):
            return value
    return cell
