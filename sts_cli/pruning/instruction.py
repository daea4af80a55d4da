"""Stage 2 of STS by attention alone: keep the tokens that the instruction attends to.

The layer, the rows and the reduction are our choice (see docs/method.md): STS's abstract only names
instruction-aware cross-attention inside the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need, Range

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Instruction:
    """Tokens with the most attention from the instruction.

    `rows` names the attention rows that count: those of all words of the question, or of the last
    token. Ties go to the lower index. `spread` shares scores with neighbours, as in `scores`.
    """

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    source: ClassVar[str] = "STS, arXiv 2606.03569"
    rows: Literal["all", "last"] = "all"
    spread: Annotated[float, Range(0, 1)] = 0.0

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        return Cutting(most(scores(candidates, self.spread), count))


def most(scores: Tensor, count: int) -> Tensor:
    """Sorted indices [count] of the highest `scores` [N]; ties go to the lower index."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def scores(candidates: Candidates, spread: float) -> Tensor:
    """The attention to each token [N] float32, shared with its neighbours if `spread` is not 0.

    Then a token's score is the sum over its image's tokens of exp(-d^2 / (2 spread^2)) times
    theirs, with d the distance of their places in shares of the picture. So the attention to one
    letter also keeps those beside it. O(N^2) time and memory.
    """
    import torch

    assert candidates.attention is not None
    attention = candidates.attention.float()
    if not spread:
        return attention
    places = candidates.grid.float()
    near = torch.exp(torch.cdist(places, places).square() / (-2 * spread**2))
    return (near * (candidates.image[:, None] == candidates.image)) @ attention
