"""One cut of a batch: which visual tokens stay, and what those that stay become.

Text is never cut. Counts of tokens are known to the program throughout: nothing waits for the
device where each question has one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sts_cli import pruning
from sts_cli.decoding.tokens import Tokens
from sts_cli.engine.choosing import Chosen, choose_row, look_into
from sts_cli.engine.choosing_images import Choices, choose_images, choose_together
from sts_cli.engine.sizes import merged
from sts_cli.families.default import Prompt
from sts_cli.profile import Cut
from sts_cli.pruning import Cutting

Counts = list[list[int]]  # visual tokens of each image of each row


@dataclass(frozen=True)
class Asked:
    """The questions of a batch, as a cut needs to know them."""

    prompts: Sequence[Prompt]
    words: Sequence[int]  # tokens of each prompt after its last image
    proportional: bool  # whether sizes are counted


def cut_tokens(
    tokens: Tokens,
    cut: Cut,
    asked: Asked,
    counts: Counts,
    scores: Tensor | None,
    choices: Choices,
    products: Tensor | None = None,
) -> tuple[Tokens, Counts]:
    """The tokens that `cut` leaves, and how many of each image those are.

    `counts` are those before the cut, `scores` [B, L] or [B, H, L] what a watch of the layer before
    it said,
    `products` [B, H, L] what the layer behind it says of queries and keys.
    """
    method = pruning.build(cut.method, cut.options)
    length = tokens.hidden.shape[1]
    order = tokens.visual.int().argsort(dim=1, stable=True)  # visual tokens last, in their order
    rows: list[tuple[Tensor, Chosen]] = []
    if cut.depth == 0:
        choose_together(method, cut, asked.prompts, choices, asked.proportional)
    for row, (prompt, before) in enumerate(zip(asked.prompts, counts, strict=True)):
        where = order[row, length - sum(before) :]  # [N]
        words = tokens.hidden[row, length - asked.words[row] :]
        of_row = None if products is None else products[row][:, where]
        if not prompt.images:
            chosen = Chosen(Cutting(where), None, [])
        elif cut.depth == 0:
            chosen = choose_images(method, cut, prompt, words, of_row, choices, asked.proportional)
        else:
            look = look_into(method, tokens, row, where, prompt, words, scores, of_row)
            chosen = choose_row(method, cut, look, prompt, before, asked.proportional)
        rows.append((where, chosen))
    left = [chosen.counts for _, chosen in rows]
    if left == counts:
        return tokens, counts
    if any(chosen.cutting.into is not None for _, chosen in rows):
        tokens = with_merged(tokens, rows)
    if asked.proportional:
        tokens = with_sizes(tokens, rows)
    keep = tokens.mask & ~tokens.visual & ~tokens.idle
    for row, (where, chosen) in enumerate(rows):
        keep[row].index_fill_(0, where[chosen.cutting.keep], True)
    text = [prompt.text for prompt in asked.prompts]
    return tokens.keep(keep, [n + sum(row) for n, row in zip(text, left, strict=True)]), left


def with_sizes(tokens: Tokens, rows: Sequence[tuple[Tensor, Chosen]]) -> Tokens:
    """The tokens before any is dropped, with what those that stay will stand for."""
    size = tokens.log_size
    size = torch.zeros_like(tokens.grid[..., 0]) if size is None else size.clone()
    for row, (where, chosen) in enumerate(rows):
        if chosen.log_size is not None:
            size[row].index_copy_(0, where[chosen.cutting.keep], chosen.log_size)
    return replace(tokens, log_size=size)


def with_merged(tokens: Tokens, rows: Sequence[tuple[Tensor, Chosen]]) -> Tokens:
    """The tokens before any is dropped, those that stay as the mean of what they take in."""
    hidden, residuals = tokens.hidden.clone(), [one.clone() for one in tokens.residuals]
    weight = torch.ones_like(tokens.grid[..., 0])
    weight = weight if tokens.log_size is None else tokens.log_size.exp()
    for row, (where, chosen) in enumerate(rows):
        if chosen.cutting.into is not None:
            for values in (hidden, *residuals):
                mean = merged(values[row, where], weight[row, where], chosen.cutting)
                values[row].index_copy_(0, where[chosen.cutting.keep], mean)
    return replace(tokens, hidden=hidden, residuals=tuple(residuals))
