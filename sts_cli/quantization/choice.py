"""The choice of a precision by the memory it needs, and the cache's folder. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.errors import ModelError
from sts_cli.profile import Quantize

# Bytes per parameter of the language model's layers, with its share of the scales.
BYTES: dict[Quantize, float] = {"int8": 1.01, "int4": 0.625, "nf4": 0.57}
# From the most accurate to the smallest, by kind of device. Our int4 runs on CPUs only.
ORDER: dict[str, tuple[Quantize, ...]] = {
    "cpu": ("none", "int8", "int4"),
    "cuda": ("none", "int8", "nf4"),
    "mps": ("none",),
    "xpu": ("none",),
}
LARGE = 100_000_000  # parameters in the layers from which int8 is faster on a CPU
HEADROOM = 1.1  # factor on the weights' bytes, for loading, the KV cache and activations
RESERVE = 300_000_000  # bytes


def memory_needed(checkpoint: Checkpoint, quantize: Quantize, dtype_bytes: int) -> int:
    """Estimated bytes of the weights in memory, from the tensors' names and shapes."""
    layers = checkpoint.weights.layers
    dense = checkpoint.weights.parameters - layers
    return round(dense * dtype_bytes + layers * BYTES.get(quantize, dtype_bytes))


def choose(
    wish: Quantize, checkpoint: Checkpoint, device: str, dtype_bytes: int, free: int | None
) -> Quantize:
    """The precision for `wish` on a `device` (such as "cpu") with `free` bytes (None: unknown).

    `auto` is the most accurate precision that fits. On a CPU it is int8 for all but small models:
    int8 decodes faster, and its error is below that of bfloat16 (docs/quantization.md). Raises
    ModelError if the weights do not fit, if the device cannot run `wish`, or if the checkpoint is
    already quantized.
    """
    settings = checkpoint.config.get("quantization_config")
    if settings:
        if wish in ("auto", "none"):
            return "none"
        method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else settings
        raise ModelError(f"{checkpoint.folder} is quantized already ({method}); drop --quantize.")
    if wish == "int4" and device == "cuda":
        raise ModelError("--quantize int4 only runs on CPUs; on a GPU use --quantize nf4.")
    if ORDER[device] == ("none",) and wish not in ("auto", "none"):
        raise ModelError(f"--quantize {wish} is not available on {device}; drop --quantize.")

    def fits(choice: Quantize) -> bool:
        needed = memory_needed(checkpoint, choice, dtype_bytes)
        return free is None or needed * HEADROOM + RESERVE <= free

    tried = ORDER[device] if wish == "auto" else (wish,)
    if wish == "auto" and device == "cpu" and checkpoint.weights.layers >= LARGE:
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
