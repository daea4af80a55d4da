"""From a profile's stage to a keep mask over a batch of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sts_cli import pruning
from sts_cli.engine.tokens import Tokens
from sts_cli.families.default import Encoded, Prompt
from sts_cli.profile import Semantics, Structure, kept
from sts_cli.pruning.proportional import log_sizes

FLOOR = 0.25  # of an image's proportional share in stage 2, so that none loses every token


class Choices:
    """What stage 1 makes of each image, once: it does not depend on the question."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Encoded, dict[str, Tensor]] = WeakKeyDictionary()

    def of(self, image: Encoded, stage: Structure) -> Tensor:
        """Sorted indices of the image's visual tokens that the stage keeps."""
        made = self._made.setdefault(image, {})
        key = repr(stage)
        if key not in made:
            count = kept(stage.keep, len(image.features))
            choose = pruning.function(stage.method)
            made[key] = choose(image.features, image.grid, count, **stage.options)
        return made[key]

    def sizes(self, image: Encoded, stage: Structure) -> Tensor:
        """Logarithms of how many of the image's tokens each of those kept stands for."""
        made = self._made.setdefault(image, {})
        key = f"sizes of {stage}"
        if key not in made:
            keep = torch.zeros(len(image.features), dtype=torch.bool, device=image.features.device)
            keep[self.of(image, stage)] = True
            alone = torch.zeros(len(keep), device=keep.device)
            made[key] = log_sizes(image.features, image.grid, alone, keep)
        return made[key]


def structure_mask(
    tokens: Tokens, prompts: Sequence[Prompt], stage: Structure, choices: Choices
) -> Tensor:
    """[B, L] bool: all text, and of every image what stage 1 keeps of it."""
    keep = tokens.mask & ~tokens.visual
    for row, number, where in images_of(tokens):
        keep[row, where[choices.of(prompts[row].images[number], stage)]] = True
    return keep


def semantics_mask(
    tokens: Tokens, scores: Tensor, counts: Sequence[Sequence[int]], stage: Semantics
) -> Tensor:
    """[B, L] bool: all text, and of every row's visual tokens what stage 2 keeps.

    `scores` [B, L] is the attention that the instruction paid; `counts` gives each row's images'
    numbers of visual tokens before any pruning, which the stage's share is a share of.
    """
    keep = tokens.mask & ~tokens.visual
    choose = pruning.function(stage.method)
    for row, images in enumerate(counts):
        where = tokens.visual[row].nonzero()[:, 0]
        budgets = [kept(stage.keep, count) for count in images]
        budget = min(sum(budgets), len(where))
        looked: dict[str, Tensor] = {}
        if pruning.SEMANTICS[stage.method].looks:
            sure = floors(scores[row, where], tokens.image[row, where], budgets)
            looked = {"features": tokens.hidden[row, where], "sure": sure}
        chosen = choose(
            scores[row, where], tokens.grid[row, where], budget, **looked, **stage.options
        )
        keep[row, where[chosen]] = True
    return keep


def floors(scores: Tensor, image: Tensor, budgets: Sequence[int]) -> Tensor:
    """Indices of the best few of N tokens of each image, where there are several images.

    `scores` and `image` [N]; the latter says which image a token shows. Each keeps at least `FLOOR`
    of its budget.
    """
    if len(budgets) <= 1:
        return torch.empty(0, dtype=torch.long, device=scores.device)
    best = []
    for number, budget in enumerate(budgets):
        own = (image == number).nonzero()[:, 0]
        order = scores[own].argsort(descending=True, stable=True)
        best.append(own[order[: math.ceil(FLOOR * budget)]])
    return torch.cat(best)


def structure_sizes(
    tokens: Tokens, prompts: Sequence[Prompt], stage: Structure, choices: Choices
) -> Tokens:
    """`tokens` before stage 1 drops any, with what the kept ones will stand for."""
    size = torch.zeros_like(tokens.grid[..., 0])
    for row, number, where in images_of(tokens):
        image = prompts[row].images[number]
        size[row, where[choices.of(image, stage)]] = choices.sizes(image, stage)
    return replace(tokens, log_size=size) if bool(size.any()) else tokens


def semantics_sizes(tokens: Tokens, keep: Tensor) -> Tokens:
    """`tokens` before stage 2 leaves those of `keep` [B, L], with what these will stand for.

    A method without floors may leave an image nothing: then its tokens count for none.
    """
    before = tokens.log_size
    size = torch.zeros_like(tokens.grid[..., 0]) if before is None else before.clone()
    for row, _, where in images_of(tokens):
        stays = keep[row, where]
        if bool(stays.any()):
            hidden, grid = tokens.hidden[row, where], tokens.grid[row, where]
            size[row, where[stays]] = log_sizes(hidden, grid, size[row, where], stays)
    return replace(tokens, log_size=size) if bool(size.any()) else tokens


def images_of(tokens: Tokens) -> Iterator[tuple[int, int, Tensor]]:
    """Every image of every row: the row, the image's number, and where its tokens are."""
    for row, last in enumerate(tokens.image.amax(1).tolist()):
        for number in range(last + 1):
            yield row, number, (tokens.image[row] == number).nonzero()[:, 0]


def visual_counts(tokens: Tokens) -> list[int]:
    """Visual tokens in each row."""
    return torch.as_tensor(tokens.visual.sum(1)).tolist()


def visual_places(tokens: Tokens) -> list[Tensor]:
    """[N, 3] for each row: which image each visual token shows, its row and its column in 0..1."""
    every = torch.cat([tokens.image[..., None].float(), tokens.grid], dim=-1)
    return [row[visual] for row, visual in zip(every, tokens.visual, strict=True)]
