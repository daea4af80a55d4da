"""Signs with text, drawn in the bundled fonts."""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files

from PIL import Image, ImageDraw, ImageFont

from sts_cli.scenes.colors import Color


def board(
    rng: random.Random, text: str, font: str, size: int, paint: Color, ink: Color
) -> tuple[Image.Image, Image.Image]:
    """A sign as an RGBA image, and a map of its characters: 1 + the index at each pixel, else 0.

    `size` is that of the font in pixels, `paint` the sign's colour, `ink` the text's.
    """
    face = typeface(font, size)
    gap = rng.choice((0, 0, 1, 2, 4))
    advance = [face.getlength(letter) for letter in text]
    _, high, _, low = face.getbbox("H0")
    pad_x, pad_y = rng.uniform(0.2, 0.6) * size, rng.uniform(0.18, 0.45) * size
    width = int(sum(advance) + gap * (len(text) - 1) + 2 * pad_x)
    height = int(low - high + 2 * pad_y)
    stamp = Image.new("RGBA", (width, height), (*paint, 0))
    glyphs = Image.new("L", (width, height), 0)
    pen, mark = ImageDraw.Draw(stamp), ImageDraw.Draw(glyphs)
    frame = rng.choice((0, 0, 2, 3))
    pen.rounded_rectangle(
        (0, 0, width - 1, height - 1),
        rng.choice((0, 0, 4, 8, 12)),
        fill=(*paint, 255),
        outline=(*ink, 255) if frame else None,
        width=max(1, frame),
    )
    x = pad_x
    for index, letter in enumerate(text):
        pen.text((x, pad_y - high), letter, fill=(*ink, 255), font=face)
        left, _, right, _ = face.getbbox(letter)
        mark.rectangle((x + left, pad_y - 1, x + right, pad_y + low - high), fill=index + 1)
        x += advance[index] + gap
    return stamp, glyphs


@cache
def typeface(name: str, size: int) -> ImageFont.FreeTypeFont:
    """The bundled font `name` at `size` pixels."""
    return ImageFont.truetype(str(files("sts_cli") / "scenes" / "fonts" / f"{name}.ttf"), size)
