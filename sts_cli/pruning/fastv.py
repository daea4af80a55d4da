"""FastV (arXiv 2403.06764, ECCV 2024): the tokens that the last word attends to in an early layer.

The score is the attention of the last token of the prompt in the layer before the cut, mean over
heads. The paper speaks of the average attention; the authors' code takes the last row, and so do
we. The authors cut after layer 2 or 3 of 32: `depth: 0.0625`. Their code keeps original positions,
as here; it chooses by the first row of a batch for all, which we do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.instruction import most


@dataclass(frozen=True, slots=True)
class Fastv:
    """Tokens with the most attention from the last token of the prompt."""

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    source: ClassVar[str] = "FastV, arXiv 2403.06764"
    rows: ClassVar[Literal["last"]] = "last"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.attention is not None
        return Cutting(most(candidates.attention, count))
