"""The last layers of a vision tower on some of its patches; the others are rebuilt at the end."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from sts_cli.decoding.tokens import take
from sts_cli.profile import Choice, Narrowing

STEP = 2  # one patch in so many, in both directions, always stays under `likeness`


class Narrow(nn.Module):
    """Layers of a tower in one: the first of them runs on all patches, the others on some.

    A dropped patch belongs to the nearest that stays, as both are after the first layer. In
    attention, the one that stays counts as all that belong to it, where the layers take a mask
    (InternVL's do not). At the end, a dropped patch is what it was, moved as that one was. What
    precedes the square of patches, such as CLIP's class token, always stays. After IPCV (arXiv
    2512.18747), which counts each patch once and moves by ten neighbours.
    """

    def __init__(self, layers: list[nn.Module], cut: Narrowing):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.cut = cut

    def forward(self, hidden: Tensor, *masks: Tensor | None, **given: Any) -> Tensor:
        """[B, N, D] to the same, as the layers one after the other; a mask is [B, 1, N, N]."""
        first, *others = self.layers
        after = first(hidden, *masks, **given)
        length = int(hidden.shape[1])  # a constant where the tower is traced
        square = isqrt(length) ** 2
        before = length - square  # the class token
        count = round(self.cut.keep * square)
        if count == square:
            for layer in others:
                after = layer(after, *masks, **given)
            return after
        patches = after[:, before:]
        order = ranked(self.cut.method, hidden[:, before:].float(), patches.float())
        stay, go = take(patches, order[:, :count]), take(patches, order[:, count:])
        nearest = distances(go.float(), stay.float()).argmin(-1)
        entered = torch.cat([after[:, :before], stay], 1)
        left = entered
        if masks:
            bias = log_sizes(nearest, before, count).to(after.dtype)
            masks = tuple(among(mask, order[:, :count] + before, bias) for mask in masks)
        for layer in others:
            left = layer(left, *masks, **given)
        moved = go + take((left - entered)[:, before:], nearest)
        every = take(torch.cat([left[:, before:], moved], 1), order.argsort(-1))
        return torch.cat([left[:, :before], every], 1)


def ranked(method: Choice, before: Tensor, after: Tensor) -> Tensor:
    """The patches [B, N] in the order in which they stay; `before` and `after` a layer [B, N, D].

    `likeness`: a grid, then those that are least like any of its patches. `change`: those that the
    layer changed most (IPCV).
    """
    if method == "change":
        return (after - before).norm(dim=-1).argsort(-1, descending=True)
    side = isqrt(int(after.shape[1]))
    place = torch.arange(side * side, device=after.device)
    on_grid = (place // side % STEP == STEP // 2) & (place % side % STEP == STEP // 2)
    likeness = distances(after, after[:, on_grid]).amin(-1)
    return likeness.masked_fill(on_grid, float("inf")).argsort(-1, descending=True)


def log_sizes(nearest: Tensor, before: int, count: int) -> Tensor:
    """The logarithms [B, before + count] of what each token counts as.

    `nearest` [B, M]: to which of `count` patches each dropped one belongs.
    """
    one = torch.ones(nearest.shape[0], count, device=nearest.device)
    sizes = one.scatter_add(1, nearest, torch.ones_like(nearest, dtype=one.dtype))
    return nn.functional.pad(sizes.log(), (before, 0))


def among(mask: Tensor | None, index: Tensor, bias: Tensor) -> Tensor:
    """The mask of attention for the tokens that stay [B, 1, 1 or K, K], with `bias` [B, K].

    They are those before the patches, and `index` [B, M] of all.
    """
    bias = bias[:, None, None]
    if mask is None:
        return bias
    before = bias.shape[-1] - index.shape[1]
    first = torch.arange(before, device=index.device).expand(index.shape[0], -1)
    places = torch.cat([first, index], 1)
    mask = mask.gather(2, places[:, None, :, None].expand(-1, 1, -1, mask.shape[-1]))
    mask = mask.gather(3, places[:, None, None].expand(-1, 1, places.shape[1], -1))
    return bias.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else mask + bias


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances [B, M, K] between the rows of [B, M, D] and [B, K, D]."""
    lengths = one.square().sum(-1)[:, :, None] + other.square().sum(-1)[:, None]
    return lengths - 2 * one @ other.transpose(1, 2)
