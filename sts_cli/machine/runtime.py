"""Process-wide CPU settings that must be made before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def settle_cpu() -> None:
    """Make PyTorch on a CPU behave on a busy machine. Call it before the first `import torch`.

    OpenMP threads that spin while they wait slow two-thread PyTorch down up to ten times when
    another process wants the cores; passive waiting costs nothing measurable otherwise.
    glibc hands large blocks back to the system at every free and faults them in again at the
    next allocation; activations of a vision tower are such blocks.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def give_back_memory() -> None:
    """Hand freed memory back to the system, which `settle_cpu` makes glibc keep for reuse."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
