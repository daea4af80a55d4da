"""The places of the tokens that were kept, computed only on request."""

from __future__ import annotations

from collections.abc import Sequence

from sts_cli.decoding.tokens import Tokens
from sts_cli.families.default import Prompt
from sts_cli.families.places import Part
from sts_cli.records import KeptTokens, Place


def kept_of(prompts: Sequence[Prompt], seen: Sequence[Tokens]) -> list[tuple[KeptTokens, ...]]:
    """The places of each row's visual tokens, by image: all, and those left after each cut.

    `seen` are the tokens of the batch before the first cut and after each.
    """
    shown = [[image.pixels.shown for image in prompt.images] for prompt in prompts]
    moments = [places_of(tokens, shown) for tokens in seen]
    return [
        tuple(
            KeptTokens(moments[0][row][image], tuple(later[row][image] for later in moments[1:]))
            for image in range(len(prompt.images))
        )
        for row, prompt in enumerate(prompts)
    ]


def places_of(tokens: Tokens, shown: Sequence[Sequence[Part]]) -> list[list[tuple[Place, ...]]]:
    """The places of each row's tokens in the whole of their image, by image."""
    grids, images = tokens.grid.tolist(), tokens.image.tolist()
    return [
        [
            tuple(
                (top + height * place[0], left + width * place[1])
                for place, n in zip(grid, image, strict=True)
                if n == number
            )
            for number, (top, left, height, width) in enumerate(parts)
        ]
        for grid, image, parts in zip(grids, images, shown, strict=True)
    ]
