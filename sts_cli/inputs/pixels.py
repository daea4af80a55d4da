"""Pixel values of any decoded image as 8-bit sRGB; docs/pictures.md states the rules."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

PHOTOMETRIC, MAX_SAMPLE, SAMPLE_FORMAT, NO_DATA = 262, 281, 339, 42113  # tags of a TIFF
WHITE_IS_ZERO, UNSIGNED = 0, 1  # values of the first and the third
BIT_DEPTHS = (8, 10, 12, 14, 16)
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says about its grey values."""

    tiff: bool
    tags: Mapping[int, object]  # of a TIFF
    bits: int | None = None  # PNG's sBIT


def as_rgb(image: Image.Image, data: bytes = b"") -> Image.Image:
    """Upright, RGB, in sRGB, transparency over white; `data` is the file that it was read from."""
    facts = Facts(hasattr(image, "tag_v2"), dict(getattr(image, "tag_v2", {})), png_bits(data))
    image = upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return from_grey(image, facts)
    profile = image.info.get("icc_profile")
    if has_alpha(image):
        rgba = with_alpha(image).convert("RGBA")
        colours, alpha = rgba.convert("RGB"), rgba.getchannel("A")
        white = Image.new("RGB", image.size, "white")
        return Image.composite(in_srgb(colours, profile), white, alpha)
    if image.mode == "LAB":
        return in_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    return in_srgb(image, profile).convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """As the camera was held; a damaged orientation tag turns nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF blocks are written by anybody, and read by no strict rule
        return image


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def with_alpha(image: Image.Image) -> Image.Image:
    """The image with a transparent colour of 16 bits in the 8 bits that it was read in."""
    colour = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:
        image.info["transparency"] = tuple(part >> 8 for part in colour)
    return image


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in sRGB; as it is without a profile, with sRGB's own, or with a damaged one.

    A profile for another kind of colours than the image has counts as damaged.
    """
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (source.profile.profile_description or ""):
            return image
        target = ImageCms.createProfile("sRGB")
        made = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        return image if made is None else made
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def png_bits(data: bytes) -> int | None:
    """The bits that count of a PNG's grey values, where its sBIT chunk says."""
    if not data.startswith(b"\x89PNG"):
        return None
    place = data.find(b"sBIT", 0, data.find(b"IDAT"))
    return data[place + 4] if place > 0 else None


def from_grey(image: Image.Image, facts: Facts) -> Image.Image:
    """Grey values of more than 8 bits as RGB; what is transparent or not there is white."""
    values, missing = read_grey(image, facts)
    low, high = grey_range(image.mode, values[~missing], facts)
    shown = np.where(missing, low, values)
    scaled = ((shown - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(shown)
    if facts.tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled = 1 - scaled
    scaled[missing] = 1
    return Image.fromarray((scaled * 255 + 0.5).astype(np.uint8)).convert("RGB")


def read_grey(image: Image.Image, facts: Facts) -> tuple[Values, NDArray[np.bool_]]:
    """The values, and where there are none: not a number, infinite, no data, or transparent."""
    raw = np.asarray(image)
    sample = facts.tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    if image.mode == "I" and facts.tiff and sample in (UNSIGNED, (UNSIGNED,)):
        raw = raw.view(np.uint32)
    values = raw.astype(np.float32)
    missing = ~np.isfinite(values)
    empty = image.info.get("transparency")
    if isinstance(empty, int):
        missing |= raw == empty
    nothing = facts.tags.get(NO_DATA)
    if nothing is not None:
        with contextlib.suppress(ValueError):
            missing |= values == np.float32(str(nothing).strip("\0 "))
    return values, missing


def grey_range(mode: str, values: Values, facts: Facts) -> tuple[float, float]:
    """The values that are black and white.

    Integers of up to 16 bits: 0, and what MaxSampleValue or sBIT says, else the most that fits into
    the fewest usual bits that hold the brightest. Anything else: the least and the most there is.
    """
    if not values.size:
        return 0.0, 1.0
    least, most = float(values.min()), float(values.max())
    if mode == "F" or (mode == "I" and facts.tiff) or least < 0 or most > 65535:
        return (least, most) if least < most else (0.0, max(1.0, most))  # of one value: 0 is black
    told = facts.tags.get(MAX_SAMPLE, 2 ** (facts.bits or 0) - 1)
    told = told[0] if isinstance(told, tuple) else told
    if isinstance(told, int) and 0 < most <= told:
        return 0.0, float(told)
    return 0.0, next(float(2**bits - 1) for bits in BIT_DEPTHS if most < 2**bits)
