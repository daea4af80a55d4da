"""A control: the means of tokens around a regular lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.grid import lattice

APART = 2.0  # farther than two places in one image can be


@dataclass(frozen=True, slots=True)
class Pooling:
    """Tokens on a regular grid, each the mean of the tokens nearest to it: a control."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "a control"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        places = torch.cat([candidates.grid.float(), APART * candidates.image[:, None]], dim=1)
        keep = lattice(candidates.grid, count)
        into = keep[torch.cdist(places, places[keep]).argmin(1)]
        into[keep] = keep  # two tokens may share a place, as a tile and an overview do
        return Cutting(keep, into)
