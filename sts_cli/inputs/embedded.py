"""Addresses of images: base64 in the row itself, in any spelling, and `file:`."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from urllib.parse import unquote, unquote_to_bytes, urlsplit

LONGEST_PATH = 4096  # characters; no system opens a longer one
STARTS = {
    "iVBORw0KGgo": "png",
    "/9j/": "jpeg",
    "R0lGOD": "gif",
    "UklGR": "webp",
    "Qk": "bmp",
    "SUkqA": "tiff",
    "TU0AK": "tiff",
    "AAAADGpQICA": "jp2",
}
HEIF = re.compile(r"AAAA.[GWm2]Z0eX")  # `ftyp` behind a length: AVIF and HEIC
SHORTEST = 64  # characters: an image takes more; a file's name without a dot rarely does
BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
URL_SAFE = str.maketrans("-_", "+/")
DRIVE = re.compile(r"/[A-Za-z]:/")


def address_of(value: object) -> object:
    """The address in any value that a row has for an image; what is none as it stands.

    A text, the bytes of a file, or the `{"bytes", "path"}` of `datasets`. Raises ValueError.
    """
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        text = b64encode(value).decode()
        return f"data:image/{kind_of(text) or 'unknown'};base64,{text}"
    return as_address(value) if isinstance(value, str) else value


def as_address(name: str) -> str:
    """A `data:` address of one spelling for an image in base64, a path for a `file:` address.

    Any other name stays as it stands. Raises ValueError for a file: address of another computer.
    """
    scheme = name[:8].lstrip().lower()
    if scheme.startswith("data:"):
        return one_spelling(name.strip())
    if scheme.startswith("file:"):
        return path_of(name.strip())
    if len(name) < SHORTEST:
        return name
    kind = kind_of(name[:24].lstrip())
    if kind is None:
        return name
    # A path may have the letters of base64 for addresses, too; what is longer than paths has none.
    plain = name.translate(URL_SAFE) if len(name) > LONGEST_PATH else name
    if not BASE64.fullmatch(plain):
        return name
    return f"data:image/{kind};base64,{padded(''.join(plain.split()))}"


def kind_of(base64: str) -> str | None:
    """The kind of image that starts with this base64."""
    kind = next((kind for start, kind in STARTS.items() if base64.startswith(start)), None)
    return kind or ("heif" if HEIF.match(base64) else None)


def one_spelling(address: str) -> str:
    """A data: address in small letters, its base64 in one line of the usual letters, padded."""
    head, comma, body = address.partition(",")
    head = "".join(head.split()).lower()
    if not comma or not head.endswith(";base64"):
        return head + comma + body
    if "%" in body:
        body = unquote_to_bytes(body).decode("latin-1")
    return f"{head},{padded(''.join(body.split()).translate(URL_SAFE))}"


def padded(base64: str) -> str:
    bare = base64.rstrip("=")
    return bare + "=" * (-len(bare) % 4)


def path_of(address: str, windows: bool = os.name == "nt") -> str:
    """The path that a file: address names. A shared folder is a path on Windows only."""
    parts = urlsplit(address)
    if parts.netloc.lower() not in ("", "localhost"):
        if windows:
            return f"//{parts.netloc}{unquote(parts.path)}"
        raise ValueError(f"{address[:80]} is a file on another computer; copy it here first.")
    path = unquote(parts.path)
    return path[1:] if DRIVE.match(path) else path
