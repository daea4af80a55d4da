"""Device, precision, memory and threads of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sts_cli.errors import ModelError

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "bfloat16", "float16", "float32")
OTHERS = ("mps", "xpu")  # accelerators that nobody has verified sts on
FULL = ("can't allocate memory", "MPS backend out of memory")  # in errors of no class of their own
FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # names in /proc/cpuinfo
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def cpu_features() -> tuple[str, ...]:
    """The FEATURES that the CPU has, if the system lists them."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ()
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return tuple(name for name in FEATURES if name in flags.split())


def cpu_name() -> str:
    """The processor's name in the system."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def memory() -> tuple[int, int] | None:
    """Bytes of free memory and of all memory, within the container's limit if there is one."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return memory_elsewhere()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if " kB" in line}
    free, total = sizes["MemAvailable"], sizes["MemTotal"]
    limit = container_limit()
    if limit is not None:
        free, total = min(free, limit[0]), min(total, limit[1])
    return free, total


def memory_elsewhere() -> tuple[int, int] | None:
    """As `memory`, on systems without /proc: psutil, which accelerate brings, knows them."""
    try:
        import psutil
    except ImportError:
        return None
    sizes = psutil.virtual_memory()
    return int(sizes.available), int(sizes.total)


def container_limit() -> tuple[int, int] | None:
    """Bytes left and bytes allowed by the control group, if it sets a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text("utf-8").strip()
        used = int((group / "memory.current").read_text("utf-8"))
        stat = (group / "memory.stat").read_text("utf-8").split()
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    cache = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0
    return max(0, int(most) - used + cache), int(most)


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device; None if the system does not tell."""
    if device.type == "cuda":
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    sizes = memory() if device.type in ("cpu", "mps") else None
    return None if sizes is None else sizes[0]


def out_of_memory(error: BaseException) -> bool:
    """True if a device or the machine had no memory left."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)
    )


def threads_and_cores() -> tuple[int, int]:
    """Cores this process may use, and cores of the machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = os.cpu_count() or 1
    return allowed or cores, cores


def choose_device(wish: str = "auto") -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:N`, or one of OTHERS, which `auto` never takes.

    Raises ModelError if it is not here.
    """
    import torch

    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = wish.partition(":")
    if kind not in ("cpu", "cuda", *OTHERS) or (number and not number.isdigit()):
        known = ", ".join(("auto", "cpu", "cuda", "cuda:N", *OTHERS))
        raise ModelError(f"No device '{wish}'. Known: {known}.")
    if kind == "cpu":
        return torch.device("cpu")
    if kind in OTHERS:
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if here is None or here.type != kind:
            raise ModelError(f"--device {wish}: PyTorch finds no {kind} here; use --device cpu.")
    elif not torch.cuda.is_available():
        built = torch.version.cuda is not None
        reason = (
            "PyTorch finds no CUDA GPU here; check the driver with nvidia-smi"
            if built
            else "this PyTorch is the CPU build; install one with CUDA from pytorch.org"
        )
        raise ModelError(f"--device {wish}: {reason}, or use --device cpu.")
    if number and int(number) >= (count := torch.accelerator.device_count()):
        raise ModelError(f"--device {wish}: this machine has {count} GPUs, from {kind}:0.")
    return torch.device(wish)


def choose_dtype(wish: str, device: torch.device) -> torch.dtype:
    """The precision to compute in; `auto` is the fastest that keeps answers.

    On a CPU that is bfloat16 where the CPU has instructions for it, else float32. On one of OTHERS
    it is float32, because nothing else was tried.
    """
    import torch

    if wish not in DTYPES:
        raise ModelError(f"No dtype '{wish}'. Known: {', '.join(DTYPES)}.")
    if device.type == "cpu":
        if wish == "float16":
            raise ModelError(
                "float16 is slow and inexact on a CPU; use --dtype bfloat16 or --dtype float32."
            )
        if wish == "auto":
            fast = any(name in cpu_features() for name in FAST_BFLOAT16)
            return torch.bfloat16 if fast else torch.float32
    elif wish == "auto":
        if device.type in OTHERS:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    chosen: torch.dtype = getattr(torch, wish)
    return chosen
