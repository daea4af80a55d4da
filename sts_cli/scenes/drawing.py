"""Drawn scenes, for the built-in suite and for the training of the demo model.

Everything follows from a seed. A scene is a background, up to six shapes and up to two signs.
`level` (0 to 1) is the chance of a hard scene: more fonts, backgrounds, sizes and picture defects.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sts_cli.scenes.backgrounds import background
from sts_cli.scenes.boards import board
from sts_cli.scenes.canvas import Canvas, Thing
from sts_cli.scenes.colors import apart, jittered, luma
from sts_cli.scenes.outlines import outline
from sts_cli.scenes.words import CHARACTERS, COLORS, SHAPES, WORDS

SIZES = ((336, 336), (336, 336), (448, 336), (336, 448), (598, 336))
EASY_FONTS = ("LiberationSans-Bold", "OpenSans-Bold", "Roboto-Bold", "Quicksand-Bold")
FONTS = (
    *EASY_FONTS,
    "Comfortaa-Bold",
    "LiberationMono-Bold",
    "LiberationSans-Regular",
    "LiberationSerif-Bold",
    "OpenSans-Regular",
)
HELD_OUT_FONTS = ("LiberationSansNarrow-Bold", "Play-Bold")  # never trained on


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, the things on it, and the owner of each pixel."""

    image: Image.Image
    things: tuple[Thing, ...]
    owner: NDArray[np.uint8]  # [H, W]; 1 + index in `things`, 0 for background
    glyph: NDArray[np.uint8]  # [H, W]; 1 + index of the character in its sign's text, else 0


def draw(
    seed: int,
    level: float = 1.0,
    *,
    most: int = 6,
    dense: bool = False,
    signs: int | None = None,
    shapes: int | None = None,
    scale: float = 1.0,
    fonts: tuple[str, ...] | None = None,
) -> Scene:
    """The scene of `seed`; `level` is the chance that it is hard.

    For training and crowded sets: `most` is the largest number of shapes, `dense` draws many signs,
    `signs` and `shapes` are exact numbers as long as there is room, `scale` enlarges shapes.
    """
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    hard = rng.random() < level
    fonts = fonts or (FONTS if hard else EASY_FONTS)
    width, height = rng.choice(SIZES) if hard else SIZES[0]
    picture, tones = background(rng, noise, width, height, hard)
    canvas = Canvas(picture, [])
    palette = [name for name in COLORS if all(apart(COLORS[name], tone) > 70 for tone in tones)]
    palette = palette if len(palette) > 3 else list(COLORS)
    if signs is None:
        signs = rng.choice((4, 5, 6, 7, 8) if dense else (0, 1, 1, 1, 1, 1, 1, 2, 2, 2))
    if shapes is None:
        shapes = rng.choice((1, 2, 3)) if dense else min(most, rng.choice((1, 2, 2, 3, 3, 4, 5, 6)))
    for _ in range(signs):
        add_sign(rng, canvas, palette, fonts, hard, dense)
    for _ in range(shapes):
        add_shape(rng, canvas, palette, hard, scale)
    image = degraded(rng, noise, canvas.image) if hard else canvas.image
    things = tuple(canvas.things)
    return Scene(image, things, canvas.owner, canvas.glyph)


def add_shape(
    rng: random.Random, canvas: Canvas, palette: list[str], hard: bool, scale: float = 1.0
) -> None:
    """Draw a shape of random kind, colour, size and rotation, if there is room."""
    shape, color = rng.choice(list(SHAPES)), rng.choice(palette)
    radius = scale * (rng.uniform(15, 52) if hard else rng.uniform(24, 50))
    turn = rng.uniform(-0.35, 0.35) if hard else 0.0
    mask = outline(shape, radius, turn)
    spot = canvas.spot(rng, *mask.size)
    if spot is None:
        return
    stamp = Image.new("RGBA", mask.size, (*jittered(rng, COLORS[color]), 0))
    stamp.putalpha(mask)
    canvas.put(stamp, None, *spot, Thing(shape, color, canvas.shares(*spot, mask.size)))


def add_sign(
    rng: random.Random,
    canvas: Canvas,
    palette: list[str],
    fonts: tuple[str, ...],
    hard: bool,
    dense: bool,
) -> None:
    """Draw a sign of a new colour with a word, a number or random letters, if there is room."""
    used = {thing.color for thing in canvas.things if thing.shape == "sign"}
    free = [name for name in palette if name not in used] or list(set(COLORS) - used)
    color, text = rng.choice(sorted(free)), random_text(rng)
    if not dense and any(thing.text == text for thing in canvas.things):
        return
    dark = [name for name in COLORS if abs(luma(COLORS[name]) - luma(COLORS[color])) > 85]
    plain = [name for name in ("white", "black") if name in dark]
    text_color = rng.choice(plain) if rng.random() < 0.35 and plain else rng.choice(dark)
    size = rng.randint(24, 56) if hard else rng.randint(32, 56)
    size = min(size, 44) if dense else size
    font = rng.choice(fonts)
    for _ in range(4):
        stamp, glyphs = board(
            rng, text, font, size, jittered(rng, COLORS[color]), jittered(rng, COLORS[text_color])
        )
        turn = rng.uniform(-8, 8) if rng.random() < (0.35 if hard else 0.1) else 0.0
        if turn:
            stamp = stamp.rotate(turn, Image.Resampling.BICUBIC, expand=True)
            glyphs = glyphs.rotate(turn, Image.Resampling.NEAREST, expand=True)
        spot = canvas.spot(rng, *stamp.size)
        if spot is not None:
            box = canvas.shares(*spot, stamp.size)
            thing = Thing("sign", color, box, text, text_color)
            canvas.put(stamp, np.asarray(glyphs), *spot, thing)
            return
        size = max(22, int(size * 0.8))


def degraded(rng: random.Random, noise: np.random.Generator, image: Image.Image) -> Image.Image:
    """The picture with a random defect or none: blur, noise, low resolution or JPEG."""
    defect = rng.random()
    if defect < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    elif defect < 0.3:
        grain = noise.normal(0, rng.uniform(3, 12), (image.height, image.width, 3))
        pixels = np.asarray(image, np.float32) + grain
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    elif defect < 0.4:
        part = rng.uniform(0.5, 0.8)
        small = image.resize((int(image.width * part), int(image.height * part)))
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    elif defect < 0.55:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randint(30, 80))
        image = Image.open(file).convert("RGB")
    return image


def random_text(rng: random.Random) -> str:
    """A random text for a sign: 40% words, 40% random letters, 20% numbers."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(WORDS)
    if kind < 0.8:
        return "".join(rng.choices(CHARACTERS[:26], k=rng.choice((2, 3, 3, 4, 4, 5, 5, 6))))
    return "".join(rng.choices(CHARACTERS[26:], k=rng.choice((1, 2, 2, 3, 3, 4))))
