"""A control: tokens drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sts_cli.pruning import Candidates, Cutting, Need, Range


@dataclass(frozen=True, slots=True)
class Random:
    """Tokens drawn uniformly at random, seeded by the image: a control.

    Equal images and equal `draw` give equal choices.
    """

    needs: ClassVar[tuple[Need, ...]] = ("seed",)
    source: ClassVar[str] = "a control"
    draw: Annotated[float, Range(0, 2**31)] = 0

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        assert candidates.seed is not None
        generator = torch.Generator().manual_seed(candidates.seed + int(self.draw))
        chosen = torch.randperm(len(candidates.features), generator=generator)[:count].sort().values
        return Cutting(chosen.to(candidates.features.device))
