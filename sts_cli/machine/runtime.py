"""CPU settings of the whole process, which must come before the import of torch."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def settle_cpu() -> None:
    """Keep PyTorch fast on a busy CPU. Call it before the first `import torch`.

    OpenMP threads that spin while they wait make two-thread PyTorch up to ten times slower when
    another process uses the cores; passive waiting has no measurable cost. glibc returns large
    blocks to the system at every free, and page faults follow at the next allocation; activations
    of a vision tower are such blocks.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Hide from the garbage collector what the first import of torch makes.

    These objects stay until the end, and each pass of the collector would read them all: a third
    of the start of a command. Not for a library: garbage of the program around it would stay, too.
    """
    first = gc.isenabled() and "torch" not in sys.modules
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()
            if "triton" in sys.modules:  # it reports as a leak what is never collected
                atexit.register(gc.unfreeze)


def give_back_memory() -> None:
    """Return freed memory to the system; since `settle_cpu`, glibc keeps it for reuse."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
