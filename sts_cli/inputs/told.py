"""An image file's own words about its numbers, where Pillow passes them over or misreads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sts_cli.inputs.colors import Unclear

FULL = 65535  # of 16 bits
FEWEST = (1, 255, 1023, 4095, 16383, FULL)  # full brightness in 1, 8, 10, 12, 14 and 16 bits
MISSING = -9999.0  # what measurements write for no value, most often without a tag
SMALL, BITS, COMPRESSION, PHOTOMETRIC, PLANES = 254, 258, 259, 262, 284  # tags of a TIFF
BRIGHTEST, COLORMAP, INKS, SIGN, SUBSAMPLING, NO_DATA = 281, 320, 332, 339, 530, 42113
SIGNED, CMYK, YCBCR = 2, 5, 6  # values of SIGN and of PHOTOMETRIC

Tags = Mapping[int, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """A file's own words about its numbers.

    `tops` are the numbers that may stand for full brightness, the likeliest first: the first that
    holds all of the picture counts. Without any, the lowest number is black, the highest white.
    """

    bits: int = 8  # of one number
    tops: tuple[int, ...] = ()
    absent: tuple[float, ...] = ()  # grey numbers that are no value, or transparent
    clear: tuple[int, ...] = ()  # the transparent colour of 16 bits
    key: int | None = None  # the transparent grey of 8 bits
    inverted: bool = False  # 0 is white, and Pillow does not turn it
    view: str = ""  # the numbers' type where Pillow takes them for another
    planes: bool = False  # one colour stands after the other
    profile: bytes = b""


def told(image: Image.Image, data: bytes) -> Told:
    """The words of an image's file about its numbers; it is opened, not loaded. Raises Unclear."""
    profile = image.info.get("icc_profile") or b""
    if image.format == "PNG":
        return png(chunks(data), profile)
    if image.format == "TIFF":
        return tiff(image, getattr(image, "tag_v2", {}), profile)
    if image.format in ("PPM", "JPEG2000"):  # Pillow scales by the file's own greatest number
        return Told(tops=(FULL,) * (image.mode != "F"), profile=profile or jpeg2000_profile(data))
    return Told(tops=FEWEST * image.mode.startswith("I;16"), profile=profile)


def png(chunk: dict[bytes, bytes], profile: bytes) -> Told:
    bits, kind = chunk[b"IHDR"][8], chunk[b"IHDR"][9]
    key = chunk.get(b"tRNS", b"")
    clear = tuple(int.from_bytes(key[n : n + 2], "big") & 2**bits - 1 for n in (0, 2, 4))
    if bits < 16:  # Pillow compares a key of 0..15 with pixels of 0..255
        grey = clear[0] * 255 // (2**bits - 1) if kind == 0 and key else None
        return Told(key=grey, profile=profile)
    colors = chunk.get(b"sBIT", b"")[: 3 if kind & 2 else 1]
    return Told(
        bits=bits,
        tops=(2 ** min(16, max(colors)) - 1, FULL) if colors else FEWEST,
        absent=clear[:1] if kind == 0 and key else (),
        clear=clear if kind == 2 and key else (),
        profile=profile,
    )


def chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG that stand before its pixels, by name."""
    named, at = {}, 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        named[data[at + 4 : at + 8]] = data[at + 8 : end]
        at = end + 4
    return named


def tiff(image: Image.Image, tags: Tags, profile: bytes) -> Told:
    refuse_misread(image.mode, tags)
    bits = int(max(several(tags, BITS), default=1))
    signed = several(tags, SIGN)[:1] == (SIGNED,)
    tops: tuple[int, ...] = ()
    if bits == 12:
        tops = (4095,)
    elif image.mode.startswith("I;16") or (bits == 16 and image.mode.startswith("RGB")):
        tops = (*(int(number) for number in several(tags, BRIGHTEST)[:1] if number >= 1), *FEWEST)
    view = {("L", True): "i1", ("I", False): "u4"}.get((image.mode, signed), "")
    return Told(
        bits=bits,
        tops=tops,
        absent=(MISSING, *no_data(tags)),
        inverted=tags.get(PHOTOMETRIC, 0) == 0,
        view=view,
        planes=tags.get(PLANES) == 2,
        profile=profile,
    )


def refuse_misread(mode: str, tags: Tags) -> None:
    """Raises Unclear for a TIFF that Pillow decodes, without a word, to what is not in it."""
    photometric, plain = tags.get(PHOTOMETRIC), tags.get(COMPRESSION, 1) == 1
    if int(tags.get(SMALL, 0)) & 1:
        raise Unclear("begins with a small preview, as raw photos do; save it as JPEG or PNG.")
    if plain and tags.get(PLANES) == 2 and max(several(tags, BITS), default=1) > 8:
        raise Unclear("has more than 8 bits in planes of one colour; save it as PNG.")
    smaller = set(several(tags, SUBSAMPLING)) - {1}
    if plain and photometric == YCBCR and (smaller or mode == "RGB"):  # RGB: Pillow 11
        raise Unclear("has YCbCr colours and is not compressed; save it as PNG.")
    if photometric == CMYK and tags.get(INKS, 1) != 1:
        raise Unclear("is for inks other than CMYK; save it as RGB.")


def several(tags: Tags, number: int) -> tuple[float, ...]:
    """A tag's numbers; none where it is missing or is no number."""
    value = tags.get(number, ())
    values = value if isinstance(value, tuple) else (value,)
    return tuple(number for number in values if isinstance(number, (int, float)))


def no_data(tags: Tags) -> tuple[float, ...]:
    """The number that GDAL writes for no value."""
    try:
        return (float(str(tags[NO_DATA]).strip("\0 ")),)
    except (KeyError, ValueError):
        return ()


def small_colormap(image: Image.Image) -> bytes:
    """A TIFF's palette where its numbers are 0..255 and not, as they should be, 0..65535."""
    map_ = several(getattr(image, "tag_v2", {}), COLORMAP)
    if image.mode != "P" or not map_ or max(map_) > 255 or len(map_) % 3:
        return b""
    third = len(map_) // 3
    return bytes(int(map_[n + third * band]) for n in range(third) for band in range(3))


def jpeg2000_profile(data: bytes) -> bytes:
    """The colour profile in the header of a JP2, which Pillow passes over."""
    at = data.find(b"colr", 0, 4096)
    if at < 4 or data[at + 4 : at + 5] != b"\2":  # 2: a profile, 1: a number
        return b""
    return data[at + 7 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
