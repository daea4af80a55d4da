"""Stage 2 of STS: tokens that the instruction attends to, and that differ from each other.

Attention alone drops what an answer needs later: while a question about a sign is read, hardly any
word attends to the third letter on it (docs/accuracy.md has the figures). So the tokens repel each
other once more, each the less the more relevant it is. That weighting is our choice; relevance
and diversity in one kernel are CDPruner's idea (arXiv 2506.10967).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sts_cli.pruning.repulsion import greedy, potentials


def relevance(
    scores: Tensor,
    grid: Tensor,
    count: int,
    *,
    features: Tensor,
    sure: Tensor,
    weight: float = 0.1,
    spatial: float = 1.0,
    exponent: float = 2.0,
    **reduction: str,
) -> Tensor:
    """Sorted indices [count], added greedily where the chosen ones' potential is least.

    `scores` [N] is the attention that the instruction paid, `features` [N, D] are the hidden states
    at the cut, `grid` [N, 2] rows and columns in 0..1, `sure` [S] what stays in any case; without
    it the most attended token comes first. A token's energy is the sum of the chosen ones'
    potentials (`repulsion`'s riesz) divided by (its score / the mean score) ** weight: 0 is
    repulsion alone, a large weight attention alone. `reduction` (rows, heads) was applied before.
    """
    if count >= scores.shape[0]:
        return torch.arange(scores.shape[0], device=scores.device)
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    repel = potentials(unit @ unit.mT, grid, "riesz", spatial, exponent)
    relative = scores.float() / scores.float().mean().clamp(min=1e-12)
    first = sure if len(sure) else scores.argmax()[None]
    ease = relative.clamp(min=1e-3).pow(weight)
    return greedy(repel / ease, first[:count], count)
