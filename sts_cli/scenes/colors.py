"""Colours as red, green and blue, 0 to 255: how bright, how far apart, nearly the same."""

from __future__ import annotations

import math
import random

Color = tuple[int, int, int]


def jittered(rng: random.Random, color: Color, by: float = 14) -> Color:
    """Nearly the same colour."""
    red, green, blue = (max(0, min(255, int(part + rng.uniform(-by, by)))) for part in color)
    return red, green, blue


def luma(color: Color) -> float:
    """Perceived brightness, 0 to 255."""
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def apart(a: Color, b: Color) -> float:
    """Distance of two colours in RGB."""
    return math.dist(a, b)
