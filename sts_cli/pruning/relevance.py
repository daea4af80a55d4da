"""Stage 2 of STS: tokens that the instruction attends to, and that differ from each other.

Attention alone drops tokens that the answer needs later. An example: while the model reads a
question about a sign, it hardly attends to the sign's third letter (figures: docs/accuracy.md). So
the tokens repel each other again, and relevant tokens less. This weighting is our choice; relevance
and diversity in one kernel are CDPruner's idea (arXiv 2506.10967).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need, Range
from sts_cli.pruning.instruction import scores
from sts_cli.pruning.repulsion import greedy, normalised, potentials


@dataclass(frozen=True, slots=True)
class Relevance:
    """Tokens that differ and that the instruction attends to: weighted repulsion (STS, our choice).

    A token's energy is the sum of its potentials with the chosen tokens, as in `repulsion`, divided
    by (its attention / the mean attention) ** weight. Weight 0 is repulsion alone; a large weight
    is nearly attention alone. The most attended token comes first. `rows` and `spread` as in
    `instruction`.
    """

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    source: ClassVar[str] = "STS, arXiv 2606.03569"
    rows: Literal["all", "last"] = "all"
    spread: Annotated[float, Range(0, 1)] = 0.0
    weight: Annotated[float, Range(0, 16)] = 0.1
    spatial: Annotated[float, Range(0, 10)] = 1.0
    exponent: Annotated[float, Range(0.1, 64)] = 2.0

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        potential, _ = potentials(
            normalised(candidates.features), candidates.grid, self.spatial, self.exponent
        )
        attention = scores(candidates, self.spread)
        relative = attention / attention.mean().clamp(min=1e-12)
        potential /= relative.clamp(min=1e-3).pow(self.weight)
        return Cutting(greedy([potential], attention.argmax().view(1), count)[0].sort().values)
