"""Stage 2 of STS: keep the tokens that the instruction attends to.

The layer, the rows and the reduction are our choice (see docs/method.md): STS's abstract speaks of
instruction-aware cross-attention inside the language model and no more.
"""

from __future__ import annotations

import torch
from torch import Tensor


def instruction(scores: Tensor, grid: Tensor, count: int, **reduction: float | str) -> Tensor:
    """Sorted indices [count] of the highest `scores` [N]; ties go to the lower index.

    `reduction` (rows, heads, keys, reach) says how the engine made scores out of attention; it was
    applied before this function, which takes scores as they are.
    """
    order = scores.argsort(descending=True, stable=True)
    return order[:count].sort().values


def lent(scores: Tensor, places: Tensor, reach: float) -> Tensor:
    """`scores` [N], each at least what a neighbour lends: its score, less with distance.

    `places` [N, 2] are rows and columns; a neighbour at distance `reach` lends exp(-1/2) of its
    score. A word that attends to one patch of a thing needs the patches around it.
    """
    near = (torch.cdist(places, places).square() / (-2 * reach**2)).exp()  # [N, N]
    return (near * scores).amax(1)
