"""Tokens.keep: what is dropped is gone everywhere at once, and nothing else moves."""

from __future__ import annotations

import torch

from sts_cli.decoding.tokens import Tokens
from sts_cli.families.default import Prompt


def tokens() -> Tokens:
    """Two rows of six; row 1 has two slots of padding. Hidden values name row and column."""
    column = torch.arange(6.0)
    hidden = torch.stack([column, 10 + column])[..., None]
    image = torch.tensor([[-1, 0, 0, 0, -1, -1], [-1, -1, -1, 0, 1, -1]])
    mask = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    return Tokens(
        hidden=hidden,
        mask=mask,
        padded=True,
        positions=(mask.cumsum(1) - 1).clamp(min=0)[None],
        image=image,
        segment=image.clone(),
        grid=hidden.repeat(1, 1, 2),
        residuals=(hidden + 100,),
    )


def keep(*rows: str) -> torch.Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def test_rows_are_packed_right_in_their_order_with_their_own_positions():
    kept = tokens().keep(keep("x.x.xx", "..x..x"), [4, 2])
    assert kept.hidden[..., 0].tolist()[0] == [0, 2, 4, 5]
    assert kept.hidden[1, 2:, 0].tolist() == [12, 15]
    assert kept.mask.tolist() == [[True] * 4, [False, False, True, True]]
    assert kept.positions[0, 0].tolist() == [0, 2, 4, 5]
    assert kept.positions[0, 1, 2:].tolist() == [0, 3]
    assert torch.equal(kept.residuals[0][kept.mask], kept.hidden[kept.mask] + 100)


def test_padding_is_never_kept_and_shows_nothing():
    kept = tokens().keep(torch.ones(2, 6, dtype=torch.bool), [6, 4])
    assert kept.mask.sum(1).tolist() == [6, 4]
    smaller = tokens().keep(keep("xxxx..", "xxxx.x"), [4, 3])
    assert smaller.visual.sum(1).tolist() == [3, 1]
    assert (smaller.image[~smaller.mask] == -1).all()


def test_keeping_everything_changes_nothing():
    once = tokens().keep(keep("x.xxxx", "..xx.x"), [5, 3])
    twice = once.keep(once.mask, [5, 3])
    assert torch.equal(once.hidden[once.mask], twice.hidden[twice.mask])


def test_padding_is_known_without_a_look_at_the_mask():
    assert tokens().keep(keep("x.x.xx", "..x..x"), [4, 2]).padded
    assert not tokens().keep(keep("x.x...", "..x..x"), [2, 2]).padded


def test_words_are_the_text_after_the_last_image_only():
    assert Prompt([5, 9, 9, 9, 7, 7], ()).words(9) == 2
    assert Prompt([9, 5, 9], ()).words(9) == 0
    assert Prompt([5, 7, 7], ()).words(9) == 3
