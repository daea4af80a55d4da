"""Stage 2 of STS: tokens that the instruction attends to, and that differ from each other.

Attention alone drops what an answer needs later: while a question about a sign is read, hardly any
word attends to the third letter on it (docs/accuracy.md has the figures). So the tokens repel each
other once more, each the less the more relevant it is. That weighting is our choice; relevance
and diversity in one kernel are CDPruner's idea (arXiv 2506.10967).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sts_cli.pruning import Cutting, Look, Need, Range
from sts_cli.pruning.repulsion import greedy, normalised, potentials


@dataclass(frozen=True, slots=True)
class Relevance:
    """Repulsion again, eased by what the instruction's words attend to (STS, our choice).

    A token's energy is the sum of the chosen ones' potentials, as `repulsion` defines them, divided
    by (its attention / the mean attention) ** weight: 0 is repulsion alone, a large weight
    attention alone. The most attended token comes first. `rows` as in `instruction`.
    """

    needs: ClassVar[tuple[Need, ...]] = ("attention",)
    rows: Literal["all", "last"] = "all"
    weight: Annotated[float, Range(0, 16)] = 0.1
    spatial: Annotated[float, Range(0, 10)] = 1.0
    exponent: Annotated[float, Range(0.1, 64)] = 2.0

    def cut(self, look: Look, count: int) -> Cutting:
        assert look.attention is not None
        repel, _ = potentials(normalised(look.features), look.grid, self.spatial, self.exponent)
        attention = look.attention.float()
        relative = attention / attention.mean().clamp(min=1e-12)
        repel /= relative.clamp(min=1e-3).pow(self.weight)
        return Cutting(greedy(repel, attention.argmax(), count))
