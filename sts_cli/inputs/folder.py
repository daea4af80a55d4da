"""The images of a folder and of the folders in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sts_cli.records import Item, printable

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif",
    ".avifs", ".heic", ".heif", ".hif", ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".j2k", ".jpf",
    ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".qoi", ".sgi", ".dds",
    ".psd",
}  # fmt: skip


def is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def read_folder(root: Path, question: str, skipped: Counter[str]) -> Iterator[Item]:
    """An item for each image under `root`, sorted by path; `skipped` counts what is passed over.

    Links are followed, but no folder is entered twice, so loops of links end.
    """
    for name in walk(str(root), skipped):
        yield Item(printable(name), (name,), question, root)


def walk(root: str, skipped: Counter[str]) -> Iterator[str]:
    """Paths relative to `root` of the images under it, however deep folders lie in each other."""
    seen: set[tuple[int, int]] = set()
    open_folders = [("", entries_of(root, seen, skipped))]
    while open_folders:
        below, entries = open_folders[-1]
        for name, inside in entries:
            path = f"{below}/{name}" if below else name  # also on Windows: rows are the same
            if name.startswith("."):
                skipped["hidden"] += 1
            elif inside:
                open_folders.append((path, entries_of(os.path.join(root, path), seen, skipped)))
                break
            elif is_image_name(name):
                yield path
            else:
                skipped["of another kind"] += 1
        else:
            open_folders.pop()


def entries_of(
    folder: str, seen: set[tuple[int, int]], skipped: Counter[str]
) -> Iterator[tuple[str, bool]]:
    """Each entry's name, sorted, and True for a folder; nothing if the folder was seen before."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            skipped["folders seen before"] += 1
            return iter(())
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            return iter(sorted((entry.name, is_folder(entry)) for entry in entries))
    except OSError:
        skipped["folders that cannot be read"] += 1
        return iter(())


def is_folder(entry: os.DirEntry[str]) -> bool:
    """True if an entry leads to a folder; a link to nowhere does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False
