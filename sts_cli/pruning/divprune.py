"""DivPrune (arXiv 2503.02175, CVPR 2025): the subset whose nearest two tokens are farthest apart.

Reimplemented from the paper's equations; its code is not free for all uses. The max-min problem is
solved greedily: begin with the token whose nearest neighbour is farthest, then always add the token
whose nearest chosen token is farthest, by cosine distance. Our choices: newline tokens of
LLaVA-NeXT take part, as in the authors' code; each image of a question is cut by itself, and kept
tokens keep their positions, where that code uses the first image's choice and counts anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.repulsion import normalised

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Divprune:
    """Tokens whose smallest cosine distance is as large as greedy search makes it."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "DivPrune, arXiv 2503.02175"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        return Cutting(farthest(normalised(candidates.features), count).sort().values)


def farthest(unit: Tensor, count: int) -> Tensor:
    """Indices [count] in the order of choice, each farthest from those before it by cosine.

    `unit` [N, D] are unit features. The first is the most isolated token. Ties go to the lower
    index. One matrix [N, N].
    """
    import torch

    cosine = unit @ unit.mT
    cosine.fill_diagonal_(-math.inf)
    chosen = torch.empty(count, dtype=torch.long, device=unit.device)
    nearest = torch.full_like(cosine[0], -math.inf)
    index = cosine.amax(1).argmin().view(1)
    for step in range(count):
        chosen[step : step + 1] = index
        nearest = torch.maximum(nearest, cosine.index_select(0, index).view(-1))
        nearest.index_fill_(0, index, math.inf)  # no index is chosen twice
        index = nearest.argmin().view(1)
    return chosen
