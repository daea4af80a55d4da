"""Answers as text files beside their images."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from sts_cli.errors import OutputError
from sts_cli.inputs.folder import is_image_name
from sts_cli.inputs.picture import located
from sts_cli.outputs.disk import digest, write_whole
from sts_cli.records import Answer, Item

LONGEST = 255  # bytes of a file name, on nearly every file system


class Sidecars:
    """One text file per image; its name depends on the other names in the folder.

    A folder is read once. Existing files stay, unless `replace` is true.
    """

    def __init__(self, replace: bool):
        self.replace = replace
        self.written = 0  # files
        self._ambiguous: dict[Path, frozenset[str]] = {}

    def place(self, item: Item) -> Path:
        """`photo.txt` for `photo.jpg`; `photo.jpg.txt` if another image could have that one."""
        path = located(item.folder, item.images[0])
        if path.parent not in self._ambiguous:
            self._ambiguous[path.parent] = ambiguous(names_in(path.parent))
        shared = folded(path.stem) in self._ambiguous[path.parent] or folded(path.suffix) == ".txt"
        return path.parent / with_ending(path.name if shared else path.stem)

    def stays(self, item: Item) -> bool:
        """True if the item has a sidecar that must not be written again."""
        return not self.replace and bool(item.images) and os.path.lexists(self.place(item))

    def write(self, answer: Answer) -> None:
        """Write the answer's text, whole or not at all. Raises OutputError."""
        if answer.text is not None and answer.item.images and not self.stays(answer.item):
            write_whole(self.place(answer.item), answer.text.encode() + b"\n")
            self.written += 1


def ambiguous(names: Iterable[str]) -> frozenset[str]:
    """Names without ending that several of these images share; upper and lower case are equal.

    Beside `a.jpg.png`, `a.jpg` is also such a name: `a.jpg.txt` could belong to both.
    """
    images = [PurePath(folded(name)) for name in names if is_image_name(name)]
    stems = Counter(image.stem for image in images)
    shared = {stem for stem, count in stems.items() if count > 1}
    return frozenset(shared | {image.name for image in images if image.name in stems})


def names_in(folder: Path) -> list[str]:
    """The names in a folder; none if it cannot be read: then its images cannot be, either."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def folded(name: str) -> str:
    """A name as file systems compare it that ignore case, or how accents are composed."""
    return unicodedata.normalize("NFC", name.casefold())


def with_ending(name: str) -> str:
    """`name.txt`; if that is too long, the first part of the name and a digest of it all."""
    encoded = os.fsencode(name)
    if len(encoded) + 4 <= LONGEST:
        return name + ".txt"
    return f"{encoded[: LONGEST - 24].decode('utf-8', 'ignore')}~{digest(name)}.txt"


def check_one_each(items: Iterable[Item], sidecars: Sidecars) -> None:
    """Raise OutputError if two rows would share a sidecar, or a row has no place for one."""
    taken: dict[Path, str] = {}
    images: set[Path] = set()
    for item in items:
        if item.problem is not None:
            continue
        if len(item.images) != 1 or item.images[0].startswith("data:"):
            raise OutputError(
                f"--sidecar: row {item.id} is not about one image file; use --out instead."
            )
        path = settled(sidecars.place(item))
        if path in taken:
            raise OutputError(
                f"--sidecar: rows {taken[path]} and {item.id} would both write {path.name}; use "
                "--out instead."
            )
        taken[path] = item.id
        images.add(settled(located(item.folder, item.images[0])))
    for path in taken.keys() & images:
        raise OutputError(f"--sidecar: {path} is an image of the input; use --out instead.")


def settled(path: Path) -> Path:
    """The same path for all spellings of its folder."""
    return path.parent.resolve() / path.name
