"""Images from files, decoded safely and ahead of the engine in worker threads."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sts_cli.inputs.feed import Feed
from sts_cli.records import Item, Problem

MOST_PIXELS = 100_000_000
MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item with its images, upright RGB, or with the problem that one of them is."""

    item: Item
    images: tuple[Image.Image, ...]
    digests: tuple[str, ...]  # equal where the files' bytes are
    seconds: float


class Unreadable(Exception):
    """An image that cannot be used, and why."""

    def __init__(self, problem: Problem):
        super().__init__(problem.message)
        self.problem = problem


def decode_ahead(items: Iterable[Item], *, workers: int = 2, ahead: int = 8) -> Iterator[Prepared]:
    """The items in their order, each with its images; at most `ahead` more are in memory.

    An item comes out when it is decoded, even while the source keeps the next one waiting.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="sts-decode") as pool:
        decoding = (pool.submit(prepare, item) for item in items)
        with Feed(decoding, ahead) as feed:
            while True:
                for future in feed.take(1, wait=True):
                    yield future.result()
                if feed.finished:
                    break
        if feed.error is not None:
            raise feed.error


def prepare(item: Item) -> Prepared:
    """Read and decode an item's images; what goes wrong becomes the item's problem."""
    started = perf_counter()
    images, digests = [], []
    if item.problem is None:
        try:
            for name, path in zip(item.images, item.paths, strict=True):
                data = read(name, path)
                images.append(decode(data, name[:120]))
                digests.append(hashlib.blake2b(data, digest_size=16).hexdigest())
        except Unreadable as error:
            item, images, digests = replace(item, problem=error.problem), [], []
    return Prepared(item, tuple(images), tuple(digests), perf_counter() - started)


def read(name: str, path: Path) -> bytes:
    """The bytes of an image file, or of a `data:` address. Raises Unreadable."""
    if name.startswith("data:"):
        head, _, body = name.partition(",")
        try:
            return base64.b64decode(body, validate=True) if head.endswith(";base64") else b""
        except (binascii.Error, ValueError) as error:
            raise unreadable("the data: address is not base64") from error
    try:
        if path.is_dir():
            raise unreadable(f"{name} is a folder, not an image")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise too_large(f"{name} has {size:,} bytes; {MOST_BYTES:,} at most")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unreadable(Problem("image_missing", f"there is no file {path}")) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise unreadable(f"{name} cannot be read: {reason}") from error


def decode(data: bytes, name: str) -> Image.Image:
    """The first frame as upright RGB; transparency lies on white. Raises Unreadable."""
    if not data:
        raise unreadable(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ours are the limits; Pillow's warnings are talk
            with Image.open(io.BytesIO(data)) as image:
                pixels = image.width * image.height
                if pixels > MOST_PIXELS:
                    raise too_large(
                        f"{name} has {image.width} x {image.height} pixels; {MOST_PIXELS:,} at most"
                    )
                image.seek(0)
                return flat(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise unreadable(f"{name} is not an image that can be read{hint(data)}") from error
    except Image.DecompressionBombError as error:
        raise too_large(f"{name}: {error}") from error
    except Unreadable:
        raise
    except MemoryError as error:
        raise too_large(f"{name} does not fit into memory") from error
    except Exception as error:  # decoders raise anything on broken files
        raise unreadable(f"{name} is broken: {str(error)[:200] or type(error).__name__}") from error


def flat(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16 bits scaled to 8, transparency over white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float64))
        top = 65535 if values.max(initial=0) > 255 else 255
        image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def hint(data: bytes) -> str:
    """What else the file may need, as far as its first bytes tell."""
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "; for HEIC, pip install 'sts-cli[heic]'"
    return ""


def unreadable(message: str) -> Unreadable:
    return Unreadable(Problem("image_unreadable", message))


def too_large(message: str) -> Unreadable:
    return Unreadable(Problem("image_too_large", message))
