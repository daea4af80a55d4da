"""VisionZip (arXiv 2412.04467, CVPR 2025): dominant tokens, and the rest merged into a few.

Dominant are the tokens that the vision encoder's class token attends to most, in the last layer
that the model reads; where there is no class token, all patches count, as the paper does for
SigLIP. Of the others, every so many is a target, and each other one is merged into the target that
is most like it. Our choices: likeness is the cosine of features, the authors' of keys; a merged
token is the mean of all that it takes in, theirs is the target plus the mean of the others. The
class token is not among the visual tokens here, where theirs counts as a dominant one. Merged
tokens stay in their places; theirs go to the end and positions are counted anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need, Range
from sts_cli.pruning.instruction import most
from sts_cli.pruning.repulsion import normalised

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Visionzip:
    """Tokens that the vision encoder attends to; the others are merged into a few of their own.

    `contextual` is the share of the kept tokens that others are merged into: 10 of 64.
    """

    needs: ClassVar[tuple[Need, ...]] = ("encoder",)
    source: ClassVar[str] = "VisionZip, arXiv 2412.04467"
    contextual: Annotated[float, Range(0, 1)] = 0.16

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        assert candidates.encoder is not None
        total, merging = len(candidates.encoder), round(self.contextual * count)
        dominant = most(candidates.encoder, count - merging)
        if not merging:
            return Cutting(dominant)
        rest = without(dominant, total)
        step = torch.arange(merging, device=rest.device) * len(rest) // merging
        targets = rest[step]
        into = torch.arange(total, device=rest.device)
        into[rest] = nearest(candidates.features, rest, targets)
        return Cutting(torch.cat([dominant, targets]).sort().values, into)


def without(index: Tensor, total: int) -> Tensor:
    """The sorted indices of 0..total - 1 that are not in `index`."""
    import torch

    left = torch.ones(total, dtype=torch.bool, device=index.device).index_fill_(0, index, False)
    return left.int().argsort(descending=True, stable=True)[: total - len(index)]


def nearest(features: Tensor, index: Tensor, targets: Tensor) -> Tensor:
    """For each token `index` [M] the most similar of `targets` [K], a target itself: its index."""
    import torch

    unit = normalised(features)
    found = targets[(unit[index] @ unit[targets].mT).argmax(1)]
    return torch.where(torch.isin(index, targets), index, found)
