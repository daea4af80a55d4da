"""SGL (arXiv 2412.03324, CVPR 2025): a small model guides a large one.

The small model, `guide` in a profile, answers first. A token's importance is the attention that it
gets there from the words after the image and from each token of the answer, over all layers and
heads. The large one keeps the most important tokens: the authors' code keeps 30 to 40% after 30 to
40% of the layers. Our choices: any depth, also before the first layer; heads of all layers count
alike, as in the code; where the guide has another grid, scores move by place, to the nearest token.
The early exit, where the guide's own answer is taken if it is sure and consistent, is not there:
the paper's code only prints both numbers. Positions stay, as in the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.instruction import most


@dataclass(frozen=True, slots=True)
class Sgl:
    """Tokens that a smaller model, the profile's guide, looked at most while it answered."""

    needs: ClassVar[tuple[Need, ...]] = ("guide",)
    source: ClassVar[str] = "SGL, arXiv 2412.03324"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.guide is not None
        return Cutting(most(candidates.guide, count))
