"""Stage 1 of STS: keep tokens that repel each other, in content and in place.

STS (arXiv 2606.03569) calls its first stage a repulsion-based sampling for spatial and structural
diversity; only its abstract is public to us. The potential, the distance and the greedy order
below are our choice: the greedy minimisation of a pairwise energy follows ToDRE (arXiv
2505.18757), whose linear potential is `cos`; `riesz` is the Riesz energy of a joint distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE = 64  # rows of the distance matrix that its median is taken over


def repulsion(
    features: Tensor,
    grid: Tensor,
    count: int,
    *,
    potential: str = "riesz",
    spatial: float = 0.25,
    exponent: float = 2.0,
    seed: str = "isolated",
) -> Tensor:
    """Sorted indices [count] of tokens chosen greedily, each where the chosen ones repel least.

    `features` [N, D] are the tokens as the language model sees them, `grid` [N, 2] their row and
    column in 0..1. With unit features x and places p, the squared distances are
    `f = 2 (1 - x_i . x_j)` and `s = |p_i - p_j|^2 / 2`, each divided by its median, and the pair
    potential is `(f + spatial * s + 1e-3) ** (-exponent / 2)` (riesz),
    `exp(-f / 2) * exp(-spatial * s / 2)` (gauss) or `x_i . x_j` (cos). Equal potentials go to the
    lower index, so the choice is deterministic. O(N^2 D + N count) time, O(N^2) memory.
    """
    total = features.shape[0]
    if count >= total:
        return torch.arange(total, device=features.device)
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    cosine = unit @ unit.mT  # [N, N]
    apart = (2 - 2 * cosine).clamp(min=0)
    if potential == "cos":
        repel = cosine
    else:
        places = grid.float()
        away = torch.cdist(places, places).square() / 2
        stride = max(1, total // SAMPLE)
        distance = apart / middle(apart[::stride]) + spatial * (away / middle(away[::stride]))
        if potential == "gauss":
            repel = (distance / -2).exp()
        else:
            repel = (distance + 1e-3).pow(-exponent / 2)
    first = isolated(apart) if seed == "isolated" else eccentric(unit)
    return greedy(repel, first, count)


def greedy(repel: Tensor, first: Tensor, count: int) -> Tensor:
    """Sorted indices [count]: from `first`, always add the index that the chosen repel least.

    `repel` [N, N] is the potential of each pair. It is changed: its diagonal becomes infinite,
    so that nothing is chosen twice.
    """
    repel.fill_diagonal_(torch.inf)
    chosen = torch.empty(count, dtype=torch.long, device=repel.device)
    chosen[0] = first
    energy = repel[first].clone()  # [N]
    for step in range(1, count):
        index = energy.argmin()
        chosen[step] = index
        energy += repel[index]
    return chosen.sort().values


def isolated(apart: Tensor) -> Tensor:
    """The token whose nearest neighbour is farthest, by squared distances [N, N]."""
    nearest = apart.clone().fill_diagonal_(torch.inf).amin(1)
    return nearest.argmax()


def eccentric(unit: Tensor) -> Tensor:
    """The token farthest from the mean of unit features [N, D]."""
    return (unit @ unit.mean(0)).argmin()


def middle(distances: Tensor) -> Tensor:
    """The median, never zero: a flat image has no distances to scale by."""
    return distances.median().clamp(min=1e-6)
