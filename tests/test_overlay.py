"""The overlay shows what was kept, where it was."""

from __future__ import annotations

from PIL import Image

from sts_cli.records import KeptTokens
from sts_cli.report.overlay import overlay, spacing


def test_kept_patches_stay_bright_and_dropped_ones_turn_dark():
    every = [((row + 0.5) / 4, (column + 0.5) / 4) for row in range(4) for column in range(4)]
    drawn = overlay(
        Image.new("RGB", (80, 40), "white"),
        KeptTokens(tuple(every), (tuple(every[:8]), tuple(every[:1]))),
    )
    assert drawn.size == (1024, 512)
    kept, second, dropped = (drawn.getpixel(xy)[0] for xy in ((128, 64), (384, 64), (384, 448)))
    assert kept == 255
    assert dropped < second < kept


def test_spacing_is_the_side_of_a_patch():
    assert spacing([0.125, 0.375, 0.375, 0.875]) == 0.25
    assert spacing([0.5, 0.5]) == 1.0
