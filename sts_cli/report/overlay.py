"""The visual tokens that each cut kept, drawn on the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from sts_cli.records import KeptTokens, Place

LONGEST = 1024  # pixels of the drawn image's longer side
MADE_BY = "sts overlay"  # a mark in the file: another overlay may replace it
DROPPED, CUT_LATER = 0.22, 0.6  # brightness of tokens dropped by the first cut, and by the last


def overlay(image: Image.Image, kept: KeptTokens) -> Image.Image:
    """The image, darkened patch by patch: the earlier a token was dropped, the darker.

    Patches whose token reached the last layer stay bright and get a frame. In an image of tiles,
    each token of each tile is drawn at its place.
    """
    scale = LONGEST / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    base = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    high = spacing([row for row, _ in kept.every])
    wide = spacing([column for _, column in kept.every])

    def box(place: Place) -> tuple[float, float, float, float]:
        row, column = place
        left, top = (column - wide / 2) * size[0], (row - high / 2) * size[1]
        return left, top, left + wide * size[0] - 1, top + high * size[1] - 1

    light = Image.new("L", size, round(255 * DROPPED))
    pen = ImageDraw.Draw(light)
    moments = kept.left or (kept.every,)
    for number, places in enumerate(moments, 1):
        for place in places:
            pen.rectangle(box(place), fill=round(255 * brightness(number, len(moments))))
    drawn = Image.composite(base, Image.new("RGB", size), light)
    frame = ImageDraw.Draw(drawn)
    for place in moments[-1]:
        frame.rectangle(box(place), outline=(255, 196, 0), width=2)
    return drawn


def brightness(number: int, cuts: int) -> float:
    """The brightness of a token that `number` of the cuts kept; 1 if all did."""
    if number == cuts:
        return 1.0
    return DROPPED + (CUT_LATER - DROPPED) * number / max(1, cuts - 1)


def spacing(values: Sequence[float]) -> float:
    """The smallest distance between different values: the side of a patch; 1 if all are equal."""
    ordered = sorted({round(value, 6) for value in values})
    steps = [b - a for a, b in zip(ordered, ordered[1:], strict=False)]
    return min(steps, default=1.0)


def png(drawn: Image.Image) -> bytes:
    """The overlay as a PNG file with the mark of sts."""
    info, file = PngInfo(), io.BytesIO()
    info.add_text("Software", MADE_BY)
    drawn.save(file, "png", pnginfo=info)
    return file.getvalue()


def is_overlay(path: Path) -> bool:
    """True if `png` made the file."""
    try:
        with path.open("rb") as file:
            return b"tEXtSoftware\0" + MADE_BY.encode() in file.read(200)
    except OSError:
        return False
