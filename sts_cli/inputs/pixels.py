"""Pixels as their file means them: upright RGB of 8 bits, or `Unclear`."""

from __future__ import annotations

import io
import sys

from PIL import Image, ImageOps

from sts_cli.inputs.colors import Unclear, in_srgb, with_gamma
from sts_cli.inputs.told import FULL, Told, small_colormap, told

OTHER_END = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def as_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Upright RGB: in sRGB, transparency over white, any range of numbers brought to 0..255.

    `image` is opened and not loaded; `data` is its file.
    """
    says = told(image, data)
    upright(image)
    if says.key is not None:
        image.info["transparency"] = says.key
    flat = in_srgb(plain(of_eight_bits(image, data, says)), says.profile)
    if image.format == "PNG" and not says.profile and "srgb" not in image.info:
        flat = with_gamma(flat, image.info.get("gamma", 0))
    if flat.mode in ("LA", "RGBA"):
        white = Image.new("RGBA", flat.size, "white")
        flat = Image.alpha_composite(white, flat.convert("RGBA"))
    rgb = flat.convert("RGB")
    rgb.info = {}  # what is saved from it must not carry the profile that was applied
    return rgb


def upright(image: Image.Image) -> None:
    """Loads the image and turns it as the camera was held; a damaged tag turns nothing."""
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # EXIF blocks are written by anybody, and read by no strict rule
        return


def of_eight_bits(image: Image.Image, data: bytes, says: Told) -> Image.Image:
    """The image itself, or its numbers brought to 8 bits where it has others."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or says.view == "i1":
        return by_number((image,), says)
    if says.bits != 16 or image.mode not in ("RGB", "RGBA"):
        return image
    highest = max(high for _, high in image.getextrema())  # type: ignore[misc, union-attr]
    dim = highest * 256 <= max((top for top in says.tops if top < FULL), default=0)
    if dim and (says.planes or image.mode == "RGBA"):
        raise Unclear("has 16 bits a colour and uses few of them; save it with 8 bits.")
    return by_number((image, low_bytes(image, data)), says) if dim or says.clear else image


def by_number(parts: tuple[Image.Image, ...], says: Told) -> Image.Image:
    from sts_cli.inputs.deep import eight_bits  # numpy takes a moment, and photos need none

    return eight_bits(parts, says)


def low_bytes(image: Image.Image, data: bytes) -> Image.Image:
    """The low bytes of 16-bit colours, which Pillow leaves out: decoded in the other byte order."""
    low: Image.Image
    with Image.open(io.BytesIO(data), formats=[image.format or ""]) as low:
        low.tile = [tile._replace(args=swapped(tile.args)) for tile in low.tile]  # type: ignore
        upright(low)
        return low


def swapped(args: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """A decoder's arguments with the other order of bytes."""
    if isinstance(args, str):
        return args[:-1] + OTHER_END[args[-1]]
    return (args[0][:-1] + OTHER_END[args[0][-1]], *args[1:])


def plain(image: Image.Image) -> Image.Image:
    """L, LA, RGB, RGBA, CMYK or LAB, with what is transparent as a band."""
    palette = small_colormap(image)
    if palette:
        image.putpalette(palette)
    clear = "transparency" in image.info
    unwritten = image.mode == "RGBA" and image.format in ("TGA", "BMP")
    if unwritten and not image.getchannel("A").getbbox():
        return image.convert("RGB")  # the fourth byte of each pixel is there, and means nothing
    if image.mode in ("LA", "RGBA", "CMYK", "LAB"):
        return image
    if image.mode in ("1", "L", "La"):
        mode = "LA" if clear or image.mode == "La" else "L"
    else:
        mode = "RGBA" if clear or image.mode in ("PA", "RGBa") else "RGB"
    return image if image.mode == mode else image.convert(mode)
