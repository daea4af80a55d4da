"""Images decoded in worker threads ahead of the engine: bounded memory, the order of the input."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image

from sts_cli.inputs.feed import TICK, Feed
from sts_cli.inputs.picture import (
    DECODE_SECONDS,
    Picture,
    read_picture,
    settle_pillow,
    took_too_long,
)
from sts_cli.inputs.readers import Readers
from sts_cli.records import Item, Problem

HELD_BYTES = 256 << 20  # decoded images that nobody took yet
REMEMBERED = 16  # images that following rows may ask about again

Decoded = tuple[Picture | Problem, float]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item with its images decoded, or with the problem that one of them has."""

    item: Item
    images: tuple[Image.Image, ...]  # RGB, upright
    digests: tuple[str, ...]  # equal for equal images
    seconds: float  # of reading and decoding


@dataclass(frozen=True, slots=True)
class Expected:
    """An item whose images are on their way; `fresh` are those no item before it asked for."""

    item: Item
    pictures: tuple[Future[Decoded], ...]
    fresh: tuple[Future[Decoded], ...]

    @property
    def done(self) -> bool:
        return all(picture.done() for picture in self.pictures)

    @property
    def held(self) -> int:
        """Bytes of the images that are decoded."""
        return sum(size_of(picture) for picture in self.fresh if picture.done())

    def result(self) -> Prepared:
        """Waits for the images."""
        results = [picture.result()[0] for picture in self.pictures]
        seconds = sum(picture.result()[1] for picture in self.fresh)
        problem = next((result for result in results if isinstance(result, Problem)), None)
        if problem is not None:
            return Prepared(replace(self.item, problem=problem), (), (), seconds)
        pictures = [result for result in results if isinstance(result, Picture)]
        return Prepared(
            self.item,
            tuple(picture.image for picture in pictures),
            tuple(picture.digest for picture in pictures),
            seconds,
        )


def prepare(item: Item) -> Prepared:
    """One item, decoded here and now."""
    return next(decode_ahead([item], workers=1))


def decode_ahead(
    items: Iterable[Item],
    *,
    workers: int = 2,
    ahead: int = 16,
    seconds: float = DECODE_SECONDS,
) -> Iterator[Prepared]:
    """Each item with its images, in input order; up to `ahead` items are read in advance.

    Fewer where decoded images of HELD_BYTES wait already. A file that several of the last rows
    name is read and decoded once. An item with a problem passes through. An item comes out when
    it is decoded, even while the source keeps the next one waiting. An image that takes longer
    than `seconds` is a problem of its row.
    """
    settle_pillow()
    waiting: deque[Expected] = deque()
    known: OrderedDict[str, Future[Decoded]] = OrderedDict()
    readers: Readers[Decoded] = Readers(workers, seconds)
    try:
        with Feed(items, ahead) as feed:
            while waiting or not feed.finished:
                forget(known)  # images may have come since they were asked for
                if has_room(waiting, workers, ahead):
                    new = feed.take(1, wait=not waiting)
                    taken = [expect(item, readers, known, seconds) for item in new]
                    waiting.extend(taken)
                    if taken:
                        continue
                if waiting and waiting[0].done:
                    yield waiting.popleft().result()
                elif waiting:
                    pictures = (picture for row in waiting for picture in row.pictures)
                    running = [picture for picture in pictures if not picture.done()]
                    readers.wait(running, TICK)
        if feed.error is not None:
            raise feed.error
    finally:
        readers.close()


def has_room(waiting: deque[Expected], workers: int, ahead: int) -> bool:
    """True if one more item may be started, so that memory stays bounded."""
    if len(waiting) >= ahead:
        return False
    running = sum(not row.done for row in waiting)
    return running <= workers and sum(row.held for row in waiting) < HELD_BYTES


def expect(
    item: Item,
    readers: Readers[Decoded],
    known: OrderedDict[str, Future[Decoded]],
    seconds: float,
) -> Expected:
    """Start on the images of an item that are not among those just decoded."""
    pictures, fresh = [], []
    for name in item.images if item.problem is None else ():
        if not isinstance(name, str | Path):  # in memory, and not worth a place in the cache
            job = partial(timed_read, name, item, seconds)
            fresh.append(readers.submit(job, (took_too_long(name, seconds), seconds)))
            pictures.append(fresh[-1])
            continue
        name = name if isinstance(name, str) else str(name)
        place = name if name.startswith("data:") else str(item.folder / name)
        if place not in known:
            job = partial(timed_read, name, item, seconds)
            known[place] = readers.submit(job, (took_too_long(name, seconds), seconds))
            fresh.append(known[place])
        known.move_to_end(place)
        pictures.append(known[place])
    return Expected(item, tuple(pictures), tuple(fresh))


def forget(known: OrderedDict[str, Future[Decoded]]) -> None:
    """Keep at most REMEMBERED images and HELD_BYTES, those asked for last."""
    while len(known) > REMEMBERED or sum(map(size_of, known.values())) > HELD_BYTES:
        known.popitem(last=False)


def timed_read(name: Any, item: Item, seconds: float) -> Decoded:
    started = perf_counter()
    if isinstance(name, str):
        picture = read_picture(name, item.folder, seconds)
    else:
        from sts_cli.inputs.memory import from_memory  # imports numpy, which files may not need

        picture = from_memory(name, seconds)
    return picture, perf_counter() - started


def size_of(picture: Future[Decoded]) -> int:
    """Bytes that a decoded image holds; 0 while it is not decoded."""
    if not picture.done():
        return 0
    result = picture.result()[0]
    return result.image.width * result.image.height * 3 if isinstance(result, Picture) else 0
