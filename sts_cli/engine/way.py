"""Prompts on their way through the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sts_cli.decoding.tokens import Tokens
from sts_cli.engine.cutting import Asked, Counts
from sts_cli.engine.looks import Glimpse, glimpse


@dataclass
class Way:
    """A batch of B prompts between two layers, and what it went through."""

    asked: Asked
    tokens: Tokens
    left: list[Counts]  # visual tokens of each image of each row: all, then after each cut
    places: bool
    seen: list[Tokens]  # the tokens at those moments, if places were asked for
    glimpses: dict[int, list[Glimpse]]  # of the rows that are looked at, at each cut
    scores: Tensor | None = None  # [B, L] or [B, H, L]; what a watch of the last layer said
    select: float = 0.0  # seconds

    @classmethod
    def start(cls, tokens: Tokens, asked: Asked, places: bool, looks: Sequence[int]) -> Way:
        """Embedded prompts, before the first layer and any cut; `looks` are the rows to look at."""
        counts = [[len(image.features) for image in prompt.images] for prompt in asked.prompts]
        seen = [tokens] if places else []
        return cls(asked, tokens, [counts], places, seen, {row: [] for row in looks})

    def cut(self, tokens: Tokens, counts: Counts) -> None:
        """Go on with the `tokens` that a cut left, `counts` of each image."""
        for row, glimpses in self.glimpses.items():
            (had,), (has,) = self.left[-1][row], counts[row]
            glimpses.append(glimpse(self.tokens, tokens, row, had, has))
        self.tokens = tokens
        self.left.append(counts)
        if self.places:
            self.seen.append(tokens)

    def join(self, prefixes: Way, of: Sequence[int]) -> None:
        """Put what the prefixes went through before these words: `of` [B] names that of each row.

        The scores are of both already.
        """
        rows = torch.tensor(of, device=self.tokens.hidden.device)
        self.tokens = prefixes.tokens.rows(rows).followed_by(self.tokens)
        self.left += [[counts[row] for row in of] for counts in prefixes.left[1:]]
        self.seen += [tokens.rows(rows) for tokens in prefixes.seen[1:]]
        for row, glimpses in self.glimpses.items():
            glimpses += prefixes.glimpses[of[row]]
        self.select += prefixes.select
