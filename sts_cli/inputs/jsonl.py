"""Question files with one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from sts_cli.inputs.lines import LONGEST_LINE, read_lines
from sts_cli.inputs.rows import Origin, invalid, item_of
from sts_cli.records import Item


def read_jsonl(file: BinaryIO, origin: Origin) -> Iterator[Item]:
    """One item for each line that is not blank, whatever stands in it."""
    for number, line in read_lines(file):
        if line is None:
            size = f"longer than {LONGEST_LINE >> 20} MiB"
            yield invalid(number, origin, f"the line is {size}, the most that sts reads.")
        else:
            yield read_line(line, number, origin)


def read_line(line: bytes, number: int, origin: Origin) -> Item:
    """The item of one line; a line that is not JSON becomes an item with that problem."""
    if line.startswith((b"#", b"//")):
        return invalid(number, origin, "a comment; JSON Lines files have none. Delete the line.")
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=lambda name: None)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text (byte {error.start + 1}); save the file as UTF-8."
        return invalid(number, origin, reason)
    except RecursionError:
        return invalid(number, origin, "not valid JSON: nested too deeply.")
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        if b"\r" in line:
            return invalid(number, origin, "lines end in CR alone; save the file with LF or CR LF.")
        return invalid(number, origin, f"not valid JSON: {str(error)[:200]}.")
    return item_of(row, number, origin)
