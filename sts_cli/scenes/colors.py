"""Colours as red, green and blue in 0..255: random changes, brightness, distance."""

from __future__ import annotations

import math
import random

Color = tuple[int, int, int]


def jittered(rng: random.Random, color: Color, by: float = 14) -> Color:
    """A random colour close to `color`: each channel differs by at most `by`."""
    red, green, blue = (max(0, min(255, int(part + rng.uniform(-by, by)))) for part in color)
    return red, green, blue


def luma(color: Color) -> float:
    """Perceived brightness, 0 to 255."""
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def apart(a: Color, b: Color) -> float:
    """The Euclidean distance of two colours in RGB."""
    return math.dist(a, b)
