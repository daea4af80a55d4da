"""Stage 2 of STS by attention alone: keep the tokens that the instruction attends to.

The layer, the rows and the reduction are our choice (see docs/method.md): STS's abstract only names
instruction-aware cross-attention inside the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Instruction:
    """Tokens with the most attention from the instruction.

    `rows` names the attention rows that count: those of all words of the question, or of the last
    token. Ties go to the lower index.
    """

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    source: ClassVar[str] = "STS, arXiv 2606.03569"
    rows: Literal["all", "last"] = "all"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.attention is not None
        return Cutting(most(candidates.attention, count))


def most(scores: Tensor, count: int) -> Tensor:
    """Sorted indices [count] of the highest `scores` [N]; ties go to the lower index."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values
