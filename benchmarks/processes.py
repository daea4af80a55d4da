"""Work in several processes, each with its share of the cores.

A small model leaves a second thread little to do; a second process has its own half of the work.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import TypeVar

T = TypeVar("T")
CORES = os.cpu_count() or 1


def split(work: Callable[[int, int], T], processes: int) -> list[T]:
    """[work(0, n), work(1, n), ...] for n `processes`; `work` does its part of n."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, begin, (CORES // processes,)) as pool:
        return list(pool.map(work, range(processes), repeat(processes)))


def begin(threads: int) -> None:
    """A process's settings before its work."""
    from sts_cli.runtime import settle_cpu

    settle_cpu()
    import torch

    torch.set_num_threads(max(1, threads))
