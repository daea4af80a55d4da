"""A control: tokens on a regular lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """Tokens on a regular grid: a control."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "a control"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        return Cutting(lattice(candidates.grid, count))


def lattice(grid: Tensor, count: int) -> Tensor:
    """Sorted indices [count] of the tokens nearest to a centred lattice of `count` points.

    `grid` [N, 2] holds rows and columns in 0..1, N >= count. The lattice is as square as `count`
    allows. Where two points have the same nearest token, the token farthest from all taken ones is
    added.
    """
    import torch

    places = grid.float()
    rows = max(1, round(count**0.5))
    lines = [count // rows + (row < count % rows) for row in range(rows)]
    points = torch.tensor(
        [
            ((row + 0.5) / rows, (column + 0.5) / columns)
            for row, columns in enumerate(lines)
            for column in range(columns)
        ],
        device=places.device,
    )  # [count, 2]
    taken = torch.cdist(points, places).argmin(1).unique()
    while len(taken) < count:
        distance = torch.cdist(places, places[taken]).amin(1)
        taken = torch.cat([taken, distance.argmax()[None]]).unique()
    return taken
