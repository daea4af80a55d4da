"""FEATHER (arXiv 2412.13180, ICCV 2025): attention without RoPE, and a uniform sample beside it.

RoPE makes early layers attend to the end of the image. So the last word's queries and all keys are
compared without it, with the softmax over visual tokens only, mean over heads. At the first cut the
authors add a grid of every third row and column to the best tokens; here the grid's tokens are a
share `uniform` of the budget, which stays exact. Their second cut has no grid: `uniform: 0`. They
cut after layers 8 and 16 of 32, and take the queries and keys of the layer before; ours are those
of the layer behind the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need, Range
from sts_cli.pruning.grid import lattice
from sts_cli.pruning.instruction import most


@dataclass(frozen=True, slots=True)
class Feather:
    """Tokens with the most attention from the last token without RoPE, and some on a grid."""

    needs: ClassVar[tuple[Need, ...]] = ("products",)
    source: ClassVar[str] = "FEATHER, arXiv 2412.13180"
    rows: ClassVar[Literal["last"]] = "last"
    uniform: Annotated[float, Range(0, 1)] = 0.33

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.products is not None
        score = candidates.products.softmax(-1).mean(0)
        sample = round(self.uniform * count)
        if sample:
            score = score.index_fill(0, lattice(candidates.grid, sample), 2.0)  # above any share
        return Cutting(most(score, count))
