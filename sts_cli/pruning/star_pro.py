"""STAR-Pro (arXiv 2609.05916), its first stage: residual pivoted QR.

Always add the token with the largest residual, which is what is left of its feature once the
directions of the chosen tokens are taken out. The authors take the encoder's features before the
projector, not normalised; ours are those after it, which every family has. They share the budget
out over tiles of an image; here an image is cut as a whole. `unit` and `centred` rows are options,
since raw features begin with tokens of large norm. The second stage is two cuts by `instruction`,
at depths 0.375 and 0.75, with a quarter and an eighth of the first stage's tokens. In the authors'
code the layer that is scored sees both ways and positions are counted anew; here neither is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need, Trail
from sts_cli.pruning.repulsion import normalised

if TYPE_CHECKING:
    from torch import Tensor

SPENT = 1e-6  # share of the largest residual below which nothing is left to tell tokens apart


@dataclass(frozen=True, slots=True)
class StarPro:
    """Tokens that together span the most of the image's features: pivoted QR.

    Features are taken as they are (`raw`), at length 1 (`unit`), or without their mean (`centred`).
    What a choice leaves of the image's energy is the sum of the squared residuals, as a share of
    the sum of the squared features.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "STAR-Pro, arXiv 2609.05916"
    features: Literal["raw", "unit", "centred"] = "raw"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        return Cutting(self.trail(candidates, count).order.sort().values)

    def trail(self, candidates: Candidates, most: int) -> Trail:
        values = candidates.features.float()
        if self.features == "unit":
            return pivots(cosines(values), most)
        if self.features == "centred":
            values = values - values.mean(0)
        return pivots(values @ values.mT, most)


def cosines(features: Tensor) -> Tensor:
    """[N, N] float32; exactly 1 on the diagonal, so that rounding does not choose among equals."""
    unit = normalised(features)
    found = unit @ unit.mT
    found.diagonal().round_()
    return found


def pivots(kernel: Tensor, count: int) -> Trail:
    """The first `count` tokens: the greedy maximum of the kernel's determinant.

    `kernel` [N, N] float32, positive semidefinite. This is Cholesky with pivots; for the products
    of features it picks as QR with pivots does. Once all is spanned, the rest are those with the
    largest entries on the diagonal. O(N count^2) time.
    """
    import torch

    residual, original = kernel.diagonal().clone(), kernel.diagonal().clone()
    every = original.sum().clamp(min=1e-12)
    left = torch.empty(count, device=kernel.device)
    least = SPENT * original.amax().clamp(min=1e-12)
    factor = torch.zeros((count, len(kernel)), device=kernel.device)
    chosen = torch.empty(count, dtype=torch.long, device=kernel.device)
    for step in range(count):
        index = torch.where(residual.amax() > least, residual, original).argmax().view(1)
        chosen[step : step + 1] = index
        row = kernel.index_select(0, index)
        row = row - factor[:step].index_select(1, index).mT @ factor[:step]
        row = row / residual[index].clamp(min=least).sqrt()
        factor[step] = row[0]
        residual = residual - row[0] ** 2
        for values in (residual, original):
            values.index_fill_(0, index, -math.inf)  # no index is chosen twice
        left[step] = residual.clamp(min=0).sum()
    return Trail(chosen, left / every)
