"""The choice of a precision by the memory it needs, and the cache's folder. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.errors import ModelError
from sts_cli.profile import Backend, Quantize

# Bytes per parameter of the language model's layers, with its share of the scales.
BYTES: dict[Quantize, float] = {"int8": 1.01, "int4": 0.625, "nf4": 0.57}
# From the most accurate to the smallest, by kind of device. Our int4 runs on CPUs only, and nf4 is
# slow there.
ORDER: dict[str, tuple[Quantize, ...]] = {
    "cpu": ("none", "int8", "int4"),
    "cuda": ("none", "int8", "nf4"),
    "mps": ("none",),
    "xpu": ("none",),
}
LARGE = 100_000_000  # parameters in the layers from which int8 can be faster on a CPU
FAST_INT8 = ("avx512_vnni", "amx_int8")  # CPU features with which PyTorch's int8 kernel is fast
HEADROOM = 1.1  # factor on the weights' bytes, for loading, the KV cache and activations
RESERVE = 300_000_000  # bytes


@dataclass(frozen=True)
class Machine:
    """The part of a machine that decides which precision is the best."""

    device: str  # "cpu" or "cuda"
    backend: Backend  # never "auto"
    features: tuple[str, ...]  # of the CPU; see `hardware.FEATURES`
    free: int | None  # bytes of memory; None: unknown


def int8_is_faster(machine: Machine, dtype_bytes: int) -> bool:
    """True if int8 layers are faster than dense ones on a CPU: benchmarks/linear.py, phases.py.

    PyTorch's int8 kernel is only fast in bfloat16 with AVX512. In float32, int8 decodes slower.
    """
    if machine.device != "cpu":
        return False
    fast = dtype_bytes == 2 and any(name in machine.features for name in FAST_INT8)
    return machine.backend == "openvino" or fast


def memory_needed(checkpoint: Checkpoint, quantize: Quantize, dtype_bytes: int) -> int:
    """Estimated bytes of the weights in memory, from the tensors' names and shapes."""
    layers = checkpoint.weights.layers
    dense = checkpoint.weights.parameters - layers
    return round(dense * dtype_bytes + layers * BYTES.get(quantize, dtype_bytes))


def choose(
    wish: Quantize,
    checkpoint: Checkpoint,
    machine: Machine,
    dtype_bytes: int,
) -> Quantize:
    """The precision for `wish` on a `machine`, computing in a dtype of `dtype_bytes`.

    `auto` is the most accurate precision that fits, and int8 where that is faster: its error is
    below that of bfloat16 (docs/quantization.md). Raises ModelError if the weights do not fit, if
    the device cannot run `wish`, or if the checkpoint is already quantized.
    """
    settings = checkpoint.config.get("quantization_config")
    if settings:
        if wish in ("auto", "none"):
            return "none"
        method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else settings
        raise ModelError(f"{checkpoint.folder} is quantized already ({method}); drop --quantize.")
    device, free = machine.device, machine.free
    if wish == "int4" and device == "cuda":
        raise ModelError("--quantize int4 only runs on CPUs; on a GPU use --quantize nf4.")
    if ORDER[device] == ("none",) and wish not in ("auto", "none"):
        raise ModelError(f"--quantize {wish} is not available on {device}; drop --quantize.")

    def fits(choice: Quantize) -> bool:
        needed = memory_needed(checkpoint, choice, dtype_bytes)
        return free is None or needed * HEADROOM + RESERVE <= free

    tried = ORDER[device] if wish == "auto" else (wish,)
    large = checkpoint.weights.layers >= LARGE
    if wish == "auto" and large and int8_is_faster(machine, dtype_bytes):
        tried = tried[1:]
    for choice in tried:
        if fits(choice):
            return choice
    smaller = [choice for choice in ORDER[device] if choice not in tried and fits(choice)]
    remedy = f"use --quantize {smaller[0]}" if smaller else "use a smaller model"
    needed = memory_needed(checkpoint, tried[-1], dtype_bytes)
    precision = "" if tried[-1] == "none" else f" in {tried[-1]}"
    raise ModelError(
        f"The model's weights{precision} need {needed * HEADROOM / 1e9:.1f} GB, but "
        f"{(free or 0) / 1e9:.1f} GB of memory are free; {remedy}."
    )


def quantized_folder() -> Path | None:
    """The cache folder for quantized models; None if STS_CACHE is set to an empty string."""
    cache = os.environ.get("STS_CACHE")
    if cache == "":
        return None
    caches = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.path.expanduser(cache) if cache else os.path.join(caches, "sts")) / "quantized"
