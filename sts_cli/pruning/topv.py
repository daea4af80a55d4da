"""TopV (arXiv 2503.18278, CVPR 2025): tokens that others can be built from, by optimal transport.

The paper moves mass from source tokens (before a layer) to target tokens (behind it) at a cost of
three parts: unlikeness of features, distance in the image, and distance from its centre. Sinkhorn
iterations solve it, and what a source contributes is its importance. Some of the dropped tokens are
taken back uniformly. Its formulas were not at hand, so these are our choices: sources and targets
are both the hidden states at the cut; the cost is `(1 - cos) + spatial * d(i, j) + central * d(i,
centre)`, distances as shares of the diagonal; targets must each get their mass, while sources may
give more or less, so that importances differ (unbalanced Sinkhorn, 10 iterations, in logarithms);
`recover` of the budget lie on a grid. The authors cut once, after layer 2: `depth: 0.0625`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need, Range
from sts_cli.pruning.grid import lattice
from sts_cli.pruning.instruction import most
from sts_cli.pruning.repulsion import normalised

if TYPE_CHECKING:
    from torch import Tensor

ITERATIONS = 10
LOOSE = 0.5  # 1: all sources give the same; 0: each target takes what is nearest


@dataclass(frozen=True, slots=True)
class Topv:
    """Tokens that contribute the most to all others, by optimal transport, and some on a grid.

    `spatial` and `central` weigh the parts of the cost; `entropy` is the softness of the plan.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "TopV, arXiv 2503.18278"
    spatial: Annotated[float, Range(0, 10)] = 0.5
    central: Annotated[float, Range(0, 10)] = 0.1
    entropy: Annotated[float, Range(0.01, 10)] = 0.1
    recover: Annotated[float, Range(0, 1)] = 0.1

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        unit, places = normalised(candidates.features), candidates.grid.float()
        cost = 1 - unit @ unit.mT
        cost += self.spatial * torch.cdist(places, places) / 2**0.5
        centre = (places - places.mean(0)).norm(dim=-1) / 2**0.5
        score = contributions(cost + self.central * centre[:, None], self.entropy)
        score = score.round(decimals=4)  # equal ones stay equal, whatever the kernels round
        sample = round(self.recover * count)
        if sample:
            score = score.index_fill(0, lattice(places, sample), math.inf)
        return Cutting(most(score, count))


def contributions(cost: Tensor, entropy: float) -> Tensor:
    """[N]: the mass that each source (row of `cost` [N, M]) gives; each target takes 1."""
    import torch

    kernel = -cost / entropy
    give, take = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
    for _ in range(ITERATIONS):
        give = -LOOSE * (kernel + take).logsumexp(1)
        take = -(kernel + give[:, None]).logsumexp(0)
    return (kernel + give[:, None] + take).exp().sum(1)
