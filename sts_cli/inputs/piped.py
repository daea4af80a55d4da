"""Standard input: JSON lines, or paths of images, as another program writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO

from sts_cli.errors import InputError
from sts_cli.inputs.forms import form_of
from sts_cli.inputs.jsonl import items_of_lines, named_image, too_long
from sts_cli.inputs.lines import LONGEST_LINE, UTF16, read_lines
from sts_cli.inputs.rows import EXAMPLE, Origin
from sts_cli.records import Item

AT_ONCE = 1 << 16  # bytes


class Ahead:
    """A stream, whose beginning was looked at before it is read. Never waits for more than a line.

    Reading after a look at a terminal's or a pipe's first line gets that line at once.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._head = b""  # what was looked at and not read

    def ends_with_null(self) -> bool:
        """True if a null byte ends each name, as `find -print0` writes them."""
        while not (b"\n" in self._head or b"\0" in self._head or len(self._head) > LONGEST_LINE):
            part = self._read()
            if not part:
                break
            self._head += part
        return b"\0" in self._head and not self._head.lstrip().startswith((b"{", *UTF16))

    def readline(self, longest: int) -> bytes:
        if not self._head:
            return self._stream.readline(longest)
        line, end, rest = self._head[:longest].partition(b"\n")
        line += end
        self._head = self._head[len(line) :]
        if end or len(line) == longest:
            return line
        return line + self._stream.readline(longest - len(line))

    def names(self) -> Iterator[bytes | None]:
        """What stands before each null byte; None for what is too long."""
        rest, skipping = b"", False
        for part in chain([self._head], iter(self._read, b"")):
            *whole, rest = (rest + part).split(b"\0")
            for name in whole:
                if name or skipping:
                    yield None if skipping else name
                skipping = False
            if len(rest) > LONGEST_LINE:
                rest, skipping = b"", True
        if rest or skipping:
            yield None if skipping else rest

    def _read(self) -> bytes:
        """Some bytes, as soon as there are any; none at the end."""
        return self._stream.read1(AT_ONCE)  # type: ignore[attr-defined,no-any-return]


def read_piped(stream: BinaryIO, origin: Origin, tell: Callable[[str], None]) -> Iterator[Item]:
    """The items of a stream; `tell` gets the form of its first row, if that is not ours.

    Paths of images stand in lines, or a null byte ends each. Raises InputError if there is none.
    """
    items = items_in(Ahead(stream), origin, tell)
    first = next(items, None)
    if first is None:
        raise InputError(f"standard input is empty. A line looks like {EXAMPLE}")
    yield first
    yield from items


def items_in(file: Ahead, origin: Origin, tell: Callable[[str], None]) -> Iterator[Item]:
    if file.ends_with_null():
        for number, name in enumerate(file.names(), 1):
            yield too_long(number, origin) if name is None else named_image(name, number, origin)
        return
    lines = read_lines(file)
    first = next(lines, None)
    if first is None:
        return
    form = form_of(row_in(first[1]))
    if form is not None:
        tell(form.name)
    yield from items_of_lines(chain([first], lines), origin)


def row_in(line: bytes | None) -> object:
    """The row in a line; None if there is none."""
    try:
        return json.loads(line or b"null")
    except (ValueError, RecursionError):
        return None
