"""Which precision of weights a machine can hold, and where quantized ones go. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.errors import ModelError
from sts_cli.profile import Quantize

# Bytes that one parameter of the language model's layers takes, with its share of the scales.
BYTES: dict[Quantize, float] = {"int8": 1.01, "int4": 0.625, "nf4": 0.57}
# From the most faithful to the smallest, by kind of device; int4 is our own for CPUs.
ORDER: dict[str, tuple[Quantize, ...]] = {
    "cpu": ("none", "int8", "int4"),
    "cuda": ("none", "int8", "nf4"),
}
LARGE = 100_000_000  # parameters in the layers from which int8 pays on a CPU
HEADROOM = 1.1  # of the weights: what loading holds for a moment, caches and activations
RESERVE = 300_000_000  # bytes


def memory_needed(checkpoint: Checkpoint, quantize: Quantize, dtype_bytes: int) -> int:
    """Bytes that the weights take in memory, estimated from their names and shapes."""
    layers = checkpoint.weights.layers
    dense = checkpoint.weights.parameters - layers
    return round(dense * dtype_bytes + layers * BYTES.get(quantize, dtype_bytes))


def choose(
    wish: Quantize, checkpoint: Checkpoint, device: str, dtype_bytes: int, free: int | None
) -> Quantize:
    """The precision for `wish` on a `device` ("cpu" or "cuda") with `free` bytes of memory.

    `auto` is the most faithful that fits; on a CPU, int8 for all but small models, since it
    decodes faster and its error is below that of bfloat16 (docs/quantization.md). Raises
    ModelError for one that does not fit, or that the device cannot run, or when the checkpoint
    is quantized already.
    """
    already = checkpoint.config.get("quantization_config")
    if already:
        if wish in ("auto", "none"):
            return "none"
        method = already.get("quant_method", "unknown") if isinstance(already, dict) else already
        raise ModelError(f"{checkpoint.folder} is quantized already ({method}); drop --quantize.")
    if wish == "int4" and device == "cuda":
        raise ModelError("--quantize int4 is for CPUs; on a GPU use --quantize nf4.")

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


def kept_folder() -> Path | None:
    """Where quantized models are kept; None if the user set STS_CACHE to nothing."""
    given = os.environ.get("STS_CACHE")
    if given == "":
        return None
    caches = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.path.expanduser(given) if given else os.path.join(caches, "sts")) / "quantized"
