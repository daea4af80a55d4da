"""A stream of new scenes from worker processes, and a ring buffer that uses each a few times."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from demo_model.labels import labels, letters, patches
from demo_model.pointing import Things
from sts_cli.scenes.drawing import Scene, draw

T = TypeVar("T")
LARGE, LARGEST = 0.15, 2.2  # share of scenes with larger shapes, and the largest scale
PAIRS = 0.4  # share of the other scenes that must have two signs, so that they are told apart


@dataclass(frozen=True)
class Example:
    """A drawn scene as training data."""

    pixels: NDArray[np.uint8]  # [576, 588]
    labels: NDArray[np.uint8]  # [576, 10]
    things: Things


@dataclass(frozen=True)
class Difficulty:
    """Settings of the scenes, which change during training."""

    level: float = 0.0  # share of hard scenes
    most: int = 6  # largest number of shapes
    dense: float = 0.0  # share of scenes with many signs


class Stream:
    """Worker processes that draw scenes; `difficulty` can be set at any time."""

    def __init__(self, seed: int, workers: int, difficulty: Difficulty):
        context = multiprocessing.get_context("spawn")
        self._queue: Any = context.Queue(64)
        self._shared = context.Array("d", [0.0, 0.0, 0.0])
        self.set(difficulty)
        self._workers = [
            context.Process(
                target=_work, args=(seed + 1_000_000 * i, self._queue, self._shared), daemon=True
            )
            for i in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def set(self, difficulty: Difficulty) -> None:
        self._shared[:] = [difficulty.level, float(difficulty.most), difficulty.dense]

    def take(self) -> Example:
        """Wait for a new scene and return it."""
        example: Example = self._queue.get()
        return example

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()


def _work(seed: int, out: Any, shared: Any) -> None:
    os.nice(3)
    while True:
        seed += 1
        level, most, dense = shared[:]
        out.put(example(draw(seed, level, most=int(most), **asdict(chosen(seed, dense)))))


@dataclass(frozen=True)
class Chosen:
    """Arguments of `draw` for one scene of training."""

    dense: bool
    signs: int | None
    scale: float


def chosen(seed: int, dense: float) -> Chosen:
    """The number of signs and the scale of shapes for a scene.

    They have their own random generator: with that of the scene, large shapes would only be on
    pictures of one size.
    """
    rng = random.Random(f"{seed}: difficulty")
    many = rng.random() < dense
    scale = rng.uniform(1, LARGEST) if rng.random() < LARGE else 1.0
    return Chosen(many, 2 if not many and rng.random() < PAIRS else None, scale)


def example(scene: Scene) -> Example:
    return Example(patches(scene.image), labels(scene), letters(scene))


class Ring(Generic[T]):
    """The last `size` scenes, each processed by `prepare` once and used about `reuse` times."""

    def __init__(
        self, stream: Stream, prepare: Callable[[list[Example]], list[T]], size: int, reuse: float
    ):
        self.stream, self.prepare, self.size, self.reuse = stream, prepare, size, reuse
        self.items: list[T] = []
        self.drawn = self.used = 0

    def sample(self, count: int, rng: random.Random) -> list[T]:
        """`count` different scenes; waits for new ones if the old ones were used often enough."""
        fresh: list[Example] = []

        def too_few() -> bool:
            short = len(self.items) + len(fresh) < min(self.size, 4 * count)
            overused = self.used + count > self.reuse * (self.drawn + len(fresh))
            return short or overused

        while len(fresh) < max(16, count) and too_few():
            fresh.append(self.stream.take())
        if fresh:
            self.items = (self.items + self.prepare(fresh))[-self.size :]
            self.drawn += len(fresh)
        self.used += count
        return rng.sample(self.items, count)
