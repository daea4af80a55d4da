"""From a profile's stage to a keep mask over a batch of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sts_cli import pruning
from sts_cli.engine.tokens import Tokens
from sts_cli.families.default import Encoded, Prompt
from sts_cli.profile import Profile, Semantics, Structure, kept
from sts_cli.pruning.proportional import log_sizes

FLOOR = 0.25  # of an image's proportional share in stage 2, so that none loses every token


class Choices:
    """Stage 1's choice for each image, made once: it does not depend on the question."""

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


def structure_mask(
    tokens: Tokens, prompts: Sequence[Prompt], stage: Structure, choices: Choices
) -> Tensor:
    """[B, L] bool: all text, and of every image what stage 1 keeps of it."""
    keep = tokens.mask & ~tokens.visual
    for row, prompt in enumerate(prompts):
        for number, image in enumerate(prompt.images):
            where = (tokens.image[row] == number).nonzero()[:, 0]
            keep[row, where[choices.of(image, stage)]] = True
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
    if len(budgets) == 1:
        return torch.empty(0, dtype=torch.long, device=scores.device)
    best = []
    for number, budget in enumerate(budgets):
        own = (image == number).nonzero()[:, 0]
        order = scores[own].argsort(descending=True, stable=True)
        best.append(own[order[: math.ceil(FLOOR * budget)]])
    return torch.cat(best)


def sized(tokens: Tokens, keep: Tensor, profile: Profile) -> Tokens:
    """`tokens`, those that `keep` [B, L] leaves counting as many as they stand for from now on.

    Unchanged where the profile's attention is plain, or nothing is dropped.
    """
    if profile.attention == "plain" or bool((keep | ~tokens.mask).all()):
        return tokens
    before = tokens.log_size
    size = torch.zeros_like(tokens.grid[..., 0]) if before is None else before.clone()
    places = torch.cat([tokens.image[..., None].float(), tokens.grid], dim=-1)
    for row in range(len(size)):
        where = tokens.visual[row].nonzero()[:, 0]
        kept = keep[row, where]
        if not kept.all():
            size[row, where[kept]] = log_sizes(
                tokens.hidden[row, where], places[row, where], size[row, where], kept
            )
    return replace(tokens, log_size=size)


def visual_counts(tokens: Tokens) -> list[int]:
    """Visual tokens in each row."""
    return torch.as_tensor(tokens.visual.sum(1)).tolist()


def visual_places(tokens: Tokens) -> list[Tensor]:
    """[N, 3] for each row: which image each visual token shows, its row and its column in 0..1."""
    every = torch.cat([tokens.image[..., None].float(), tokens.grid], dim=-1)
    return [row[visual] for row, visual in zip(every, tokens.visual, strict=True)]
