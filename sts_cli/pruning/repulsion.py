"""Stage 1 of STS: keep tokens that differ from each other, in content and in place.

STS (arXiv 2606.03569) calls its first stage a repulsion-based sampling for spatial and structural
diversity. We know only its abstract, so the potential, the distance and the greedy order are our
choice: the greedy minimisation of a pairwise energy follows ToDRE (arXiv 2505.18757); the potential
is the Riesz energy of a joint distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need, Range, Trail

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 64  # rows of the distance matrix that give its median
CHUNK = 256  # rows of the distance matrix that are computed at once
SPENT = 1e-9  # squared length below which nothing of a unit feature is new


@dataclass(frozen=True, slots=True)
class Repulsion:
    """Tokens that differ in content and place, by greedy repulsion sampling (STS, our choice).

    With unit features x and places p, the squared distances are `f = 2 (1 - x_i . x_j)` and
    `s = |p_i - p_j|^2 / 2`, each divided by its median, and the potential of a pair is
    `(f + spatial * s + 1e-3) ** (-exponent / 2)`. The first token is the one whose nearest token is
    least similar. Each next token has the least sum of potentials with the chosen tokens. Ties go
    to the lower index, so the choice is deterministic. O(N^2 D + N count) time; one float32 matrix
    [N, N].

    The image's energy is the sum of the squared unit features. A choice holds what lies in the
    directions that the chosen ones span, and leaves the rest: what `star_pro` with unit features
    counts, for the tokens that repulsion chooses. Our choice.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "STS, arXiv 2606.03569"
    spatial: Annotated[float, Range(0, 10)] = 1.0
    exponent: Annotated[float, Range(0.1, 64)] = 2.0

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        return self.cuts([candidates], count)[0]

    def cuts(self, candidates: Sequence[Candidates], count: int) -> list[Cutting]:
        return [Cutting(order.sort().values) for order in self._orders(candidates, count)]

    def trail(self, candidates: Candidates, most: int) -> Trail:
        (order,) = self._orders([candidates], most)
        return Trail(order, energy_left(normalised(candidates.features), order))

    def _orders(self, candidates: Sequence[Candidates], count: int) -> Tensor:
        import torch

        pairs = [
            potentials(normalised(one.features), one.grid, self.spatial, self.exponent)
            for one in candidates
        ]
        first = torch.stack([nearest.argmin() for _, nearest in pairs])
        return greedy([potential for potential, _ in pairs], first, count)


def normalised(features: Tensor) -> Tensor:
    """Unit features [N, D] float32; a token of zeros stays zeros."""
    values = features.float()
    return values / values.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def potentials(
    unit: Tensor, grid: Tensor, spatial: float, exponent: float
) -> tuple[Tensor, Tensor]:
    """The potential of each pair of tokens [N, N], and each token's greatest cosine [N].

    `unit` [N, D] and `grid` [N, 2] are unit features and places. Computed CHUNK rows at a time, so
    that the result is the only N x N matrix. Medians are over SAMPLE to 2 * SAMPLE rows.
    """
    import torch

    total = len(unit)
    sample = slice(None, None, max(1, total // SAMPLE))
    scales = [median(part) for part in distances(unit[sample], unit, grid[sample], grid)]
    potential = torch.empty((total, total), device=unit.device)
    nearest = torch.empty(total, device=unit.device)
    for start in range(0, total, CHUNK):
        rows = slice(start, start + CHUNK)
        cosine = unit[rows] @ unit.mT
        content, place = content_distances(cosine), place_distances(grid[rows], grid)
        potential[rows] = joint(content, place, scales, spatial)
        cosine.diagonal(start).fill_(-math.inf)
        nearest[rows] = cosine.amax(1)
    return potential.add_(1e-3).pow_(-exponent / 2), nearest


def distances(x: Tensor, y: Tensor, grid: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances in content and in place between N tokens and M others, [N, M] each.

    `x` [N, D] and `y` [M, D] are unit features, `grid` [N, 2] and `other` [M, 2] places.
    """
    return content_distances(x @ y.mT), place_distances(grid, other)


def joint(content: Tensor, place: Tensor, scales: list[Tensor], spatial: float) -> Tensor:
    """Sum of both squared distances, each divided by its scale; places count `spatial` times."""
    return content / scales[0] + spatial * (place / scales[1])


def content_distances(cosine: Tensor) -> Tensor:
    """The squared distance of unit features with this cosine, of the same shape."""
    return (2 - 2 * cosine).clamp(min=0)


def place_distances(grid: Tensor, other: Tensor) -> Tensor:
    """Half of the squared distance between places [N, 2] and [M, 2], as [N, M]."""
    import torch

    return torch.cdist(grid.float(), other.float()).square() / 2


def greedy(potentials: Sequence[Tensor], first: Tensor, count: int) -> Tensor:
    """Indices [B, count] of B images in their order: start at `first` [B], then always add that of
    least energy.

    Each of `potentials` [N, N] is that of a chosen token (row) and another token (column). Indices
    stay tensors, so nothing waits for the device, and a step is as many calls for all as for one.
    """
    import torch

    rows, total = len(potentials), len(potentials[0])
    potential = torch.stack(list(potentials)) if rows > 1 else potentials[0][None]
    potential = potential.view(rows * total, total)
    before = torch.arange(0, rows * total, total, device=potential.device)
    chosen = torch.empty((rows, count), dtype=torch.long, device=potential.device)
    energy = torch.zeros((rows, total), device=potential.device)
    index = first
    for step in range(count):
        chosen[:, step] = index
        energy += potential.index_select(0, before + index)
        energy.scatter_(1, index[:, None], math.inf)  # no index is chosen twice
        index = energy.argmin(1)
    return chosen


def energy_left(unit: Tensor, order: Tensor) -> Tensor:
    """The share [M] of the energy of `unit` [N, D] that the first 1, 2, ... of `order` [M] leave.

    The energy is the sum of all squares; a choice leaves that of what is orthogonal to the chosen
    rows. By Cholesky of their products, in float64: equal rows need the room.
    """
    import torch

    values = unit.double()
    rows = values.index_select(0, order)
    products = rows @ rows.mT
    products.diagonal().add_(SPENT)  # a row that is spanned already adds nothing
    factor = torch.linalg.cholesky(products)
    held = torch.linalg.solve_triangular(factor, rows @ values.mT, upper=False)
    every = values.square().sum()
    left = every - held.square().sum(1).cumsum(0)
    return (left / every.clamp(min=1e-12)).clamp(min=0).float()


def median(distances: Tensor) -> Tensor:
    """The median, at least 1e-6: in an image of one colour, all distances are 0."""
    return distances.median().clamp(min=1e-6)
