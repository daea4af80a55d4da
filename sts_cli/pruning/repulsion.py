"""Stage 1 of STS: keep tokens that repel each other, in content and in place.

STS (arXiv 2606.03569) calls its first stage a repulsion-based sampling for spatial and structural
diversity; only its abstract is public to us. The potential, the distance and the greedy order
below are our choice: the greedy minimisation of a pairwise energy follows ToDRE (arXiv
2505.18757); the potential is the Riesz energy of a joint distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from sts_cli.pruning import Cutting, Look, Need, Range

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 64  # rows of the distance matrix that its median is taken over
CHUNK = 256  # rows of the distance matrix that are made at once


@dataclass(frozen=True, slots=True)
class Repulsion:
    """Tokens that differ in content and place, by greedy repulsion sampling (STS, our choice).

    With unit features x and places p, the squared distances are `f = 2 (1 - x_i . x_j)` and
    `s = |p_i - p_j|^2 / 2`, each divided by its median, and the potential of a pair is
    `(f + spatial * s + 1e-3) ** (-exponent / 2)`. The first token is the one least like its
    nearest; each next one is where the chosen ones' potential is least. Equal potentials go to the
    lower index, so the choice is deterministic. O(N^2 D + N count) time; one float32 matrix
    [N, N].
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    spatial: Annotated[float, Range(0, 10)] = 1.0
    exponent: Annotated[float, Range(0.1, 64)] = 2.0

    def cut(self, look: Look, count: int) -> Cutting:
        repel, nearest = potentials(
            normalised(look.features), look.grid, self.spatial, self.exponent
        )
        return Cutting(greedy(repel, nearest.argmin(), count))


def normalised(features: Tensor) -> Tensor:
    """[N, D] float32 of length 1, or 0 where a token is nothing."""
    values = features.float()
    return values / values.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def potentials(
    unit: Tensor, grid: Tensor, spatial: float, exponent: float
) -> tuple[Tensor, Tensor]:
    """How much each pair of tokens repels each other [N, N], and each one's greatest cosine [N].

    Made some rows at a time, so that the result is the only matrix of N x N. Medians are taken over
    every n-th row, SAMPLE of them or up to twice as many.
    """
    import torch

    total = len(unit)
    sample = slice(None, None, max(1, total // SAMPLE))
    scales = [middle(part) for part in distances(unit[sample], unit, grid[sample], grid)]
    repel = torch.empty((total, total), device=unit.device)
    nearest = torch.empty(total, device=unit.device)
    for start in range(0, total, CHUNK):
        rows = slice(start, start + CHUNK)
        cosine = unit[rows] @ unit.mT
        repel[rows] = joint(apart(cosine), away(grid[rows], grid), scales, spatial)
        cosine.diagonal(start).fill_(-math.inf)
        nearest[rows] = cosine.amax(1)
    return repel.add_(1e-3).pow_(-exponent / 2), nearest


def distances(x: Tensor, y: Tensor, grid: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """[N, M] each: squared distances in content and in place between N tokens and M others.

    `x` [N, D] and `y` [M, D] are unit features, `grid` [N, 2] and `other` [M, 2] places.
    """
    return apart(x @ y.mT), away(grid, other)


def joint(content: Tensor, place: Tensor, scales: list[Tensor], spatial: float) -> Tensor:
    """Both squared distances as one, each by its scale; places count `spatial` times."""
    return content / scales[0] + spatial * (place / scales[1])


def apart(cosine: Tensor) -> Tensor:
    """The squared distance of unit features with this cosine."""
    return (2 - 2 * cosine).clamp(min=0)


def away(grid: Tensor, other: Tensor) -> Tensor:
    """[N, M]: half of the squared distance between places [N, 2] and [M, 2]."""
    import torch

    return torch.cdist(grid.float(), other.float()).square() / 2


def greedy(repel: Tensor, first: Tensor, count: int) -> Tensor:
    """Sorted indices [count]: from `first` [], always add the index that the chosen repel least.

    `repel` [N, N]: how much each chosen token (row) repels each other one (column). Indices stay
    tensors of one element: nothing waits for the device.
    """
    import torch

    chosen = torch.empty(count, dtype=torch.long, device=repel.device)
    energy = torch.zeros(len(repel), device=repel.device)
    index = first.view(1)
    for step in range(count):
        chosen[step : step + 1] = index
        energy += repel.index_select(0, index).view(-1)
        energy.index_fill_(0, index, math.inf)  # nothing is chosen twice
        index = energy.argmin().view(1)
    return chosen.sort().values


def middle(distances: Tensor) -> Tensor:
    """The median, never zero: a flat image has no distances to scale by."""
    return distances.median().clamp(min=1e-6)
