"""A control: tokens drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor


def random(values: Tensor, grid: Tensor, count: int, *, draw: float = 0) -> Tensor:
    """Sorted indices [count] of N tokens, uniform without replacement; the same for equal `draw`.

    `values` [N, ...] gives N and the device only.
    """
    total = values.shape[0]
    generator = torch.Generator().manual_seed(int(draw))
    chosen = torch.randperm(total, generator=generator)[:count].sort().values
    return chosen.to(values.device)
