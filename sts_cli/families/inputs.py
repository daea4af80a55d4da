"""What a vision encoder gets: prepared images, joined, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def batched(
    images: Sequence[dict[str, Tensor]], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The inputs of images with the same names and shapes as one batch: {name: [sum of N, ...]}.

    Numbers with a fraction become `dtype`.
    """
    batch = {name: moved([image[name] for image in images], device) for name in images[0]}
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in batch.items()
    }


def moved(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """The parts, one after the other, on `device`.

    They go to CUDA from pinned memory, so that this thread need not wait for the copy.
    """
    if device.type != "cuda":
        return torch.cat(list(parts)).to(device)
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    pinned = torch.empty(shape, dtype=parts[0].dtype, pin_memory=True)
    return torch.cat(list(parts), out=pinned).to(device, non_blocking=True)
