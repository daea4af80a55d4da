"""Masks of the scenes' shapes."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

OVERSAMPLE = 3


def outline(shape: str, radius: float, turn: float) -> Image.Image:
    """An 8-bit mask of a shape in a circle of `radius` pixels, turned by `turn` radians."""
    side = int(2 * radius + 4)
    mask = Image.new("L", (side * OVERSAMPLE, side * OVERSAMPLE), 0)
    pen = ImageDraw.Draw(mask)
    middle, r = side * OVERSAMPLE / 2, radius * OVERSAMPLE
    if shape in ("circle", "ring", "moon"):
        disc(pen, middle, middle, r, 255)
        if shape == "ring":
            disc(pen, middle, middle, 0.55 * r, 0)
        if shape == "moon":
            shift = 0.55 * r
            disc(
                pen,
                middle + shift * math.cos(turn),
                middle + shift * math.sin(turn),
                0.85 * r,
                0,
            )
    else:
        cos, sin = math.cos(turn), math.sin(turn)
        pen.polygon(
            [
                (middle + r * (x * cos - y * sin), middle + r * (x * sin + y * cos))
                for x, y in corners(shape)
            ],
            fill=255,
        )
    return mask.resize((side, side), Image.Resampling.BOX)


def disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def corners(shape: str) -> list[tuple[float, float]]:
    """The corners (x, y) of a shape in the unit circle, with y downwards. Raises ValueError."""
    if shape == "square":
        return [(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)]
    if shape == "rectangle":
        return [(-0.95, -0.45), (0.95, -0.45), (0.95, 0.45), (-0.95, 0.45)]
    if shape == "diamond":
        return [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)]
    if shape == "triangle":
        return [(math.sin(i * math.tau / 3), 0.15 - math.cos(i * math.tau / 3)) for i in range(3)]
    if shape == "star":
        reach = [1.0 if i % 2 == 0 else 0.42 for i in range(10)]
        angles = [i * math.tau / 10 for i in range(10)]
        return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(reach, angles, strict=True)]
    if shape == "cross":
        w = 0.33
        arm = [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w)]
        return [*arm, *((-x, -y) for x, y in arm)]
    if shape == "heart":
        turns = [i * math.tau / 40 for i in range(40)]
        return [
            (
                16 * math.sin(t) ** 3 / 17,
                (5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t) - 13 * math.cos(t))
                / 17,
            )
            for t in turns
        ]
    raise ValueError(shape)
