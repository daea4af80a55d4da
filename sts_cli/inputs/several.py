"""Several inputs as one: names in a row, and patterns such as photos/*.jpg."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sts_cli.errors import InputError
from sts_cli.inputs.items import Input, open_input
from sts_cli.inputs.remote import Remote
from sts_cli.records import Item, printable


def open_inputs(
    names: Sequence[str],
    question: str | None = None,
    images: Path | None = None,
    tell: Callable[[str], None] = lambda form: None,
    remote: bool = False,
) -> Input:
    """The input that one or more names stand for, in their order; `*`, `?` and `[` are patterns.

    Of several, image names start in the current folder. Raises InputError.
    """
    every = [one for name in names for one in matching(name)]
    if len(every) == 1:
        return open_input(every[0], question, images, tell, remote)
    if "-" in every:
        raise InputError("'-' reads standard input, and goes with no other input.")
    parts = tuple(open_input(name, question, images, remote=remote) for name in every)
    count = f"{every[0]} and {len(every) - 1} more"

    skipped: Counter[str] = Counter()

    def read() -> Iterator[Item]:
        for part in parts:
            yield from (rooted(item, part) for item in part.items())
            skipped.update(part.skipped)

    forms = dict.fromkeys(part.form for part in parts if part.form)
    told = ", ".join(forms) or None
    return Input(
        count, Path(), "several", read, skipped=skipped, form=told, folder=Path(), parts=parts
    )


def is_path(name: object) -> bool:
    """True for the name of a file, and not an image itself or one on an object store."""
    return isinstance(name, str) and not isinstance(name, Remote) and not name.startswith("data:")


def matching(name: str) -> list[str]:
    """The paths that a name stands for: itself, or those that a pattern matches, sorted."""
    if name == "-" or not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    found = sorted(glob.glob(name, recursive=True))
    if not found:
        raise InputError(f"Nothing matches '{printable(name)}'.")
    return found


def rooted(item: Item, part: Input) -> Item:
    """The item with image names from the current folder, so that no two inputs share one.

    An image that is asked about without a question file has its path as its id.
    """
    images = tuple(str(item.folder / name) if is_path(name) else name for name in item.images)
    alone = part.kind in ("folder", "image")
    identity = printable(images[0]) if alone else item.id
    return replace(item, id=identity, images=images, folder=Path())
