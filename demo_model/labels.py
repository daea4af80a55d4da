"""Labels for each patch of a scene: the dense supervision of the vision tower."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo_model.pointing import Things
from sts_cli.scenes.drawing import Scene
from sts_cli.scenes.words import CHARACTERS, COLORS, SHAPES

SIDE, PATCH = 336, 14
GRID = SIDE // PATCH  # 24 x 24 patches
SIGN = len(SHAPES) + 1
MOST_LETTERS = 8
COLUMNS = ("kind", "color", "letter", "index", "ink", "length", "x", "y", "center", "thing")
# Heads of the dense readout: name -> number of outputs
HEADS = {
    "kind": SIGN + 1,
    "color": len(COLORS) + 1,
    "letter": len(CHARACTERS) + 1,
    "index": MOST_LETTERS + 1,
    "ink": len(COLORS) + 1,
    "length": MOST_LETTERS + 1,
    "place": 2,
    "center": 1,
}
KIND_NUMBER = {name: 1 + i for i, name in enumerate(SHAPES)} | {"sign": SIGN}
COLOR_NUMBER = {name: 1 + i for i, name in enumerate(COLORS)}


def patches(image: Image.Image) -> NDArray[np.uint8]:
    """Patches [576, 588] of the picture at 336 x 336, each as channels, rows, columns."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    cells = pixels.reshape(GRID, PATCH, GRID, PATCH, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(cells.reshape(GRID * GRID, 3 * PATCH * PATCH))


def labels(scene: Scene) -> NDArray[np.uint8]:
    """Labels [576, 10] by COLUMNS: the thing that covers most of a patch, and its properties."""
    owner, glyph = squashed(scene.owner), squashed(scene.glyph)
    columns = np.zeros((GRID, GRID, len(COLUMNS)), np.uint8)
    best = np.full((GRID, GRID), 0.12 * PATCH * PATCH)
    for number, thing in enumerate(scene.things, 1):
        own = owner == number
        cover = per_patch(own)
        here = cover > best
        best = np.where(here, cover, best)
        x, y = thing.center
        columns[here, 0] = KIND_NUMBER[thing.shape]
        columns[here, 1] = COLOR_NUMBER[thing.color]
        columns[here, 2:6] = 0
        if thing.text:
            columns[here, 4] = COLOR_NUMBER[thing.text_color]
            columns[here, 5] = len(thing.text)
            most = np.zeros((GRID, GRID))
            for index, letter in enumerate(thing.text, 1):
                area = per_patch(own & (glyph == index))
                part = area / max(1, area.sum())  # so that wide letters hide no thin ones
                shows = here & (area > 0.12 * PATCH * PATCH) & (part > most)
                most = np.where(shows, part, most)
                columns[shows, 2] = 1 + CHARACTERS.index(letter)
                columns[shows, 3] = index
        columns[here, 6], columns[here, 7] = int(x * 255), int(y * 255)
        columns[here, 9] = number
        columns[min(GRID - 1, int(y * GRID)), min(GRID - 1, int(x * GRID)), 8] = 1
    return columns.reshape(GRID * GRID, len(COLUMNS))


def letters(scene: Scene) -> Things:
    """The things of a scene with the centers (x, y) of their letters, as shares of the picture."""
    height, width = scene.owner.shape
    things = {}
    for number, thing in enumerate(scene.things, 1):
        glyph = np.where(scene.owner == number, scene.glyph, 0)
        pixels = [np.nonzero(glyph == index) for index in range(1, 1 + len(thing.text))]
        things[thing] = tuple(
            (float(x.mean() / width), float(y.mean() / height)) if len(x) else thing.center
            for y, x in pixels
        )
    return things


def squashed(map_: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(map_).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def per_patch(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of True pixels in each patch, [24, 24]."""
    return mask.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
