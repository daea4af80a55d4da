"""VScan (arXiv 2505.22654, TMLR 2026), its first stage: a global and a local scan of the encoder.

Half of the tokens are those that the class token attends to most in the last layer that the model
reads; the other half are the best in each window of the image by its attention in an early layer,
as many in each. Each dropped token is merged into the kept one that is most like it. The authors'
early layer is 6 of 24: a quarter. Where there is no class token, all patches count. Our choice: 4 x
4 windows, as those of 6 x 6 tokens in their 24 x 24. The second stage is a second cut at half
depth, to a third: `fastv` for LLaVA, or `feather` with `uniform: 0` for Qwen, where the authors
leave RoPE out. Positions stay; the authors' code for LLaVA counts them anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need, Range
from sts_cli.pruning.instruction import most
from sts_cli.pruning.visionzip import nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Vscan:
    """Tokens that the vision encoder attends to, over all and by window; the others are merged.

    `windows` is the number of windows along each side of the image.
    """

    needs: ClassVar[tuple[Need, ...]] = ("encoder", "shallow")
    source: ClassVar[str] = "VScan, arXiv 2505.22654"
    windows: Annotated[float, Range(1, 32)] = 4

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        assert candidates.encoder is not None and candidates.shallow is not None
        everywhere = most(candidates.encoder, count - count // 2)
        local = candidates.shallow.index_fill(0, everywhere, -math.inf)
        rank = ranks(local, candidates.grid, int(self.windows))
        rank = rank.float().index_fill(0, everywhere, math.inf)
        best = local.argsort(descending=True, stable=True)
        here = best[rank[best].argsort(stable=True)][: count // 2]
        keep = torch.cat([everywhere, here]).sort().values
        every = torch.arange(len(rank), device=keep.device)
        return Cutting(keep, nearest(candidates.features, every, keep))


def ranks(score: Tensor, grid: Tensor, windows: int) -> Tensor:
    """[N]: how many tokens of its window of the image have a higher score than each."""
    import torch

    place = (grid * windows).long().clamp(0, windows - 1)
    window = place[:, 0] * windows + place[:, 1]  # [N]
    best = score.argsort(descending=True, stable=True)
    members = torch.nn.functional.one_hot(window[best], windows * windows)  # [N, windows^2]
    before = (members.cumsum(0) - members).gather(1, window[best][:, None])[:, 0]
    return torch.empty_like(before).index_copy_(0, best, before)
