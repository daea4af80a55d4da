"""The command that adds a package to the environment that sts runs in."""

from __future__ import annotations

import sys
from pathlib import Path


def to_install(*packages: str, environment: Path | None = None) -> str:
    """`pip install PACKAGES`, or what does the same in an environment of pipx or of uv.

    Quotes are double ones, which every shell takes. `environment` is this Python's by default.
    """
    place = Path(sys.prefix) if environment is None else environment
    names = " ".join(quoted(package) for package in packages)
    if (place / "pipx_metadata.json").is_file():
        return f"pipx inject --force sts-cli {names}"
    if is_of_uv(place):
        return f"uv pip install --python {quoted(str(place))} {names}"
    return f"pip install {names}"


def quoted(word: str) -> str:
    return f'"{word}"' if set(word) & set(" <>=&|*~[]();") else word


def is_of_uv(place: Path) -> bool:
    """True if uv made the environment: it has no pip then."""
    try:
        lines = (place / "pyvenv.cfg").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return False
    return any(line.partition("=")[0].strip() == "uv" for line in lines)
