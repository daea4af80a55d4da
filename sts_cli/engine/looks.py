"""A look at the tokens that a cut kept, of the first few images of a run: what notes are made from.

A look waits for the device, so only a few images get one, after the seconds of their prefill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sts_cli.decoding.tokens import Tokens
from sts_cli.families.default import Prompt
from sts_cli.pruning.repulsion import normalised
from sts_cli.records import Look

IMAGES = 8  # of a run that are looked at
SAMPLE = 64  # tokens of an image that are compared with each other, at most
REACH = 0.25  # of the image's side: a place is covered if a kept token is as near


class Looks:
    """The images of a run that were looked at; each once, and the first few only."""

    def __init__(self, images: int = IMAGES):
        self.left = images
        self._seen: set[int] = set()

    def rows(self, prompts: Sequence[Prompt]) -> list[int]:
        """The prompts to look at now: of one image each, which was not looked at before."""
        chosen: list[int] = []
        for row, prompt in enumerate(prompts):
            if self.left and len(prompt.images) == 1:
                seed = prompt.images[0].pixels.seed
                if seed not in self._seen:
                    self._seen.add(seed)
                    self.left -= 1
                    chosen.append(row)
        return chosen


@dataclass(frozen=True)
class Glimpse:
    """A row's visual tokens before and after a cut."""

    before: Tensor  # [N, D]; features
    after: Tensor  # [K, D]
    left: Tensor  # [K, 2]; places of those that stay


def glimpse(before: Tokens, after: Tokens, row: int, count: int, left: int) -> Glimpse:
    """The `count` visual tokens of a row before a cut, and the `left` after it; waits for none."""
    features, _ = visual(before, row, count)
    return Glimpse(features, *visual(after, row, left))


def looks_at(prompt: Prompt, glimpses: Sequence[Glimpse]) -> tuple[Look, ...]:
    """The figures of each cut of a prompt of one image."""
    (image,) = prompt.images
    return tuple(look(one.before, one.after, image.grid, one.left) for one in glimpses)


def visual(tokens: Tokens, row: int, count: int) -> tuple[Tensor, Tensor]:
    """Features and places of a row's `count` visual tokens."""
    where = tokens.visual[row].int().argsort(stable=True)[tokens.hidden.shape[1] - count :]
    return tokens.hidden[row, where], tokens.grid[row, where]


def look(before: Tensor, after: Tensor, every: Tensor, left: Tensor) -> Look:
    """The figures of a cut of one image's tokens.

    `before` [N, D] and `after` [K, D] are the features that the cut saw and left, `every` [M, 2]
    the places of all the image's tokens, `left` [K, 2] those of the tokens that stayed.
    """
    kept, had = unit(after), unit(before)
    few = min(len(kept), SAMPLE)
    evenly = torch.linspace(0, len(kept) - 1, few).round().long()
    drawn = torch.randperm(len(had), generator=torch.Generator().manual_seed(0))[:few]
    away = torch.cdist(every.float(), left.float()).amin(1) > REACH
    row, column = (left.float().mean(0) - every.float().mean(0)).tolist()
    return Look(
        kept=len(kept),
        alike=alike(kept),
        alike_before=alike(had),
        rank=effective_rank(kept[evenly]) / effective_rank(had[drawn]),
        bare=float(away.float().mean()),
        row=row,
        column=column,
    )


def unit(features: Tensor) -> Tensor:
    """The features [N, D] at length 1, in float32 on the CPU."""
    return normalised(features).nan_to_num().cpu()


def alike(unit: Tensor) -> float:
    """The mean cosine of two different rows of `unit` [N, D]; 0 for one alone."""
    count = len(unit)
    return (float(unit.sum(0).square().sum()) - count) / max(1, count * (count - 1))


def effective_rank(unit: Tensor) -> float:
    """exp of the entropy of the normalised spectrum (Roy and Vetterli, 2007), from 1 to N."""
    values = torch.linalg.eigvalsh(unit @ unit.T).clamp(min=0)
    shares = values / values.sum().clamp(min=1e-12)
    return float(torch.special.entr(shares).sum().exp())
