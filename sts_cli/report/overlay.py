"""Which visual tokens each stage kept, drawn on the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

Place = tuple[float, float]  # row and column of a token's centre, each in 0..1
LONGEST = 1024  # pixels of the drawn image's longer side
MADE_BY = "sts overlay"  # in the file, so that it may be replaced by another
DROPPED, STRUCTURE = 0.22, 0.6  # brightness of what stage 1 dropped, and what stage 2 dropped


def overlay(
    image: Image.Image,
    every: Sequence[Place],
    structure: Sequence[Place],
    semantics: Sequence[Place],
) -> Image.Image:
    """The image, darkened by patch: dark where stage 1 dropped the token, half dark where stage 2
    did, full and framed where the token reached the last layer.

    `every` are the places of all tokens of the image, `structure` and `semantics` of those left
    after each stage. An image in tiles shows each token of every tile at its place.
    """
    scale = LONGEST / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    base = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    high, wide = spacing([row for row, _ in every]), spacing([column for _, column in every])

    def box(place: Place) -> tuple[float, float, float, float]:
        row, column = place
        left, top = (column - wide / 2) * size[0], (row - high / 2) * size[1]
        return left, top, left + wide * size[0] - 1, top + high * size[1] - 1

    light = Image.new("L", size, round(255 * DROPPED))
    pen = ImageDraw.Draw(light)
    for places, brightness in ((structure, STRUCTURE), (semantics, 1.0)):
        for place in places:
            pen.rectangle(box(place), fill=round(255 * brightness))
    drawn = Image.composite(base, Image.new("RGB", size), light)
    frame = ImageDraw.Draw(drawn)
    for place in semantics:
        frame.rectangle(box(place), outline=(255, 196, 0), width=2)
    return drawn


def spacing(values: Sequence[float]) -> float:
    """The smallest distance between different values: the side of a patch; 1 if all are equal."""
    ordered = sorted({round(value, 6) for value in values})
    steps = [b - a for a, b in zip(ordered, ordered[1:], strict=False)]
    return min(steps, default=1.0)


def png(drawn: Image.Image) -> bytes:
    """The overlay as a file that says who made it."""
    info, file = PngInfo(), io.BytesIO()
    info.add_text("Software", MADE_BY)
    drawn.save(file, "png", pnginfo=info)
    return file.getvalue()


def is_overlay(path: Path) -> bool:
    """Whether a file is an overlay that `png` made."""
    try:
        with path.open("rb") as file:
            return b"tEXtSoftware\0" + MADE_BY.encode() in file.read(200)
    except OSError:
        return False
