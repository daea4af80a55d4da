"""Tokens.keep: what is dropped is gone everywhere at once, and nothing else moves."""

from __future__ import annotations

import torch

from sts_cli.engine.tokens import Tokens


def tokens() -> Tokens:
    """Two rows of six; row 1 has two slots of padding. Hidden values name row and column."""
    column = torch.arange(6.0)
    hidden = torch.stack([column, 10 + column])[..., None]
    image = torch.tensor([[-1, 0, 0, 0, -1, -1], [-1, -1, -1, 0, 1, -1]])
    mask = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    return Tokens(
        hidden=hidden,
        mask=mask,
        positions=(mask.cumsum(1) - 1).clamp(min=0)[None],
        image=image,
        run=image.clone(),
        grid=hidden.repeat(1, 1, 2),
        residuals=(hidden + 100,),
    )


def keep(*rows: str) -> torch.Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def test_rows_are_packed_right_in_their_order_with_their_own_positions():
    kept = tokens().keep(keep("x.x.xx", "..x..x"))
    assert kept.hidden[..., 0].tolist()[0] == [0, 2, 4, 5]
    assert kept.hidden[1, 2:, 0].tolist() == [12, 15]
    assert kept.mask.tolist() == [[True] * 4, [False, False, True, True]]
    assert kept.positions[0, 0].tolist() == [0, 2, 4, 5]
    assert kept.positions[0, 1, 2:].tolist() == [0, 3]
    assert torch.equal(kept.residuals[0][kept.mask], kept.hidden[kept.mask] + 100)


def test_padding_is_never_kept_and_shows_nothing():
    kept = tokens().keep(torch.ones(2, 6, dtype=torch.bool))
    assert kept.mask.sum(1).tolist() == [6, 4]
    smaller = tokens().keep(keep("xxxx..", "xxxx.x"))
    assert smaller.visual.sum(1).tolist() == [3, 1]
    assert (smaller.image[~smaller.mask] == -1).all()


def test_keeping_everything_changes_nothing():
    once = tokens().keep(keep("x.xxxx", "..xx.x"))
    twice = once.keep(once.mask)
    assert torch.equal(once.hidden[once.mask], twice.hidden[twice.mask])


def test_instruction_is_the_text_after_the_last_image_only():
    assert tokens().instruction.tolist() == [
        [False, False, False, False, True, True],
        [False, False, False, False, False, True],
    ]
