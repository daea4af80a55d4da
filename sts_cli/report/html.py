"""A run as one HTML file that needs no network: summary, charts, and every row with its picture."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from sts_cli.records import KeptTokens
from sts_cli.report.charts import Chart
from sts_cli.report.rasters import rasters, survivals
from sts_cli.report.visible import in_line, visible

TEMPLATES = Path(__file__).parent / "templates"
MADE_BY = "sts report"  # a mark in the file: another report may replace it
SIDE = 160  # pixels of a thumbnail's longer side
QUALITY = 60


class Page:
    """A report's rows and thumbnails, in temporary files until `write`.

    So any number of rows needs little memory. `picture` and `row` may be called from two threads.
    """

    def __init__(self, folder: Path, side: int = SIDE):
        self.side = side
        self._rows, self._pictures = Spool(folder), Spool(folder)
        self._known: dict[str, int] = {}  # thumbnails by the digest of their image
        self._layouts: dict[tuple[Any, ...], int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def picture(self, digest: str, image: Image.Image | bytes) -> int:
        """The number of an image's thumbnail, which is made once; bytes are a JPEG file."""
        if digest not in self._known:
            jpeg = image if isinstance(image, bytes) else thumbnail(image, self.side)
            self._known[digest] = self._pictures.add(base64.b64encode(jpeg))
        return self._known[digest]

    def row(
        self,
        *,
        id: str,
        question: str,
        answers: Sequence[Mapping[str, Any]],
        pictures: Sequence[int] = (),
        images: Sequence[str] = (),
        kept: Sequence[KeptTokens] = (),
        error: str | None = None,
        differs: bool = False,
        kind: str = "",
        expected: Sequence[str] = (),
        facts: Sequence[str] = (),
        earlier: bool = False,
    ) -> int:
        """Add a row and return its number.

        `answers` have a `name`, a `text` and, if the truth is known, `right`; `pictures` are
        numbers of thumbnails and `kept` their tokens; an `earlier` row has none.
        """
        shown = {
            "id": in_line(id),
            "question": visible(question),
            "answers": [
                {
                    "name": in_line(one["name"]),
                    "text": visible(one["text"] or ""),
                    "right": one.get("right"),
                }
                for one in answers
            ],
            "pictures": list(pictures),
            "images": [in_line(name) for name in images],
            "cells": [self._cells(one) for one in kept if one.left],
            "error": None if error is None else visible(error),
            "differs": differs,
            "kind": in_line(kind),
            "expected": [visible(one) for one in expected],
            "facts": list(facts),
            "earlier": earlier,
        }
        return self._rows.add(embedded(shown).encode())

    def _cells(self, kept: KeptTokens) -> tuple[int, list[str]]:
        """The number of the image's grids, and for each cut a bit for each of their cells."""
        layout = tuple(
            tuple(round(value, 5) for value in astuple(one)) for one in rasters(kept.every)
        )
        number = self._layouts.setdefault(layout, len(self._layouts))
        survived = survivals(kept)
        bits = [[lived >= cut for lived in survived] for cut in range(1, len(kept.left) + 1)]
        return number, [packed(one) for one in bits]

    def write(
        self,
        file: BinaryIO,
        *,
        title: str,
        subtitle: str = "",
        tiles: Sequence[tuple[str, str, str]] = (),
        notes: Sequence[str] = (),
        charts: Sequence[Chart] = (),
        table: Sequence[Sequence[str]] = (),
        order: Iterable[int] | None = None,
    ) -> None:
        """Write the page, with its rows in their `order`, else as they were added.

        `tiles` are label, value and detail; the first line of `table` is its header.
        """
        import jinja2
        from markupsafe import Markup

        loader = jinja2.FileSystemLoader(TEMPLATES)
        environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
        )
        environment.filters["fingerprint"] = fingerprint
        style = (TEMPLATES / "page.css").read_text("utf-8")
        numbers = range(len(self)) if order is None else order
        parts = environment.get_template("page.html").generate(
            made_by=MADE_BY,
            title=in_line(title),
            subtitle=in_line(subtitle),
            tiles=tiles,
            notes=notes,
            charts=charts,
            table=table,
            style=style + "".join(chart.style for chart in charts),
            script=(TEMPLATES / "page.js").read_text("utf-8"),
            layouts=Markup(embedded(list(self._layouts))),
            rows=(Markup(self._rows[number].decode()) for number in numbers),
            pictures=(picture.decode() for picture in self._pictures),
        )
        for part in parts:
            file.write(part.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Remove the temporary files."""
        self._rows.close()
        self._pictures.close()


class Spool:
    """Byte strings by their number, in a file without a name."""

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".sts-")  # noqa: SIM115 (see close)
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < len(self):
            raise IndexError(number)
        self._file.seek(self._ends[number])
        return self._file.read(self._ends[number + 1] - self._ends[number])

    def __iter__(self) -> Iterator[bytes]:
        return (self[number] for number in range(len(self)))

    def add(self, content: bytes) -> int:
        """Append one and return its number."""
        self._file.seek(self._ends[-1])
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))
        return len(self) - 1

    def close(self) -> None:
        self._file.close()


def thumbnail(image: Image.Image, side: int = SIDE) -> bytes:
    """The image as a small JPEG file, its longer side at most `side` pixels."""
    scale = min(1.0, side / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    plain = image if image.mode == "RGB" else image.convert("RGB")
    small = plain.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def embedded(value: object) -> str:
    """JSON of ASCII that ends no script element, whatever it holds."""
    from jinja2.utils import htmlsafe_json_dumps

    return str(htmlsafe_json_dumps(value, dumps=json.dumps, separators=(",", ":")))


def packed(bits: Sequence[bool]) -> str:
    """Bits as base64, the first in the lowest bit of the first byte."""
    number = sum(1 << n for n, bit in enumerate(bits) if bit)
    return base64.b64encode(number.to_bytes((len(bits) + 7) // 8, "little")).decode()


def fingerprint(text: str) -> str:
    """The digest by which a content security policy allows an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def is_report(path: Path) -> bool:
    """True if `Page` wrote the file."""
    try:
        with path.open("rb") as file:
            return f'name="generator" content="{MADE_BY}"'.encode() in file.read(400)
    except OSError:
        return False
