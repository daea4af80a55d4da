"""Answers as text files beside their images."""

from __future__ import annotations

import os
from pathlib import Path

from sts_cli.errors import OutputError
from sts_cli.records import Answer, Item


def sidecar(item: Item) -> Path:
    """`photo.txt` for `photo.jpg`."""
    return item.paths[0].with_suffix(".txt")


def write_sidecar(answer: Answer) -> None:
    """The answer's text, whole or not at all. Raises OutputError."""
    if answer.text is None or not answer.item.images:
        return
    path = sidecar(answer.item)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(answer.text + "\n", "utf-8")
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}.") from error
