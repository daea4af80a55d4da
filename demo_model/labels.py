"""What each patch of a scene shows: the dense supervision of the vision tower."""

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
    """[576, 588]: the picture squashed to 336 x 336, each patch as channels, rows, columns."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    cells = pixels.reshape(GRID, PATCH, GRID, PATCH, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(cells.reshape(GRID * GRID, 3 * PATCH * PATCH))


def labels(scene: Scene) -> NDArray[np.uint8]:
    """[576, 10], by COLUMNS: the thing that covers most of a patch, and its properties."""
    owner, glyph = squashed(scene.owner), squashed(scene.glyph)
    found = np.zeros((GRID, GRID, len(COLUMNS)), np.uint8)
    best = np.full((GRID, GRID), 0.12 * PATCH * PATCH)
    for number, thing in enumerate(scene.things, 1):
        mine = owner == number
        cover = per_patch(mine)
        here = cover > best
        best = np.where(here, cover, best)
        x, y = thing.center
        found[here, 0] = KIND_NUMBER[thing.shape]
        found[here, 1] = COLOR_NUMBER[thing.color]
        found[here, 2:6] = 0
        if thing.text:
            found[here, 4] = COLOR_NUMBER[thing.text_color]
            found[here, 5] = len(thing.text)
            most = np.zeros((GRID, GRID))
            for index, letter in enumerate(thing.text, 1):
                area = per_patch(mine & (glyph == index))
                part = area / max(1, area.sum())  # or a wide letter takes a thin one's patches
                shows = here & (area > 0.12 * PATCH * PATCH) & (part > most)
                most = np.where(shows, part, most)
                found[shows, 2] = 1 + CHARACTERS.index(letter)
                found[shows, 3] = index
        found[here, 6], found[here, 7] = int(x * 255), int(y * 255)
        found[here, 9] = number
        found[min(GRID - 1, int(y * GRID)), min(GRID - 1, int(x * GRID)), 8] = 1
    return found.reshape(GRID * GRID, len(COLUMNS))


def letters(scene: Scene) -> Things:
    """The things of a scene, each with the centers of its letters as shares of the picture."""
    height, width = scene.owner.shape
    found = {}
    for number, thing in enumerate(scene.things, 1):
        glyph = np.where(scene.owner == number, scene.glyph, 0)
        where = [np.nonzero(glyph == index) for index in range(1, 1 + len(thing.text))]
        found[thing] = tuple(
            (float(x.mean() / width), float(y.mean() / height)) if len(x) else thing.center
            for y, x in where
        )
    return found


def squashed(map_: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(map_).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def per_patch(where: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[24, 24]: pixels of each patch that are True."""
    return where.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
