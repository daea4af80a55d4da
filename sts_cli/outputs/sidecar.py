"""Answers as text files beside their images."""

from __future__ import annotations

from pathlib import Path

from sts_cli.inputs.folder import SUFFIXES
from sts_cli.outputs.disk import write_whole
from sts_cli.records import Answer, Item


def sidecar(item: Item) -> Path:
    """`photo.txt` for `photo.jpg`; `photo.jpg.txt` where another image is called photo, too."""
    path = item.paths[0]
    endings = SUFFIXES - {path.suffix.lower()}
    if any(path.with_suffix(ending).exists() for ending in endings):
        return path.with_name(path.name + ".txt")
    return path.with_suffix(".txt")


def write_sidecar(answer: Answer) -> None:
    """The answer's text, whole or not at all. Raises OutputError."""
    if answer.text is not None and answer.item.images:
        write_whole(sidecar(answer.item), answer.text.encode() + b"\n")
