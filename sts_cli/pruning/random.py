"""A control: tokens drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sts_cli.pruning import Cutting, Look, Need, Range


@dataclass(frozen=True, slots=True)
class Random:
    """Tokens drawn uniformly at random, seeded by the image: a control.

    Equal images and equal `draw` give equal choices.
    """

    needs: ClassVar[tuple[Need, ...]] = ("seed",)
    draw: Annotated[float, Range(0, 2**31)] = 0

    def cut(self, look: Look, count: int) -> Cutting:
        import torch

        assert look.seed is not None
        generator = torch.Generator().manual_seed(look.seed + int(self.draw))
        chosen = torch.randperm(len(look.features), generator=generator)[:count].sort().values
        return Cutting(chosen.to(look.features.device))
