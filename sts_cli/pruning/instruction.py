"""Stage 2 of STS: keep the tokens that the instruction attends to.

The layer, the rows and the reduction are our choice (see docs/method.md): STS's abstract speaks of
instruction-aware cross-attention inside the language model and no more.
"""

from __future__ import annotations

from math import inf

from torch import Tensor


def instruction(
    scores: Tensor, grid: Tensor, count: int, *, features: Tensor, sure: Tensor, **reduction: str
) -> Tensor:
    """Sorted indices [count] of the highest `scores` [N]; ties go to the lower index.

    `sure` [S] are indices that stay in any case. `reduction` (rows, heads) says how the engine made
    scores out of attention; it was applied before this function. Contents and places do not count.
    """
    order = scores.index_fill(0, sure, inf).argsort(descending=True, stable=True)
    return order[:count].sort().values
