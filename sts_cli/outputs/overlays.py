"""Overlays of a run: for each row, a picture of the tokens that each cut kept."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sts_cli.errors import OutputError
from sts_cli.inputs.images import prepare
from sts_cli.outputs.disk import digest, write_errors, write_whole
from sts_cli.outputs.keys import key_of
from sts_cli.records import Answer
from sts_cli.report.overlay import encoded, format_for, mark_of, overlay

LONGEST = 160  # bytes of an id in a file name
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # no files on Windows


class Overlays:
    """One file per image of each answered row, named after the row's id.

    A file that is no overlay of the same row stays: the new one's name then ends in the row's key.
    """

    def __init__(self, folder: Path, ending: str):
        self.folder = folder
        self.ending = ending
        form = format_for(Path(f"x{ending}"))
        assert form is not None
        self.form = form
        self.written = 0  # pictures
        self.missing = 0  # rows whose images could not be read again

    def write(self, answer: Answer) -> None:
        """Write the overlays of an answer. Raises OutputError.

        The images are read again: nobody holds them while the row waits for its answer.
        """
        if answer.kept is None or answer.problem is not None:
            return
        ready = prepare(answer.item)
        if len(ready.images) != len(answer.kept):
            self.missing += 1
            return
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        row = f"{key_of(answer.item):016x}"
        for number, (image, kept) in enumerate(zip(ready.images, answer.kept, strict=True), 1):
            part = f"-{number}" if len(answer.kept) > 1 else ""
            path = self._free(safe(answer.item.id), part, row)
            write_whole(path, encoded(overlay(image, kept), self.form, row + part))
            self.written += 1

    def _free(self, name: str, part: str, row: str) -> Path:
        """`NAME.jpg`, or `NAME~KEY.jpg` if another row or a file of the user has that."""
        for stem in (f"{name}{part}", f"{name}~{row}{part}"):
            path = self.folder / f"{stem}{self.ending}"
            if not os.path.lexists(path) or mark_of(path) == row + part:
                return path
        raise OutputError(f"Cannot write {path}: it is there, and no overlay of this row.")


def safe(identity: str) -> str:
    """An id as a file name on any system; a digest tells ids apart that become the same name."""
    name = re.sub(r"[^\w.-]", "_", identity).lstrip(".-") or "_"
    name = DEVICE.sub(r"_\g<0>", name, count=1) if DEVICE.match(name) else name
    if name == identity and len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[:LONGEST].decode('utf-8', 'ignore')}~{digest(identity)}"
