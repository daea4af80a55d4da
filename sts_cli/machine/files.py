"""Files as the system knows them, under any of their names."""

from __future__ import annotations

from pathlib import Path


def same_file(one: Path, other: Path) -> bool:
    """True if both are there and are one file."""
    return one.exists() and other.exists() and one.samefile(other)
