"""The narrowing inside the vision tower, as a profile's file has it."""

from __future__ import annotations

from typing import Any, cast

from sts_cli.errors import ProfileError
from sts_cli.profile import CHOICES, Choice, Narrowing
from sts_cli.profile_files.mistakes import Mistakes, Place
from sts_cli.profile_files.values import check_keys, read_number, read_word

LEAST = 0.25  # of a tower's patches that `encoder` keeps: the grid that `likeness` needs


def read_encoder(value: Any, where: Place) -> Narrowing | None:
    """The narrowing, or None if there is none. Raises ProfileError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ProfileError(f"{where} must look like {{method: ..., keep: ..., depth: ...}}.")
    check_keys(value, ("method", "keep", "depth"), where)
    if "method" not in value:
        raise ProfileError(f"{where}: method is missing. Known: {', '.join(CHOICES)}.")
    mistakes = Mistakes()
    method = mistakes.of(read_word, value["method"], CHOICES, where.at("method"))
    keep = mistakes.of(read_number, value.get("keep"), LEAST, 1.0, where.at("keep"))
    depth = mistakes.of(read_number, value.get("depth"), 0.0, 1.0, where.at("depth"))
    mistakes.end()
    return Narrowing(cast(Choice, method), keep, depth)
