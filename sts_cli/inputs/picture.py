"""One image file, decoded safely: upright, RGB, within limits, or the reason why not."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import stat
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import thread_time
from urllib.parse import unquote_to_bytes

from PIL import Image

from sts_cli.inputs.colors import Unclear
from sts_cli.inputs.pixels import as_rgb
from sts_cli.inputs.remote import Remote, opened
from sts_cli.machine.packages import missing, to_add
from sts_cli.records import Problem, printable

LARGEST_FILE = 256 << 20  # bytes
MOST_PIXELS = 150_000_000  # of an image as it is stored
DECODE_SECONDS = 60.0  # the largest images that are let in take a few seconds
USED_PIXELS = 1 << 24  # of an image as it is handed on; no supported model looks at more
REFUSED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FITS"}  # programs to run, or no pictures
DRIVE = re.compile(r"(^|/)[A-Za-z]:[/\\]")
HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image. Equal digests mean equal files."""

    image: Image.Image  # RGB
    digest: str


class TookTooLong(Exception):
    """A decoder used up its seconds."""


class Metered(io.BytesIO):
    """A file's bytes for a decoder, as long as this thread has not computed for `seconds`.

    Decoders that read bit by bit end here, such as JPEG's on a file of a million scans.
    """

    def __init__(self, data: bytes, seconds: float):
        super().__init__(data)
        self._end = thread_time() + seconds

    def read(self, size: int | None = -1) -> bytes:
        if thread_time() > self._end:
            raise TookTooLong
        return super().read(size)


def settle_pillow() -> None:
    """Pillow's own limit at ours, an error and not a warning; HEIC if the extra is installed."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns above it, and refuses twice of it
    warnings.filterwarnings("ignore", module="PIL")
    if not missing("heic"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()


def read_picture(name: str, folder: Path, seconds: float = DECODE_SECONDS) -> Picture | Problem:
    """The image that a row names: a path relative to `folder`, or a data: address.

    A decoder that computes for `seconds` is stopped where that can be done.
    """
    try:
        data = from_anywhere(name, folder)
        if isinstance(data, Problem):
            return data
        return decode(data, shown(name), seconds)
    except TookTooLong:
        return took_too_long(name, seconds)
    except MemoryError:
        return Problem("image_too_large", f"{printable(name)[:200]} does not fit into memory.")


def from_anywhere(name: str, folder: Path) -> bytes | Problem:
    """The bytes of the image that a row names."""
    if isinstance(name, Remote):
        return from_store(name)
    return from_address(name) if name.startswith("data:") else from_file(located(folder, name))


def shown(name: object) -> str:
    """An image's name in messages."""
    if not isinstance(name, str):
        return "the image"
    return "the image" if name.startswith("data:") else printable(name)


def took_too_long(name: object, seconds: float) -> Problem:
    return Problem("image_unreadable", f"{shown(name)} was not decoded within {seconds:g} seconds.")


def located(folder: Path, name: str | Path) -> Path:
    """Where an image lies that a row names; `photos\\a.jpg` of a file from Windows, too.

    The name as it stands comes first: elsewhere a file's name may have a backslash in it.
    """
    path = folder / name
    if os.sep == "/" and "\\" in str(name) and not os.path.lexists(path):
        return folder / str(name).replace("\\", "/")
    return path


def from_file(path: Path) -> bytes | Problem:
    """The bytes of a regular file of reasonable size."""
    name = printable(str(path))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Problem("image_unreadable", f"{name} is a folder, not an image.")
        if not stat.S_ISREG(status.st_mode):
            return Problem("image_unreadable", f"{name} is not a regular file.")
        if status.st_size == 0:
            return Problem("image_unreadable", f"{name} is empty (0 bytes).")
        if status.st_size > LARGEST_FILE:
            return Problem("image_too_large", too_many_bytes(name, status.st_size))
        return path.read_bytes()
    except FileNotFoundError:
        return Problem("image_missing", f"No image {name}.{other_system(name)}")
    except NotADirectoryError:
        return Problem("image_missing", f"No image {name}: part of the path is not a folder.")
    except OSError as error:
        return Problem("image_unreadable", f"Cannot read {name}: {error.strerror}.")
    except UnicodeEncodeError:  # an old system's locale, such as LANG=C
        return Problem(
            "image_missing",
            f"No image {ascii(name)[1:-1]}: the names of this system's files are "
            f"{sys.getfilesystemencoding()}. Set PYTHONUTF8=1 if they are UTF-8.",
        )


def other_system(name: str) -> str:
    """The end of a message about a path of Windows on another system."""
    if os.sep == "/" and DRIVE.search(name):
        return " That is a path of Windows; write it relative to the question file, or as here."
    return ""


def from_store(name: Remote) -> bytes | Problem:
    """The bytes of an object of reasonable size."""
    try:
        with opened(name) as file:
            size: int = file.size()
            if size == 0:
                return Problem("image_unreadable", f"{printable(name)} is empty (0 bytes).")
            if size > LARGEST_FILE:
                return Problem("image_too_large", too_many_bytes(printable(name), size))
            data: bytes = file.read()
            return data
    except FileNotFoundError:
        return Problem("image_missing", f"No image {printable(name)}.")
    except Exception as error:  # pyarrow raises OSError, and others for names and credentials
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        return Problem("image_unreadable", f"Cannot read {printable(name)}: {printable(reason)}")


def from_address(address: str) -> bytes | Problem:
    """The bytes that a data: address carries."""
    head, _, body = address.partition(",")
    if len(body) > LARGEST_FILE * 4 // 3:
        return Problem("image_too_large", f"A data: image of {len(body):,} characters.")
    try:
        data = unquote_to_bytes(body)
        return base64.b64decode(data, validate=True) if head.endswith(";base64") else data
    except (binascii.Error, ValueError) as error:
        return Problem("image_unreadable", f"A data: image whose base64 is damaged: {error}.")


def decode(data: bytes, name: str, seconds: float) -> Picture | Problem:
    """The first frame of an image file, as `Picture`. Raises TookTooLong."""
    try:
        Image.init()
        formats = [known for known in Image.ID if known not in REFUSED]
        with Image.open(Metered(data, seconds), formats=formats) as image:
            if image.width * image.height > MOST_PIXELS:
                return too_many_pixels(name, image.width * image.height)
            image.draft("RGB", fitting(image))  # a huge JPEG decodes to half its size, or less
            rgb = as_rgb(image, data)
            small = rgb.resize(fitting(rgb)) if fitting(rgb) != rgb.size else rgb
            small.format = image.format
            return Picture(small, hashlib.sha256(data).hexdigest())
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        return too_many_pixels(name, int(pixels[0]) if pixels else MOST_PIXELS)
    except Image.UnidentifiedImageError:
        return Problem("image_unreadable", f"{name} {unknown_format(data)}")
    except Unclear as error:
        return Problem("image_unreadable", f"{name} {error}")
    except (MemoryError, TookTooLong):
        raise
    except Exception as error:  # decoders raise anything when the file is damaged
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        return Problem("image_unreadable", f"{name} is damaged: {printable(reason)}.")


def too_many_bytes(name: str, size: int) -> str:
    return f"{name} has {size:,} bytes; the limit is {LARGEST_FILE:,}."


def too_many_pixels(name: str, pixels: int) -> Problem:
    return Problem(
        "image_too_large", f"{name} has {pixels:,} pixels; the limit is {MOST_PIXELS:,}."
    )


def unknown_format(data: bytes) -> str:
    """The rest of a sentence about a file that Pillow does not know."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIF:
        return f"is a HEIC image; run: {to_add('heic')}"
    if data[:4] == b"%PDF":
        return "is a PDF; save its pages as images."
    if data.lstrip()[:5].lower() in (b"<svg ", b"<?xml"):
        return "is an SVG drawing; save it as PNG."
    if data[:2] == b"%!":
        return "is PostScript; save it as PNG."
    if data.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "is a web page, not an image."
    if data[:4] == b"\xd7\xcd\xc6\x9a" or data[40:44] == b" EMF":
        return "is a Windows drawing (WMF, EMF); save it as PNG."
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "is a TIFF of a kind that is not read (its numbers or bands); save it as PNG."
    return "is not an image, or damaged."


def fitting(image: Image.Image) -> tuple[int, int]:
    """The image's size, or the largest of its shape that has at most USED_PIXELS."""
    scale = min(1.0, (USED_PIXELS / (image.width * image.height)) ** 0.5)
    return max(1, int(image.width * scale)), max(1, int(image.height * scale))
