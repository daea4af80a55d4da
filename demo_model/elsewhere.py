"""Test pictures with other backgrounds and styles than the training pictures."""

from __future__ import annotations

import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sts_cli.scenes.canvas import Canvas, Thing
from sts_cli.scenes.colors import Color, apart
from sts_cli.scenes.drawing import EASY_FONTS, Scene, add_shape, add_sign
from sts_cli.scenes.words import COLORS

FLAT_SIDE = 64
FLAT = ("circle", "square", "triangle", "diamond", "ring", "cross", "star")


def flat(seed: int) -> Scene:
    """A picture like an icon: one shape in a pure colour on white, 64 x 64, with hard edges."""
    rng = random.Random(seed)
    shape = rng.choice(FLAT)
    color = rng.choice([name for name in COLORS if name != "white"])
    radius = rng.uniform(9, 20)
    x, y = (rng.uniform(radius + 1, FLAT_SIDE - radius - 2) for _ in range(2))
    image = Image.new("RGB", (FLAT_SIDE, FLAT_SIDE), "white")
    box = (x - radius, y - radius, x + radius, y + radius)
    pen, paint = ImageDraw.Draw(image), COLORS[color]
    if shape == "circle":
        pen.ellipse(box, fill=paint)
    elif shape == "ring":
        pen.ellipse(box, outline=paint, width=max(3, round(radius * 0.35)))
    elif shape == "square":
        pen.rectangle(box, fill=paint)
    elif shape == "cross":
        arm = radius / 3
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=paint)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=paint)
    else:
        corners = {"triangle": 3, "diamond": 4, "star": 10}[shape]
        pen.polygon(
            [
                (x + reach * math.sin(turn), y - reach * math.cos(turn))
                for corner in range(corners)
                for turn in [math.tau * corner / corners]
                for reach in [radius * (0.42 if shape == "star" and corner % 2 else 1)]
            ],
            fill=paint,
        )
    shares = tuple(part / FLAT_SIDE for part in box)
    owner = np.zeros((FLAT_SIDE, FLAT_SIDE), np.uint8)
    return Scene(image, (Thing(shape, color, shares),), owner, owner)  # type: ignore[arg-type]


def room(seed: int) -> Scene:
    """A picture like a phone's photo of signs and shapes in a lit room: 800 x 600, JPEG."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    picture, tones = wall_and_floor(rng, noise)
    canvas = Canvas(picture, [])
    palette = [
        name for name, paint in COLORS.items() if all(apart(paint, tone) > 80 for tone in tones)
    ]
    for _ in range(rng.choice((1, 1, 2))):
        add_sign(rng, canvas, palette, EASY_FONTS, hard=False, dense=False)
    for _ in range(rng.choice((1, 2, 2, 3))):
        add_shape(rng, canvas, palette, hard=False)
    image = photographed(rng, noise, canvas.image.resize((800, 600), Image.Resampling.BICUBIC))
    return Scene(image, tuple(canvas.things), canvas.owner, canvas.glyph)


def wall_and_floor(
    rng: random.Random, noise: np.random.Generator
) -> tuple[Image.Image, list[Color]]:
    """A wall above a floor of boards in perspective, 448 x 336, and the colours of both."""
    width, height = 448, 336
    wall = tuple(int(rng.uniform(150, 215) + rng.uniform(-15, 15)) for _ in range(3))
    wood = int(rng.uniform(85, 130)), int(rng.uniform(60, 90)), int(rng.uniform(35, 60))
    image = Image.new("RGB", (width, height), wall)
    pen = ImageDraw.Draw(image)
    edge = int(height * rng.uniform(0.7, 0.85))
    pen.rectangle((0, edge, width, height), fill=wood)
    vanish = rng.uniform(0.3, 0.7) * width
    for board in range(-12, 13):
        foot = vanish + board * width / 5
        start = vanish + (foot - vanish) * 0.45
        pen.line((start, edge, foot, height), fill=tuple(int(p * 0.7) for p in wood), width=2)
    pen.line((0, edge, width, edge), fill=(235, 232, 225), width=6)
    grain = noise.normal(0, 5, (height, width, 1)) + noise.normal(0, 2, (height, width, 3))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), np.float32) + grain
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image, [wall, wood]  # type: ignore[list-item]


def photographed(rng: random.Random, noise: np.random.Generator, image: Image.Image) -> Image.Image:
    """The image with a lamp's light, dark corners, a colour cast, grain and JPEG artefacts."""
    y, x = np.mgrid[0 : image.height, 0 : image.width].astype(np.float32)
    x, y = x / image.width, y / image.height
    lamp = np.exp(-(((x - rng.uniform(0.2, 0.8)) / 0.6) ** 2 + ((y - 0.3) / 0.7) ** 2))
    corner = 1 - 0.35 * ((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.5
    light = (0.72 + 0.4 * lamp) * corner
    cast = np.array([1 + rng.uniform(-0.06, 0.06), 1.0, 1 + rng.uniform(-0.08, 0.08)])
    pixels = np.asarray(image, np.float32) * light[..., None] * cast
    pixels = pixels + noise.normal(0, 4, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    return Image.open(file).convert("RGB")
