"""SparseVLM (arXiv 2410.04417, ICML 2025): only the words that look like the image are asked.

These words, the raters, are those whose mean similarity to the image's tokens is at least the mean
over all words, by the softmax over words of their products before the first layer. A token's score
is the raters' mean attention in the layer before the cut, mean over heads. The authors cut after
layers 2, 6 and 15 of 32. As in their second version, nothing dropped is merged and positions stay;
its division by attention that RoPE alone would give, and its choice of heads, are left out. The
words here are all tokens after the last image, also the template's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.instruction import most


@dataclass(frozen=True, slots=True)
class Sparsevlm:
    """Tokens with the most attention from those words that are most like the image."""

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    source: ClassVar[str] = "SparseVLM, arXiv 2410.04417"
    rows: ClassVar[Literal["raters"]] = "raters"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.attention is not None
        return Cutting(most(candidates.attention, count))
