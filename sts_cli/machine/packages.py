"""The packages that sts can do without, and the command that adds one to its environment."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Extra:
    """Packages that one purpose needs."""

    purpose: str
    packages: Mapping[str, str]  # module -> what pip is asked for


EXTRAS = {  # as in pyproject.toml
    "openvino": Extra("speed on CPUs", {"openvino": "openvino>=2026.4,<2027"}),
    "html": Extra("reports: --html", {"jinja2": "jinja2>=3.1", "pygal": "pygal>=3.1"}),
    "parquet": Extra("Parquet files, in and out", {"pyarrow": "pyarrow>=17"}),
    "ray": Extra("many machines: --ray", {"ray": "ray[data]>=2.60,<2.64"}),
    "heic": Extra("HEIC and HEIF images", {"pillow_heif": "pillow-heif>=0.18"}),
    "smolvlm": Extra("SmolVLM models", {"num2words": "num2words>=0.5.10"}),
}


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra].packages if importlib.util.find_spec(name) is None]


def to_add(extra: str) -> str:
    """The command that adds all packages of an extra."""
    return to_install(*EXTRAS[extra].packages.values())


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
