"""ToDRE (arXiv 2505.18757), its first stage: greedy max-sum diversity.

The paper starts at the token that the vision encoder's class token attends to most, and always adds
the token with the least sum of cosines to the chosen ones. Our choice: start at the token that is
least like the mean token, so that every family can be asked; the paper's ablation finds seeds
within 0.4 points. Its second stage drops all visual tokens after 7/8 of the layers where text and
image hardly attend to each other. Budgets here never depend on the question, so that stage is
written as a second cut: {method: fastv, depth: 0.875, keep: 2}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.repulsion import greedy, normalised


@dataclass(frozen=True, slots=True)
class Todre:
    """Tokens with the least sum of cosine similarities to each other, chosen greedily."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "ToDRE, arXiv 2505.18757"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        unit = normalised(candidates.features)
        first = (unit @ unit.mean(0)).argmin()
        return Cutting(greedy([unit @ unit.mT], first.view(1), count)[0].sort().values)
