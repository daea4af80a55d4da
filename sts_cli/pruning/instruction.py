"""Stage 2 of STS: keep the tokens that the instruction attends to.

The layer, the rows and the reduction are our choice (see docs/method.md): STS's abstract speaks of
instruction-aware cross-attention inside the language model and no more.
"""

from __future__ import annotations

from torch import Tensor


def instruction(scores: Tensor, grid: Tensor, count: int, **reduction: str) -> Tensor:
    """Sorted indices [count] of the highest `scores` [N]; ties go to the lower index.

    `reduction` (rows, heads) says how the engine made scores out of attention; it was applied
    before this function, which takes scores as they are.
    """
    order = scores.argsort(descending=True, stable=True)
    return order[:count].sort().values
