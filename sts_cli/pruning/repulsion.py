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
    spatial: float = 1.0,
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
    repel = potentials(cosine, grid, potential, spatial, exponent)
    first = isolated(cosine) if seed == "isolated" else eccentric(unit)
    return greedy(repel, first[None], count)


def potentials(
    cosine: Tensor, grid: Tensor, potential: str, spatial: float, exponent: float
) -> Tensor:
    """[N, N]: how much each pair of tokens repels each other, by the formulas of `repulsion`.

    `cosine` [N, N] is that of their features.
    """
    if potential == "cos":
        return cosine
    distance = distances(cosine, grid, grid, spatial, stride=max(1, len(cosine) // SAMPLE))
    if potential == "gauss":
        return (distance / -2).exp()
    return (distance + 1e-3).pow(-exponent / 2)


def distances(
    cosine: Tensor, grid: Tensor, other: Tensor, spatial: float = 1.0, stride: int = 1
) -> Tensor:
    """[N, M]: the joint squared distances of `repulsion` between N tokens and M others.

    `cosine` [N, M] is that of their features, `grid` [N, 2] and `other` [M, 2] are their places;
    medians are taken over every `stride`-th row.
    """
    apart = (2 - 2 * cosine).clamp(min=0)
    away = torch.cdist(grid.float(), other.float()).square() / 2
    return apart / middle(apart[::stride]) + spatial * (away / middle(away[::stride]))


def greedy(repel: Tensor, first: Tensor, count: int) -> Tensor:
    """Sorted indices [count]: from `first` [F], always add the index that the chosen repel least.

    `repel` [N, N]: how much each chosen token (row) repels each other one (column).
    """
    chosen = torch.empty(count, dtype=torch.long, device=repel.device)
    chosen[: len(first)] = first
    energy = repel[first].sum(0)  # [N]
    energy[first] = torch.inf  # nothing is chosen twice
    for step in range(len(first), count):
        index = energy.argmin()
        chosen[step] = index
        energy += repel[index]
        energy[index] = torch.inf
    return chosen.sort().values


def isolated(cosine: Tensor) -> Tensor:
    """The token that is least like the one most like it; `cosine` [N, N] of their features."""
    return cosine.clone().fill_diagonal_(-torch.inf).amax(1).argmin()


def eccentric(unit: Tensor) -> Tensor:
    """The token farthest from the mean of unit features [N, D]."""
    return (unit @ unit.mean(0)).argmin()


def middle(distances: Tensor) -> Tensor:
    """The median, never zero: a flat image has no distances to scale by."""
    return distances.median().clamp(min=1e-6)
