"""Lines of a file that anybody may have written, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

LONGEST_LINE = 64 << 20  # bytes; a row with images inside it can be large
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Lines(Protocol):
    """Anything that is read line by line."""

    def readline(self, longest: int, /) -> bytes: ...


def read_lines(file: Lines, longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes | None]]:
    """Number, from 1, and content of each line that is not blank; None for one that is too long.

    A byte order mark is taken off, and LF or CR LF at the ends of lines.
    """
    number = 0
    while line := file.readline(longest):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.endswith(b"\n") and len(line) == longest:
            while (rest := file.readline(longest)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif line := line.strip():
            yield number, line
