"""Threads that read and decode; one that gets stuck is left behind, and another takes its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """A call to make in a thread, and its result."""

    do: Callable[[], T]
    instead: T  # the result if it takes too long
    result: Future[T] = field(default_factory=Future)
    waited: float = 0.0  # seconds that somebody waited while it ran


class Readers(Generic[T]):
    """Does jobs in `count` threads, and waits at most `seconds` for each.

    A thread cannot be stopped. One left behind ends when its job does, and at the latest with the
    process, which never waits for it (as it would for a thread of a ThreadPoolExecutor).
    """

    def __init__(self, count: int, seconds: float):
        self._count = count
        self._seconds = seconds
        self._jobs: SimpleQueue[Job[T] | None] = SimpleQueue()
        self._running: list[Job[T]] = []
        self._lock = Lock()
        self._closed = Event()
        for _ in range(count):
            self._start()

    def submit(self, do: Callable[[], T], instead: T) -> Future[T]:
        """The result of `do`, or its error; `instead` if it takes too long."""
        job = Job(do, instead)
        self._jobs.put(job)
        return job.result

    def wait(self, results: Sequence[Future[T]], tick: float) -> None:
        """Until one of `results` is there, or for `tick` seconds; gives up on what is stuck."""
        started = perf_counter()
        wait(results, tick, FIRST_COMPLETED)
        passed = min(tick, perf_counter() - started)  # not the hours that a stopped process slept
        with self._lock:
            for job in self._running:
                job.waited += passed
            late = [job for job in self._running if job.waited > self._seconds]
            self._running = [job for job in self._running if job not in late]
        for job in late:
            job.result.set_result(job.instead)
            self._start()

    def close(self) -> None:
        """No more jobs: each thread ends after the one it is at."""
        self._closed.set()
        for _ in range(self._count):
            self._jobs.put(None)

    def _start(self) -> None:
        Thread(target=self._work, name="sts-decode", daemon=True).start()

    def _work(self) -> None:
        while not self._closed.is_set() and self._do(self._jobs.get()):
            pass

    def _do(self, job: Job[T] | None) -> bool:
        """True if the thread may go on: it was not told to end, and no other took its place."""
        if job is None:
            return False
        with self._lock:
            self._running.append(job)
        settle: Callable[[], None]
        try:
            settle = partial(job.result.set_result, job.do())
        except BaseException as error:  # handed to who asks for the result
            settle = partial(job.result.set_exception, error)
        with self._lock:
            if job not in self._running:
                return False
            self._running.remove(job)
        settle()
        return True
