"""Trimmed-Llama (arXiv 2504.00557, 2025): what any head of a cross-attention layer attends to.

Made for models that read images through cross-attention (Mllama): their first such layer reads all
visual tokens, and each of its heads names the ones with most of its attention; those that any head
names are the keys and values of all later ones. The authors set the share k that a head names, so
that the number that stays follows the picture. Here it is a budget, as of every method: tokens are
ordered by their best rank in any head, which is the union for a growing k, and those of the last
rank by their attention, mean over heads. Attention is the mean over all words after the image. Of
the paper, its abstract and summaries were at hand; there was no code.

The cut belongs after the first cross-attention layer, `depth: 0.125` of the 8 of Llama 3.2 Vision.
In other families the attention is that of all words in the layer before the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sts_cli.pruning import Candidates, Cutting, Need


@dataclass(frozen=True, slots=True)
class TrimmedLlama:
    """Tokens that any head attends to most, by their best rank in a head."""

    needs: ClassVar[tuple[Need, ...]] = ("heads",)
    source: ClassVar[str] = "Trimmed-Llama, arXiv 2504.00557"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.heads is not None
        heads = candidates.heads.float()  # [H, N]
        rank = heads.argsort(dim=1, descending=True, stable=True).argsort(dim=1).amin(0)
        order = heads.mean(0).argsort(descending=True, stable=True)
        order = order[rank[order].argsort(stable=True)]
        return Cutting(order[:count].sort().values)
