"""Pixels of more than 8 bits, and numbers that are no brightness yet, as 0..255."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sts_cli.inputs.colors import Unclear
from sts_cli.inputs.told import Told

STRIP = 1 << 20  # pixels that are looked at together
NO_NUMBER = 1e30  # nothing measured is as large; what is, marks a pixel without a value


def eight_bits(halves: tuple[Image.Image, ...], says: Told) -> Image.Image:
    """L, or RGB: of one image with the numbers, or of two with their high and low bytes."""
    low, high = span(halves, says)
    mode = "RGB" if halves[0].mode == "RGB" else "L"
    shown = Image.new(mode, halves[0].size)
    for top, numbers in strips(halves, says):
        light = (np.clip(numbers, low, high) - low) / (high - low) * 255
        light = 255 - light if says.inverted else light
        light = np.where(np.isnan(numbers), 255.0, light)
        shown.paste(Image.fromarray((light + 0.5).astype(np.uint8)), (0, top))
    return shown


def span(halves: tuple[Image.Image, ...], says: Told) -> tuple[float, float]:
    """The numbers of black and of white."""
    low, high = np.inf, -np.inf
    for _, numbers in strips(halves, says):
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if says.tops:
        return 0.0, float(next((top for top in says.tops if high <= top), says.tops[-1]))
    if low > high:
        raise Unclear("has no pixel with a value: all are no-data, NaN or infinite.")
    if low == high:  # one tone: of 0..1, of 0..255, or white
        return min(0.0, low), max(255.0, high) if high > 1 else 1.0
    return low, high


def strips(
    halves: tuple[Image.Image, ...], says: Told
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Strips of the image, each with its top; NaN for pixels without a value."""
    width, height = halves[0].size
    tall = max(1, STRIP // width)
    for top in range(0, height, tall):
        box = (0, top, width, min(height, top + tall))
        raw = [np.asarray(half.crop(box)) for half in halves]
        raw = [part.view(says.view) for part in raw] if says.view else raw
        numbers = raw[0].astype(np.float64)
        if len(raw) == 2:
            numbers = numbers * 256 + raw[1]
        yield top, without_absent(numbers, says)


def without_absent(numbers: NDArray[np.float64], says: Told) -> NDArray[np.float64]:
    """The numbers, with NaN where the file has no value."""
    with np.errstate(over="ignore"):  # GDAL writes a number of 64 bits for pixels of 32, too
        rounded = np.array(says.absent, np.float32)
    absent = np.isin(numbers, [*says.absent, *rounded[np.isfinite(rounded)].tolist()])
    absent |= np.isfinite(numbers) & (np.abs(numbers) >= NO_NUMBER)
    if says.clear:
        absent |= (numbers == says.clear).all(axis=-1, keepdims=True)
    return np.where(absent, np.nan, numbers)
