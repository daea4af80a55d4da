"""Colours as the file means them, brought to sRGB: embedded profiles, a PNG's gamma."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageChops, ImageCms, features

PIXELS_OF = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}  # by the profile's space of colours
UNSEEN = 2  # a profile that moves no colour by more, of 255, is sRGB under some name
PROBE = bytes(v * 255 // 16 for n in range(17**3) for v in (n // 289, n // 17 % 17, n % 17))


class Unclear(Exception):
    """The pixels of a file that decodes are not certain: the rest of a sentence about it."""


def in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in sRGB. A profile that is damaged, or for other kinds of pixels, is passed over.

    `image` is of the mode L, LA, RGB, RGBA, CMYK or LAB.
    """
    mode = PIXELS_OF.get(profile[16:20])
    if mode == "RGB" and image.mode in ("L", "LA"):  # a photo made grey that kept its profile
        image = image.convert(image.mode.replace("L", "RGB"))
    if mode is None or image.mode not in (mode, mode + "A"):
        return image
    to_srgb = conversion(profile, mode)
    if to_srgb is None:
        return image
    bare = image if image.mode == mode else image.convert(mode)
    converted = ImageCms.applyTransform(bare, to_srgb)
    assert converted is not None  # only a conversion in place returns nothing
    if image.mode != mode:
        converted.putalpha(image.getchannel("A"))
    return converted


@lru_cache(maxsize=16)  # pictures of one camera have one profile
def conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the profile to sRGB; None where nothing is to do: it is sRGB, or damaged."""
    if not features.check("littlecms2"):
        raise Unclear("has a colour profile, and this Pillow has no LittleCMS to read it.")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        to_srgb = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return None
    return None if mode == "RGB" and changes_nothing(to_srgb) else to_srgb


def changes_nothing(conversion: ImageCms.ImageCmsTransform) -> bool:
    """True if colours from all over the cube stay: profiles say sRGB in many names, and lie."""
    probe = Image.frombytes("RGB", (17, 289), PROBE)
    converted = ImageCms.applyTransform(probe, conversion)
    assert converted is not None
    moved = ImageChops.difference(probe, converted).getextrema()
    return max(high for _, high in moved) <= UNSEEN  # type: ignore[misc]


def with_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """A PNG's numbers are light to the power of `gamma`; a screen shows them to that of 2.2."""
    power = 1 / (gamma * 2.2) if gamma > 0 else 1.0
    if abs(power - 1) < 0.05:
        return image
    curve = [round(255 * (value / 255) ** power) for value in range(256)]
    bands = image.getbands()
    keep = list(range(256))
    return image.point([v for band in bands for v in (keep if band == "A" else curve)])
