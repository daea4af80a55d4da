"""STAR (arXiv 2505.12359), its first stage: visual self-attention, right after the encoder.

A token's score is the attention that it gets from all patches, mean over heads, in the last layer
of the vision encoder that the model reads. The paper's text was not at hand: a review of it names
the mean of each row of a softmax, which is the same number for all, so we take columns. Which
attention is meant is our choice, too: the encoder's own. The second stage, cross-modal attention at
a later layer, is a second cut by `instruction`: the mean over all words of the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.instruction import most


@dataclass(frozen=True, slots=True)
class Star:
    """Tokens that get the most attention from the whole image in the vision encoder."""

    needs: ClassVar[tuple[Need, ...]] = ("patches",)
    source: ClassVar[str] = "STAR, arXiv 2505.12359"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.patches is not None
        return Cutting(most(candidates.patches, count))
