"""Blocks of rows: what one actor answers at a time, and what becomes one shard."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from sts_cli.inputs.several import open_inputs
from sts_cli.records import Item

AHEAD = 16  # blocks of rows among which those about the same images are brought together
HUGE = 4  # blocks that the questions about one image fill, before they are split
HEAVY = 32 << 20  # characters of images inside rows, at which a block is full
FEWEST, MOST = 8, 1000  # rows of a block: one batch on a CPU; minutes of work
BLOCKS = 64  # of a small input, at least, so that every actor has work to the end


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are answered together; `number` is that of their shard, from 0."""

    number: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """The input of a run, as a task on the machine of the command reads it again."""

    names: tuple[str, ...]
    question: str | None
    images: Path | None
    start: str  # the folder that the command was given in
    limit: int | None
    part: tuple[int, int]
    rows: int  # of a block, about

    def blocks(self, written: frozenset[int]) -> Iterator[Block]:
        """The blocks whose shards are not written, in the order of the input."""
        before = os.getcwd()
        os.chdir(self.start)  # names of files are relative to it; the process does nothing else
        try:
            opened = open_inputs(self.names, self.question, self.images, remote=True)
            items = (portable(item) for item in opened.items(self.limit, self.part))
            for block in in_blocks(items, self.rows):
                if block.number not in written:
                    yield block
        finally:
            os.chdir(before)


def rows_for(count: int) -> int:
    """Rows of a block, for an input of so many."""
    return min(MOST, max(FEWEST, count // BLOCKS))


def portable(item: Item) -> Item:
    """The item for a process that runs in another folder."""
    return replace(item, folder=Path(os.path.abspath(item.folder)), extra=dict(item.extra))


def in_blocks(items: Iterable[Item], rows: int) -> Iterator[Block]:
    """The items in blocks of about `rows`, those about the same images in one.

    Their order stays, but for items about images that another one within AHEAD blocks asked about:
    they move up to it. Images with more than HUGE times `rows` questions fill several blocks.
    """
    source, number = iter(items), 0
    held: tuple[Item, ...] = ()
    while True:
        new = tuple(within(source, AHEAD * rows - len(held)))
        packed = packs(together((*held, *new)), rows)
        held = packed.pop() if new else ()  # more about its last images may follow
        for pack in packed:
            yield Block(number, pack)
            number += 1
        if not new:
            return


def within(items: Iterator[Item], most: int) -> Iterator[Item]:
    """The next items: at most so many, and fewer of those that carry their images."""
    carried = 0
    for item in islice(items, most):
        yield item
        carried += weight(item)
        if carried >= AHEAD * HEAVY // 2:
            return


def together(items: Iterable[Item]) -> list[list[Item]]:
    """The items in groups about the same images, each where its first item stands."""
    groups: dict[object, list[Item]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.images or number, []).append(item)
    return list(groups.values())


def packs(groups: Iterable[Sequence[Item]], rows: int) -> list[tuple[Item, ...]]:
    """The groups one after the other, a pack full with `rows` items; only huge groups are split."""
    found: list[tuple[Item, ...]] = []
    pack: list[Item] = []
    carried = 0
    for group in groups:
        for start in range(0, len(group), HUGE * rows):
            part = group[start : start + HUGE * rows]
            pack += part
            carried += sum(map(weight, part))
            if len(pack) >= rows or carried >= HEAVY:
                found.append(tuple(pack))
                pack, carried = [], 0
    return [*found, tuple(pack)] if pack else found


def weight(item: Item) -> int:
    """Characters of the images in a row; a path has few."""
    return sum(len(str(name)) for name in item.images)
