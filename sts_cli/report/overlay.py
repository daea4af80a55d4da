"""The visual tokens that each cut kept: the image as it is, and veiled where tokens went."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sts_cli.records import KeptTokens
from sts_cli.report.rasters import rasters, survivals

LONGEST = 1024  # pixels of the drawn image's longer side
SOFTWARE = 0x0131  # EXIF's name for the program that wrote an image
MADE_BY = "sts overlay"  # a mark in the file: another overlay may replace it
VEIL = (104, 104, 116)  # grey lies visibly on black and on white
DROPPED, CUT_LATER = 0.6, 0.32  # share of the veil over tokens of the first cut, and of the last
FRAME, FRAMED = (255, 196, 0), 10  # around kept cells of at least so many pixels
MARGIN, LINE, TEXT = 16, 36, 22  # pixels
INK, PAPER = (28, 28, 32), (255, 255, 255)

Box = tuple[float, float, float, float]


def overlay(image: Image.Image, kept: KeptTokens) -> Image.Image:
    """The image beside itself under a veil, and a legend with counts.

    The veil is open where a token reached the last layer, and thinner where a later cut dropped
    it. In an image of tiles, the tokens of each tile are drawn at their place; what any token
    shows is open.
    """
    scale = LONGEST / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    plain = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    cuts = max(1, len(kept.left))
    entries = legend(kept)
    font = ImageFont.load_default(TEXT)
    widths = [LINE + font.getlength(text) + MARGIN for _, text in entries]
    wide = max(2 * size[0] + MARGIN, round(max(widths)))
    rows = wrapped(widths, wide)
    drawn = Image.new(
        "RGB", (wide + 2 * MARGIN, size[1] + 3 * MARGIN + LINE * (1 + max(rows))), PAPER
    )
    drawn.paste(plain, (MARGIN, MARGIN))
    drawn.paste(veiled(plain, kept), (2 * MARGIN + size[0], MARGIN))
    pen = ImageDraw.Draw(drawn)
    left = {row: float(MARGIN) for row in rows}
    for (survived, text), width, row in zip(entries, widths, rows, strict=True):
        x, y = left[row], size[1] + 2 * MARGIN + LINE * row
        if survived is not None:
            patch = Image.blend(
                Image.new("RGB", (TEXT, TEXT), PAPER),
                Image.new("RGB", (TEXT, TEXT), VEIL),
                share(survived, cuts),
            )
            drawn.paste(patch, (round(x), y))
            outline = FRAME if survived == cuts else VEIL
            pen.rectangle((x, y, x + TEXT - 1, y + TEXT - 1), outline=outline, width=2)
            x += LINE
        pen.text((x, y + TEXT / 2), text, fill=INK, font=font, anchor="lm")
        left[row] += width
    return drawn


def veiled(plain: Image.Image, kept: KeptTokens) -> Image.Image:
    """The image under the veil; cells that a cut left have a frame."""
    cuts, size = max(1, len(kept.left)), plain.size
    boxes = [box for grid in rasters(kept.every) for box in grid.boxes()]
    survived = survivals(kept) if kept.left else [1] * len(boxes)
    veil = Image.new("L", size, round(255 * DROPPED))
    pen = ImageDraw.Draw(veil)
    for number in range(1, cuts + 1):  # the longest-lived last, over the cells of other tiles
        for box, lived in zip(boxes, survived, strict=True):
            if lived == number:
                pen.rectangle(pixels(box, size), fill=round(255 * share(number, cuts)))
    drawn = Image.composite(Image.new("RGB", size, VEIL), plain, veil)
    frame = ImageDraw.Draw(drawn)
    for box, lived in zip(boxes, survived, strict=True):
        left, top, right, bottom = pixels(box, size)
        if kept.left and lived == cuts and min(right - left, bottom - top) >= FRAMED:
            frame.rectangle((left, top, right, bottom), outline=FRAME)
    return drawn


def pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The first and last pixels of a cell; neighbours share none."""
    left, right = (round(side * size[0]) for side in (box[0], box[2]))
    top, bottom = (round(side * size[1]) for side in (box[1], box[3]))
    return left, top, max(left, right - 1), max(top, bottom - 1)


def share(survived: int, cuts: int) -> float:
    """The share of the veil over a token that outlived so many of the cuts; 0 if all."""
    if survived >= cuts:
        return 0.0
    return DROPPED + (CUT_LATER - DROPPED) * survived / max(1, cuts - 1)


def legend(kept: KeptTokens) -> list[tuple[int | None, str]]:
    """Lines with counts, and how many cuts the tokens outlived that each is about."""
    counts = [len(kept.every), *map(len, kept.left)]
    if not kept.left:
        return [(1, f"{counts[0]} visual tokens, all kept")]
    lines: list[tuple[int | None, str]] = [(None, f"{' -> '.join(map(str, counts))} visual tokens")]
    lines.append((len(kept.left), f"{counts[-1]} kept"))
    for number in range(len(kept.left), 0, -1):
        dropped = counts[number - 1] - counts[number]
        lines.append((number - 1, f"{dropped} dropped by cut {number}"))
    hidden = len(kept.every) - sum(grid.rows * grid.columns for grid in rasters(kept.every))
    if hidden:
        lines.append((None, f"{hidden} ends of lines are not drawn"))
    return lines


def wrapped(widths: Sequence[float], wide: float) -> list[int]:
    """The row of each entry, so that no row is wider than `wide`."""
    rows, used = [0], widths[0]
    for width in widths[1:]:
        fits = used + width <= wide
        rows.append(rows[-1] if fits else rows[-1] + 1)
        used = used + width if fits else width
    return rows


def encoded(drawn: Image.Image, form: str, key: str = "") -> bytes:
    """The overlay as a file of Pillow's format `form`, with the mark of sts where it has room.

    `key` tells the overlays of one folder apart. Raises OSError or ValueError for a format that
    Pillow does not write.
    """
    file, mark = io.BytesIO(), f"{MADE_BY} {key}".strip()
    exif = Image.Exif()
    exif[SOFTWARE] = mark
    quality = {"quality": 90} if form == "JPEG" else {}  # 75 blurs the frames
    drawn.save(file, form, exif=exif, comment=mark, **quality)
    return file.getvalue()


def format_for(path: Path) -> str | None:
    """The format that Pillow writes for a file's ending, whole and in colour; None if none."""
    Image.init()
    form = Image.registered_extensions().get(path.suffix.lower())
    return form if form in Image.SAVE and writes(form) else None


def writes(form: str) -> bool:
    """True if a picture of any size stays as it is; icons are cut to theirs."""
    picture = Image.new("RGB", (300, 20))
    try:
        content = encoded(picture, form)
    except (OSError, ValueError):
        return False
    try:
        with Image.open(io.BytesIO(content)) as again:
            return bool(again.size == picture.size)
    except OSError:  # a format that Pillow only writes, as PDF
        return True


def endings(marked: bool = False) -> list[str]:
    """The file endings that an overlay may have; `marked` are those that hold the mark of sts."""
    Image.init()
    written = (
        ending
        for ending, form in Image.registered_extensions().items()
        if form in Image.SAVE and writes(form) and (not marked or holds_mark(form))
    )
    return sorted(written)


def holds_mark(form: str) -> bool:
    """True if a file of this format says that it is an overlay."""
    try:
        return mark_of(io.BytesIO(encoded(Image.new("RGB", (300, 20)), form))) is not None
    except (OSError, ValueError):
        return False


def mark_of(file: Path | io.BytesIO) -> str | None:
    """The key of an overlay; None for a file that `encoded` did not mark."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of others
            with Image.open(file) as image:
                comment = image.info.get("comment", b"")
                text = image.getexif().get(SOFTWARE) or comment
    except Exception:  # a file of others may be damaged in any way
        return None
    text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    return text.removeprefix(MADE_BY).strip() if text.startswith(MADE_BY) else None


def is_overlay(path: Path) -> bool:
    """True if `encoded` made the file."""
    return mark_of(path) is not None
