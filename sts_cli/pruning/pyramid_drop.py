"""PyramidDrop (arXiv 2410.17247, CVPR 2025): half of the tokens go at each of three depths.

At each cut the tokens stay that the last word of the question attends to most. The schedule is the
profile's: cuts at depths 0.25, 0.5 and 0.75 with keep 0.5, 0.25 and 0.125. The authors score with
the queries and keys of the layer behind the cut; ours are those of the layer before it, which has
computed them. Their code counts positions anew after each cut; ours keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.instruction import most


@dataclass(frozen=True, slots=True)
class PyramidDrop:
    """Tokens with the most attention from the last token, at several depths in turn."""

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    source: ClassVar[str] = "PyramidDrop, arXiv 2410.17247"
    rows: ClassVar[Literal["last"]] = "last"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.attention is not None
        return Cutting(most(candidates.attention, count))
