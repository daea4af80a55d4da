"""CDPruner (arXiv 2506.10967, NeurIPS 2025): diversity that is conditioned on the question.

A determinantal point process with the kernel r_i cos(x_i, x_j) r_j, of which the greedy maximum is
kept. r is each token's relevance to the question, moved to 0..1 over the image. The paper takes
CLIP's text encoder and both of CLIP's projections, which checkpoints of LLaVA do not contain. Our
choice, which is OpenVINO GenAI's: the cosine of a token and the mean of the question's word
embeddings, in the language model's space. All words after the image count, also the template's. The
authors move r over the whole batch; here it is over one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.repulsion import normalised
from sts_cli.pruning.star_pro import cosines, pivots

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cdpruner:
    """Tokens that differ from each other and are like the question's words: a greedy DPP."""

    needs: ClassVar[tuple[Need, ...]] = ("question",)
    source: ClassVar[str] = "CDPruner, arXiv 2506.10967"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        assert candidates.question is not None
        weight = relevance(normalised(candidates.features), candidates.question)
        kernel = weight[:, None] * cosines(candidates.features) * weight
        return Cutting(pivots(kernel, count).order.sort().values)


def relevance(unit: Tensor, question: Tensor) -> Tensor:
    """[N] in 0..1: the cosine of unit features [N, D] to the mean of `question` [Q, D].

    1 for all where there is no question, or where all are equally like it.
    """
    import torch

    if not len(question):
        return torch.ones_like(unit[:, 0])
    cosine = unit @ normalised(question.float().mean(0, keepdim=True))[0]
    low, high = cosine.aminmax()
    return torch.where(high - low > 1e-6, (cosine - low) / (high - low).clamp(min=1e-6), 1.0)
