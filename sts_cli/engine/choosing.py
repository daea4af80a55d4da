"""The choice of one row's visual tokens between layers, and what choices everywhere share.

The images of a question share one budget, of which each keeps at least a part. Before the first
layer it is otherwise: `choosing_images`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from sts_cli.decoding.tokens import Tokens
from sts_cli.engine.importance import guide_of
from sts_cli.engine.sizes import log_sizes
from sts_cli.families.default import Prompt
from sts_cli.profile import Cut, most
from sts_cli.pruning import OF_ENCODER, Candidates, Cutting, Method

FLOOR = 0.25  # of an image's own budget that it keeps, whatever the question is about


@dataclass(frozen=True)
class Chosen:
    """A row's visual tokens after a cut."""

    cutting: Cutting
    log_size: Tensor | None  # [K]; None where sizes are not counted
    counts: list[int]  # of each image


def look_into(
    method: Method,
    tokens: Tokens,
    row: int,
    where: Tensor,
    prompt: Prompt,
    words: Tensor,
    scores: Tensor | None,
    products: Tensor | None,
) -> Candidates:
    """A row's visual tokens at the places `where` [N], as `method` sees them between layers."""
    size = torch.ones(len(where), device=where.device)
    grid, image = tokens.grid[row, where], tokens.image[row, where]
    paid = None if scores is None else scores[row][..., where]  # watched only if needed
    seed = sum(image.pixels.seed for image in prompt.images) if "seed" in method.needs else None
    return Candidates(
        features=tokens.hidden[row, where],
        grid=grid,
        image=image,
        size=size if tokens.log_size is None else tokens.log_size[row, where].float().exp(),
        question=words if "question" in method.needs else None,
        seed=seed,
        products=products,
        guide=guide_of(prompt, grid, image) if "guide" in method.needs else None,
        heads=paid if "heads" in method.needs else None,
        attention=mean_of_heads(paid) if "attention" in method.needs else None,
    )


def mean_of_heads(paid: Tensor | None) -> Tensor | None:
    """Attention [N], of that which is by head [H, N] or not [N]."""
    return paid if paid is None or paid.ndim == 1 else paid.mean(0)


def choose_row(
    method: Method,
    cut: Cut,
    look: Candidates,
    prompt: Prompt,
    before: list[int],
    proportional: bool,
) -> Chosen:
    """A row after a cut between layers: its images share one budget."""
    images = zip(prompt.images, before, strict=True)
    budgets = [most(cut.keep, len(image.features), there) for image, there in images]
    count = min(sum(budgets), sum(before))
    if len(before) == 1:
        cutting, left = exactly(method, look, count), [count]
    else:
        floors = [
            min(math.ceil(FLOOR * own), there) for own, there in zip(budgets, before, strict=True)
        ]
        cutting, left = with_floors(method, look, before, floors, count)
    if not proportional:
        return Chosen(cutting, None, left)
    sizes, start = [], 0
    kept_to = 0
    for there, stays in zip(before, left, strict=True):
        own = slice(start, start + there)
        mine = cutting.keep[kept_to : kept_to + stays] - start
        into = None if cutting.into is None else cutting.into[own] - start
        log_size = look.size[own].log()
        part = Cutting(mine, into)
        # An image that keeps nothing counts for no other.
        if stays:
            sizes.append(log_sizes(look.features[own], look.grid[own], log_size, part))
        start, kept_to = start + there, kept_to + stays
    return Chosen(cutting, torch.cat(sizes), left)


def with_floors(
    method: Method, look: Candidates, before: list[int], floors: list[int], count: int
) -> tuple[Cutting, list[int]]:
    """`count` of several images' tokens, at least `floors` of each, and how many of each.

    The method chooses among all. An image that it leaves less than its floor is cut alone, to the
    floor, and the others share the rest.
    """
    own = [index.to(look.features.device) for index in ranges(before)]
    free, shared = count, list(range(len(before)))
    alone: list[tuple[Tensor, Cutting]] = []
    while True:
        part = torch.cat([own[number] for number in shared])
        cutting = exactly(method, part_of(look, part), free)
        stays = look.image[part[cutting.keep]].bincount(minlength=len(before)).tolist()
        starved = [number for number in shared if stays[number] < floors[number]]
        if not starved:
            break
        for number in starved:
            cut_alone = exactly(method, part_of(look, own[number]), floors[number])
            alone.append((own[number], cut_alone))
            free -= floors[number]
            shared.remove(number)
    whole = joined([(part, cutting), *alone])
    left = look.image[whole.keep].bincount(minlength=len(before)).tolist()
    return whole, left


def exactly(method: Method, look: Candidates, count: int) -> Cutting:
    """The method's choice of `count` tokens, or all. Raises RuntimeError for another number."""
    total = len(look.features)
    if count >= total:
        return Cutting(torch.arange(total, device=look.features.device))
    return checked(method, method.cut(look, count), count)


def checked(method: Method, cutting: Cutting, count: int) -> Cutting:
    """A method's cutting. Raises RuntimeError for another number of tokens than `count`."""
    if len(cutting.keep) != count:
        raise RuntimeError(
            f"the method {type(method).__name__} kept {len(cutting.keep)} tokens where it was "
            f"asked for {count}"
        )
    return cutting


def joined(parts: Sequence[tuple[Tensor, Cutting]]) -> Cutting:
    """Cuttings of disjoint parts as one; each part is the indices that its cutting refers to."""
    keep = torch.cat([part.to(one.keep.device)[one.keep] for part, one in parts]).sort().values
    if all(one.into is None for _, one in parts):
        return Cutting(keep)
    every = torch.cat([part.to(keep.device) for part, _ in parts])
    into = torch.cat(
        [
            part.to(keep.device)[nowhere(one, len(part)) if one.into is None else one.into]
            for part, one in parts
        ]
    )
    order, weight = every.argsort(), None
    if any(one.weight is not None for _, one in parts):
        weights = [
            torch.ones(len(part), device=keep.device) if one.weight is None else one.weight
            for part, one in parts
        ]
        weight = torch.cat(weights)[order]
    return Cutting(keep, into[order], weight)


def ranges(counts: Sequence[int]) -> list[Tensor]:
    """The indices of each of several parts that lie one after the other."""
    ends = accumulate(counts)
    return [torch.arange(end - n, end) for n, end in zip(counts, ends, strict=True)]


def nowhere(cutting: Cutting, total: int) -> Tensor:
    """Each of `total` tokens into itself: right where a part keeps all of its tokens."""
    return torch.arange(total, device=cutting.keep.device)


def part_of(look: Candidates, index: Tensor) -> Candidates:
    """The look at the tokens `index` alone."""
    each: dict[str, Tensor | None] = {
        name: getattr(look, name)
        for name in ("features", "grid", "image", "size", "attention", "guide", *OF_ENCODER)
    }
    return replace(
        look,
        products=None if look.products is None else look.products[:, index],
        heads=None if look.heads is None else look.heads[:, index],
        **{name: None if values is None else values[index] for name, values in each.items()},
    )
