"""Prefixes: what prompts about the same images begin with, run once for all of them.

A prompt's prefix ends with its last visual token, before the question. Layers are causal, so a
prefix does not depend on what follows, up to the first cut that asks for the question: attention
from its words, or their embeddings. Until then each distinct prefix of a batch is one row, and what
is cut of it is cut once. Then its keys are given to every prompt that begins with it, and the words
run through the same layers behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from sts_cli.decoding.tokens import Tokens
from sts_cli.engine.choosing_images import asks
from sts_cli.engine.cutting import Asked
from sts_cli.families.default import Prompt
from sts_cli.profile import Cut
from sts_cli.pruning import find

MOST = 2 / 3  # prefixes per prompt; with more, two runs take as long as one (docs/performance.md)
Step = tuple[Cut | None, range, Cut | None]  # a cut, the layers after it, the next cut


@dataclass(frozen=True)
class Prefix:
    """The G distinct prefixes of B prompts, and the words that follow."""

    tokens: Tokens  # [G, L]
    asked: Asked  # G prompts without words
    words: Tokens  # [B, R]
    of: Sequence[int]  # [B]; the prefix of each prompt

    @property
    def rows(self) -> Tensor:
        """The prefix of each prompt, [B]."""
        return torch.tensor(self.of, device=self.words.hidden.device)

    @property
    def width(self) -> int:
        """The most tokens and padding of one row."""
        return self.tokens.hidden.shape[1] + self.words.hidden.shape[1]


def prefix_of(tokens: Tokens, asked: Asked) -> Prefix | None:
    """The prefixes of `tokens` [B, L], the embedded prompts; None if too few prompts share one."""
    if min(asked.words) == 0 or not all(prompt.images for prompt in asked.prompts):
        return None
    starts = [
        Prompt(prompt.ids[:-words], prompt.images)
        for prompt, words in zip(asked.prompts, asked.words, strict=True)
    ]
    keys = [(one.images, tuple(one.ids)) for one in starts]
    first = [row for row, key in enumerate(keys) if keys.index(key) == row]
    if len(first) > MOST * len(keys):
        return None
    device, length = tokens.hidden.device, tokens.hidden.shape[1]
    place = torch.arange(length) - (length - torch.tensor(asked.words))[:, None]
    words, index = (place >= 0).to(device), torch.tensor(first, device=device)
    prompts = [starts[row] for row in first]
    return Prefix(
        tokens=tokens.rows(index).keep(~words[index], [len(one.ids) for one in prompts]),
        asked=Asked(prompts, [0] * len(first), asked.proportional),
        words=tokens.keep(words, asked.words),
        of=[first.index(keys.index(key)) for key in keys],
    )


def shared_steps(steps: Sequence[Step]) -> Sequence[Step]:
    """The first steps of a prefill, up to a cut that asks for the question; none without layers."""
    shared = list(takewhile(lambda step: step[0] is None or not asks(find(step[0].method)), steps))
    return shared if any(span for _, span, _ in shared) else []
