"""Backgrounds of the scenes: plain, gradient, blotches, stripes, checks, photo-like."""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sts_cli.scenes.colors import Color


def background(
    rng: random.Random, noise: np.random.Generator, width: int, height: int, hard: bool
) -> tuple[Image.Image, list[Color]]:
    """An RGB background, and its main colours, from which the things on it must differ."""
    first = tone(rng)
    near = [part + rng.uniform(-35, 35) for part in first]
    second = clipped(near) if rng.random() < 0.6 else tone(rng)
    kind = rng.random()
    if not hard or kind < 0.45:
        mix = plain(rng, width, height)
    elif kind < 0.6:
        mix, second = (
            stripes(rng, width, height),
            clipped([p + rng.uniform(-28, 28) for p in first]),
        )
    elif kind < 0.75:
        cells = rng.choice((3, 5, 8, 14, 40))
        mix = blotches(noise, cells, width, height)
    else:
        return photo(rng, noise, first, second, width, height)
    a, b = np.array(first, np.float32), np.array(second, np.float32)
    picture = Image.fromarray((a + (b - a) * mix[..., None]).astype(np.uint8))
    if hard:
        clutter(rng, picture, first)
    return picture, [first, second]


def photo(
    rng: random.Random,
    noise: np.random.Generator,
    first: Color,
    second: Color,
    width: int,
    height: int,
) -> tuple[Image.Image, list[Color]]:
    """Blotches of many sizes in muted colours, lit from one side, like a photo out of focus."""
    layers = [
        blotches(noise, cells, width, height)[..., None] * share
        for cells, share in ((2, 0.5), (5, 0.25), (12, 0.15), (40, 0.1))
    ]
    mix = sum(layers[1:], layers[0])
    light = 0.8 + 0.35 * plain(rng, width, height)[..., None]
    a, b = np.array(first, np.float32), np.array(second, np.float32)
    pixels = ((a + (b - a) * mix) * light).clip(0, 255)
    picture = Image.fromarray(pixels.astype(np.uint8))
    clutter(rng, picture, first)
    return picture, [first, second]


def plain(rng: random.Random, width: int, height: int) -> NDArray[np.float32]:
    """Zeros, or a gradient in a random direction; [H, W] in 0..1."""
    if rng.random() < 0.4:
        return np.zeros((height, width), np.float32)
    angle = rng.uniform(0, math.tau)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    return (x * math.cos(angle) + y * math.sin(angle) + 0.5).clip(0, 1).astype(np.float32)


def stripes(rng: random.Random, width: int, height: int) -> NDArray[np.float32]:
    """Stripes or a checkerboard; [H, W] of 0 and 1."""
    x = np.linspace(0, 1, width, dtype=np.float32)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    if rng.random() < 0.5:
        angle, frequency = rng.uniform(0, math.pi), rng.uniform(12, 60)
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * frequency)
        return (wave > 0).astype(np.float32)
    cells = rng.randint(4, 14)
    return (((x * cells).astype(int) + (y * cells).astype(int)) % 2).astype(np.float32)


def blotches(
    noise: np.random.Generator, cells: int, width: int, height: int
) -> NDArray[np.float32]:
    """Smooth random blotches, about `cells` per side; [H, W] in 0..1."""
    coarse = Image.fromarray((noise.random((cells, cells)) * 255).astype(np.uint8))
    smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32) / np.float32(255)


def clutter(rng: random.Random, picture: Image.Image, base: Color) -> None:
    """Draw lines, dots and arcs in colours close to `base`."""
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.choice((0, 0, 3, 8, 20, 40))):
        x, y = rng.uniform(0, picture.width), rng.uniform(0, picture.height)
        color = clipped([part + rng.uniform(-50, 50) for part in base])
        kind = rng.random()
        if kind < 0.5:
            end = (x + rng.uniform(-40, 40), y + rng.uniform(-40, 40))
            pen.line((x, y, *end), fill=color, width=rng.choice((1, 1, 2, 3)))
        elif kind < 0.8:
            r = rng.uniform(1, 5)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
        else:
            box = (x, y, x + rng.uniform(10, 60), y + rng.uniform(10, 60))
            pen.arc(box, rng.uniform(0, 360), rng.uniform(0, 360), fill=color)


def tone(rng: random.Random) -> Color:
    """A random colour: usually muted, sometimes any."""
    if rng.random() < 0.75:
        gray = rng.uniform(40, 225)
        return clipped([gray + rng.uniform(-22, 22) for _ in range(3)])
    return clipped([rng.uniform(20, 235) for _ in range(3)])


def clipped(color: list[float]) -> Color:
    red, green, blue = (max(0, min(255, int(part))) for part in color)
    return red, green, blue
