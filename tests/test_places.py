"""Where visual tokens lie: every layout that a family uses."""

from __future__ import annotations

import torch

from sts_cli.families.places import raster, square_tiles, with_newlines


def test_one_tile_is_a_raster():
    places = square_tiles(16, 16, (640, 480))
    assert torch.equal(places, raster(4, 4))
    assert places[0].tolist() == [0.125, 0.125]
    assert places[5].tolist() == [0.375, 0.375]


def test_tiles_lie_side_by_side_and_the_whole_image_comes_last():
    places = square_tiles(3 * 4, 4, (200, 100))  # two tiles side by side, then the whole
    assert places[:4, 1].max() < 0.5 < places[4:8, 1].min()
    assert torch.equal(places[8:], raster(2, 2))


def test_tall_images_stack_their_tiles():
    places = square_tiles(3 * 4, 4, (100, 200))
    assert places[:4, 0].max() < 0.5 < places[4:8, 0].min()


def test_tokens_that_are_no_square_follow_the_shape_of_the_image():
    assert torch.equal(square_tiles(8, 8, (400, 200)), raster(2, 4))


def test_newline_tokens_stand_at_the_right_border():
    places = with_newlines(16 + 4 * (8 + 1), 16, (200, 100))
    assert torch.equal(places[:16], raster(4, 4))
    assert places[16 + 8].tolist() == [0.125, 1.0]
    assert torch.equal(places[16:24], raster(4, 8)[:8])
