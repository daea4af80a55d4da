"""Items from a slow source, taken as they come: a window never waits for more than it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
TICK = 0.1  # seconds between looks at whether to stop


class Feed(Generic[T]):
    """Reads `source` in a thread, at most `ahead` items further than was taken."""

    def __init__(self, source: Iterable[T], ahead: int):
        self._source = source
        self._queue: Queue[T] = Queue(ahead)
        self._closed = Event()
        self._ended = Event()
        self.error: BaseException | None = None  # what reading the source raised
        self._thread = Thread(target=self._read, name="sts-feed", daemon=True)

    def __enter__(self) -> Feed[T]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()

    @property
    def finished(self) -> bool:
        """True if everything that the source had was taken."""
        return self._ended.is_set() and self._queue.empty()

    def take(self, most: int, wait: bool, stop: Callable[[], bool] = lambda: False) -> Iterator[T]:
        """Up to `most` items that are there; with `wait`, at least one unless the source ends."""
        while most > 0 and not stop():
            try:
                item = self._queue.get(timeout=TICK) if wait else self._queue.get_nowait()
            except Empty:
                if wait and not self.finished:
                    continue
                return
            yield item
            most, wait = most - 1, False

    def _read(self) -> None:
        try:
            for item in self._source:
                while not self._closed.is_set():
                    if self._offer(item):
                        break
                if self._closed.is_set():
                    return
        except BaseException as error:  # handed to the thread that takes the items
            self.error = None if self._closed.is_set() else error
        finally:
            self._ended.set()

    def _offer(self, item: T) -> bool:
        try:
            self._queue.put(item, timeout=TICK)
        except Full:
            return False
        return True
