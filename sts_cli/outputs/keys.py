"""The rows of an input that have an answer: eight bytes per row."""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from sts_cli.records import Item


def cell(images: object) -> str:
    """The image of an output row, or its list of them, as text."""
    return images if isinstance(images, str) else json.dumps(images or None)


def images_of(row: Mapping[str, Any]) -> object:
    """The image of an output row, or its list of them."""
    return row.get("images") or row["image"]


def key(identity: object, images: object, question: object) -> int:
    """A number for an input row; rows of the same id, images and question share it."""
    text = json.dumps([str(identity), cell(images), question or ""])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def key_of(item: Item) -> int:
    """The key of an item's output row."""
    images = item.labels[0] if len(item.labels) == 1 else list(item.labels)
    return key(item.id, images, item.question)


class Answered:
    """The keys of rows that have an answer; each can be taken once."""

    def __init__(self, keys: Iterable[int] = ()):
        self._keys = array("Q", keys)
        self._keys = array("Q", sorted(self._keys))
        self._taken = bytearray(len(self._keys))

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, wanted: int) -> bool:
        """True if a row of this key has an answer that was not taken before."""
        index = bisect_left(self._keys, wanted)
        while index < len(self._keys) and self._keys[index] == wanted:
            if not self._taken[index]:
                self._taken[index] = 1
                return True
            index += 1
        return False

    def left(self) -> int | None:
        """A key that was not taken; None if all were."""
        index = self._taken.find(0)
        return None if index < 0 else self._keys[index]
