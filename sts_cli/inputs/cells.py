"""Records of comma-separated text, strictly: no quote is guessed at, so no row is lost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_RECORD = 64 << 20  # characters; as long as a line of JSON may be
QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"')
# A spreadsheet runs a cell that begins so, unless it is a number. An apostrophe before it makes it
# text; so does one before the apostrophes of a text that looks like that already.
FORMULA = re.compile(r"'*[=+\-@\t\n]")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


class StrayQuote(ValueError):
    """A quote that neither begins nor ends a cell, or a cell's quote that is not closed."""

    def __init__(self, at: int):
        super().__init__(at)
        self.at = at  # where in the record the quote opens


def records_of(
    lines: Iterable[tuple[int, str]], longest: int = LONGEST_RECORD
) -> Iterator[tuple[int, str]]:
    """Number of the first line, and text, of each record; a quoted cell may have line ends in it.

    Well-formed text has an even number of quotes at the end of each record, and nowhere else at
    the end of a line. A record that never comes to its end comes out as far as it was read, no
    further than `longest`: `cells_of` finds the quote at fault in it.
    """
    parts: list[str] = []
    first, size, opened = 0, 0, False
    for number, line in lines:
        first = first if parts else number
        parts.append(line)
        size += len(line)
        opened ^= line.count('"') % 2 == 1
        if not opened or size > longest:
            yield first, "".join(parts)
            parts, size, opened = [], 0, False
    if parts:
        yield first, "".join(parts)


def cells_of(record: str, delimiter: str) -> list[str]:
    """The cells of a record without its line end. Raises StrayQuote.

    Unlike the csv module this knows no largest cell, a limit that is set for a whole process.
    """
    if '"' not in record:
        return record.split(delimiter)
    cells = []
    at = 0
    while True:
        quoted = QUOTED.match(record, at)
        if quoted:
            end = quoted.end()
            cells.append(quoted[1].replace('""', '"'))
        else:
            end = record.find(delimiter, at)
            end = len(record) if end < 0 else end
            if '"' in record[at:end]:
                raise StrayQuote(record.index('"', at))
            cells.append(record[at:end])
        if end == len(record):
            return cells
        if record[end] != delimiter:
            raise StrayQuote(at)
        at = end + 1


def guarded(text: str) -> str:
    """A text as a cell that no spreadsheet runs."""
    runs = FORMULA.match(text) and not NUMBER.fullmatch(text)
    return f"'{text}" if runs else text


def unguarded(cell: str) -> str:
    """The text that `guarded` made a cell of."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
