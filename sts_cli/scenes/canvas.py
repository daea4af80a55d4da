"""A canvas: the picture of a scene while it is drawn, with the owner of each pixel."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape or a sign. `box` is left, top, right, bottom, as shares of the picture."""

    shape: str  # one of SHAPES, or "sign"
    color: str
    box: Box
    text: str = ""
    text_color: str = ""

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


class Canvas:
    """The picture of a scene while it is drawn. Things do not overlap."""

    def __init__(self, image: Image.Image, things: list[Thing]):
        self.image = image
        self.things = things
        self.owner = np.zeros((image.height, image.width), np.uint8)
        self.glyph = np.zeros((image.height, image.width), np.uint8)

    def spot(self, rng: random.Random, width: int, height: int) -> tuple[int, int] | None:
        """The left and top of a free place of this size in pixels, or None after 20 tries."""
        for _ in range(20):
            if width >= self.image.width or height >= self.image.height:
                return None
            left = rng.randint(0, self.image.width - width)
            top = rng.randint(0, self.image.height - height)
            room = (left - 3, top - 3, left + width + 3, top + height + 3)
            if not any(overlap(room, self.pixels(thing.box)) for thing in self.things):
                return left, top
        return None

    def pixels(self, box: Box) -> Box:
        """A box in pixels, from shares of the picture."""
        across, down = self.image.size
        return box[0] * across, box[1] * down, box[2] * across, box[3] * down

    def put(
        self,
        stamp: Image.Image,
        glyphs: NDArray[np.uint8] | None,
        left: int,
        top: int,
        thing: Thing,
    ) -> None:
        """Paste the RGBA image `stamp` of `thing`, and record the owner of its pixels."""
        self.image.paste(stamp, (left, top), stamp)
        area = np.s_[top : top + stamp.height, left : left + stamp.width]
        solid = np.asarray(stamp.getchannel("A")) > 127
        self.owner[area][solid] = len(self.things) + 1
        if glyphs is not None:
            self.glyph[area][solid] = glyphs[solid]
        self.things.append(thing)

    def shares(self, left: int, top: int, size: tuple[int, int]) -> Box:
        """A box as shares of the picture, from pixels."""
        across, down = self.image.size
        return left / across, top / down, (left + size[0]) / across, (top + size[1]) / down


def overlap(a: Box, b: Box) -> bool:
    """True if two boxes share any area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
