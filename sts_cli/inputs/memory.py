"""Images that a Python program holds: the bytes of a file, a PIL image, or a numpy array."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from sts_cli.inputs.colors import Unclear
from sts_cli.inputs.picture import Picture, TookTooLong, decode, fitting, took_too_long
from sts_cli.inputs.pixels import as_rgb
from sts_cli.records import Problem


def from_memory(image: object, seconds: float) -> Picture | Problem:
    """The image as a file of it would be shown, or the reason why not."""
    try:
        return read(image, seconds)
    except TookTooLong:
        return took_too_long(None, seconds)
    except MemoryError:
        return Problem("image_too_large", "the image does not fit into memory.")


def read(image: object, seconds: float) -> Picture | Problem:
    """The same. Raises TookTooLong and MemoryError."""
    if isinstance(image, bytes):
        return decode(image, "the image", seconds)
    if isinstance(image, np.ndarray):
        last = image.shape[2:]
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or last not in ((), (3,), (4,)):
            return Problem(
                "image_unreadable",
                f"An array of {image.dtype} and shape {image.shape} is no image; give uint8, H x W "
                "or H x W x 3 or 4.",
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        return Problem(
            "image_unreadable",
            f"An image is a path, bytes, a PIL image or a numpy array, not {type(image).__name__}.",
        )
    try:
        rgb = as_rgb(image.copy(), b"")
    except (Unclear, OSError, ValueError) as error:
        return Problem("image_unreadable", f"the image {error}")
    digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
    return Picture(rgb.resize(fitting(rgb)) if fitting(rgb) != rgb.size else rgb, digest)
