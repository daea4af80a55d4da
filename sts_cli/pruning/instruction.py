"""Stage 2 of STS by attention alone: keep the tokens that the instruction attends to.

The layer, the rows and the reduction are our choice (see docs/method.md): STS's abstract speaks of
instruction-aware cross-attention inside the language model and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sts_cli.pruning import Cutting, Look, Need


@dataclass(frozen=True, slots=True)
class Instruction:
    """Tokens that the instruction's words attend to, and nothing else.

    `rows` says whose attention counts: that of all words of the question, or of the last token.
    Ties go to the lower index.
    """

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    rows: Literal["all", "last"] = "all"

    def cut(self, look: Look, count: int) -> Cutting:
        assert look.attention is not None
        order = look.attention.argsort(descending=True, stable=True)
        return Cutting(order[:count].sort().values)
