"""The importance of visual tokens to a whole answer, and its way from grid to grid.

SGL (arXiv 2412.03324): a token's importance is the attention that it gets in all layers and heads,
from the words after the image and from each token of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sts_cli.decoding import Watch
from sts_cli.decoding.torch import TorchDecoder
from sts_cli.families.default import Encoded, Family, Prompt


@torch.inference_mode()
def importance(
    family: Family, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> list[tuple[Tensor, ...]]:
    """For each prompt, the importance [N] float32 of each image's tokens to its answer's ids.

    The sum over layers and rows, and the mean over heads. Layers are causal, so one pass over a
    prompt and its answer gives what was paid while it was generated. The token that ended an answer
    is no part of it. PyTorch runs the layers, whatever else runs them for answers.
    """
    decoder = TorchDecoder(family.model)
    whole = [
        replace(prompt, ids=[*prompt.ids, *ids])
        for prompt, ids in zip(prompts, answers, strict=True)
    ]
    tokens = family.embed(whole)
    length = tokens.hidden.shape[1]
    rows = torch.tensor([prompt.words(family.image_token_id) for prompt in whole])
    most = max(1, int(rows.max()))
    watch = Watch((torch.arange(most) >= most - rows[:, None]).to(tokens.hidden.device))
    cache = decoder.cache(len(whole), 0)
    order = tokens.visual.int().argsort(dim=1, stable=True)  # visual tokens last, in their order
    paid = torch.zeros((len(whole), length), device=tokens.hidden.device)
    for layer in range(decoder.layers):
        tokens, scores = decoder.run(tokens, range(layer, layer + 1), cache, watch)
        assert scores is not None
        paid += scores
    paid *= rows.to(paid.device)[:, None]
    found = []
    for row, prompt in enumerate(prompts):
        visual = paid[row, order[row, length - prompt.visual :]]
        found.append(visual.split([len(image.features) for image in prompt.images]))
    return found


def moved(scores: Tensor, places: Tensor, others: Tensor) -> Tensor:
    """The scores [M] of tokens at `places` [M, 2] as scores [N] of tokens at `others` [N, 2].

    Each token gives its score to the nearest of the others; one that gets several has their mean,
    one that gets none the score nearest to it. Equal places have equal scores.
    """
    rounded = others.float().round(decimals=5)  # tiles and whole pictures are computed apart
    unique, where = rounded.unique(dim=0, return_inverse=True)
    apart = torch.cdist(places.float(), unique)  # [M, U]
    nearest = apart.argmin(1)
    total = torch.zeros(len(unique), device=scores.device).index_add(0, nearest, scores)
    count = nearest.bincount(minlength=len(unique))
    found = torch.where(count > 0, total / count.clamp(min=1), scores[apart.argmin(0)])
    return found[where]


def in_picture(image: Encoded) -> Tensor:
    """The places [N, 2] of an image's tokens in the whole picture, which may have been cropped."""
    top, left, height, width = image.pixels.shown
    scale = image.grid.new_tensor([height, width])
    return image.grid * scale + image.grid.new_tensor([top, left])


def guided(prompt: Prompt, images: Sequence[Encoded], scores: Sequence[Tensor]) -> Prompt:
    """The prompt with a guide's scores [M] of each image, at the prompt's own tokens.

    `images` are the same images as the guide sees them.
    """
    return replace(
        prompt,
        guide=tuple(
            moved(score.to(own.grid.device), in_picture(seen).to(own.grid.device), in_picture(own))
            for own, seen, score in zip(prompt.images, images, scores, strict=True)
        ),
    )


def guide_of(prompt: Prompt, grid: Tensor, image: Tensor) -> Tensor:
    """The guide's scores [K] of a prompt's tokens that are left at `grid` [K, 2] of `image` [K]."""
    found = torch.zeros(len(grid), device=grid.device)
    for number, (own, scores) in enumerate(zip(prompt.images, prompt.guide, strict=True)):
        same = torch.cdist(grid.float(), own.grid.float()).argmin(1)
        found = torch.where(image == number, scores[same], found)
    return found
