"""VFlowOpt (arXiv 2508.05211, ICCV 2025): importance in the encoder, and recycling of the rest.

The most important tokens stay; the others are merged, by importance, into a few of their own.
Importance is the attention from all patches in the vision encoder. The authors count only patches
that get more than t times the mean themselves; t is ours at 0, the low end of their search, and the
entropy of the picture is left out: its weight is 0 in all their published settings. Our choice: the
recycled tokens are those of the others that are farthest apart by cosine, and each other one goes
into the nearest. The authors search ratios and numbers on data of their own; here the profile says
them. They cut again at layers 9 and 18 of 28 by the last word's attention: `fastv`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need, Range
from sts_cli.pruning.divprune import farthest
from sts_cli.pruning.instruction import most
from sts_cli.pruning.repulsion import normalised
from sts_cli.pruning.visionzip import nearest, without


@dataclass(frozen=True, slots=True)
class Vflowopt:
    """Tokens that the whole image attends to in the encoder; the others are recycled into a few.

    `recycled` is the number of kept tokens that others are merged into, at most half of all kept.
    """

    needs: ClassVar[tuple[Need, ...]] = ("patches",)
    source: ClassVar[str] = "VFlowOpt, arXiv 2508.05211"
    recycled: Annotated[float, Range(0, 64)] = 12

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        assert candidates.patches is not None
        total, merging = len(candidates.patches), min(int(self.recycled), count // 2)
        best = most(candidates.patches, count - merging)
        if not merging:
            return Cutting(best)
        rest = without(best, total)
        targets = rest[farthest(normalised(candidates.features[rest]), merging)]
        into = torch.arange(total, device=rest.device)
        into[rest] = nearest(candidates.features, rest, targets)
        keep = torch.cat([best, targets]).sort().values
        return Cutting(keep, into, candidates.patches.float().clamp(min=1e-12))
