"""Images that stand in a row itself, as base64 without a word about what it is."""

from __future__ import annotations

import re

LONGEST_PATH = 4096  # characters; no system opens a longer one
STARTS = {
    "iVBORw0KGgo": "png",
    "/9j/": "jpeg",
    "R0lGOD": "gif",
    "UklGR": "webp",
    "Qk": "bmp",
    "SUkqA": "tiff",
    "TU0AK": "tiff",
}
SHORTEST = 64  # characters: an image takes more; a file's name without a dot rarely does
BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


def as_address(name: str) -> str:
    """A `data:` address for an image in base64; any other name as it stands."""
    if len(name) < SHORTEST:
        return name
    kind = next((kind for start, kind in STARTS.items() if name.startswith(start)), None)
    if kind is None or not BASE64.fullmatch(name):
        return name
    return f"data:image/{kind};base64,{''.join(name.split())}"
