"""Work in several processes, each with its share of the cores.

A small model is hardly faster with a second thread, but a second process does half of the work.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import TypeVar

import torch

T = TypeVar("T")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split(work: Callable[[int, int], T], processes: int) -> list[T]:
    """The results [work(0, n), work(1, n), ...] of n `processes`; work(i, n) does part i of n."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, CORES // processes)
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (threads,)) as pool:
        return list(pool.map(work, range(processes), repeat(processes)))
