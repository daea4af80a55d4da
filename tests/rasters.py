"""Image files and colour profiles written byte by byte, for kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

TYPES = {"H": 3, "I": 4, "f": 11}  # of a TIFF's values
D50 = (0.9642, 1.0, 0.8249)
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def png(size: tuple[int, int], bits: int, kind: int, pixels: bytes, **chunks: bytes) -> bytes:
    """A PNG of `pixels` as they stand in memory; kind 0 is grey, 2 colour, 4 and 6 with alpha."""

    def chunk(name: str, body: bytes) -> bytes:
        named = name.encode() + body
        return struct.pack(">I", len(body)) + named + struct.pack(">I", zlib.crc32(named))

    row = len(pixels) // size[1]
    rows = b"".join(b"\0" + pixels[n : n + row] for n in range(0, len(pixels), row))
    head = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    between = b"".join(chunk(name, body) for name, body in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n" + chunk("IHDR", head) + between
        + chunk("IDAT", zlib.compress(rows)) + chunk("IEND", b"")
    )  # fmt: skip


def tiff(
    size: tuple[int, int],
    bits: int | Sequence[int],
    photometric: int,
    *strips: bytes,
    sign: int = 1,
    order: str = "<",
    **more: int | str | Sequence[int],
) -> bytes:
    """A TIFF of one page. `more` holds tags as `_262=1`; a text is written as a text."""
    bands = [bits] if isinstance(bits, int) else list(bits)
    tags: dict[int, int | str | Sequence[int]] = {
        256: size[0], 257: size[1], 258: bands, 259: 1, 262: photometric, 273: [0] * len(strips),
        277: len(bands), 278: size[1], 279: [len(strip) for strip in strips],
        339: [sign] * len(bands),
    }  # fmt: skip
    tags |= {int(name[1:]): value for name, value in more.items()}
    start = len(directory(tags, order))
    tags[273] = [start + sum(map(len, strips[:n])) for n in range(len(strips))]
    return directory(tags, order) + b"".join(strips)


def directory(tags: dict[int, int | str | Sequence[int]], order: str) -> bytes:
    """A TIFF's bytes before its pixels."""
    entries, values = b"", b""
    for number in sorted(tags):
        value = tags[number]
        if isinstance(value, str):
            kind, count, body = 2, len(value) + 1, value.encode() + b"\0"
        else:
            many = [value] if isinstance(value, int) else value
            kind, count, body = 4, len(many), struct.pack(f"{order}{len(many)}I", *many)
            if number in (258, 262, 259, 277, 320, 339):
                kind, body = 3, struct.pack(f"{order}{len(many)}H", *many)
        if len(body) > 4:
            at = 14 + 12 * len(tags) + len(values)
            values, body = values + body + b"\0" * (len(body) % 2), struct.pack(f"{order}I", at)
        entries += struct.pack(f"{order}HHI", number, kind, count) + body.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + b"\0" * 4 + values


def icc(space: bytes, **tags: bytes) -> bytes:
    """A colour profile of version 2 for a screen, or for a printer (CMYK)."""
    kind, inner = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    tags = {"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78), **tags}
    tags["wtpt"] = xyz(D50)
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += name.encode() + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", at + len(body), bytes(4), 0x2400000, kind, space, inner,
                       struct.pack(">6H", 2024, 1, 1, 0, 0, 0), b"acsp")  # fmt: skip
    head = head.ljust(68, b"\0") + xyz(D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def xyz(color: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(part * 65536) for part in color))


def gamma_curve(power: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(power * 256))


def screen(
    red: Sequence[float], green: Sequence[float], blue: Sequence[float], power: float = 2.2
) -> bytes:
    """The profile of a screen with these primaries."""
    curves = dict.fromkeys(("rTRC", "gTRC", "bTRC"), gamma_curve(power))
    return icc(b"RGB ", rXYZ=xyz(red), gXYZ=xyz(green), bXYZ=xyz(blue), **curves)


def grey_screen(power: float) -> bytes:
    return icc(b"GRAY", kTRC=gamma_curve(power))


def odd_inks() -> bytes:
    """The profile of a printer whose cyan prints black and whose other inks print nothing."""
    even = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    cells = b"".join(bytes((0 if cyan else 255, 128, 128)) * 8 for cyan in (0, 1))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + even * 4 + cells + even * 3
    return icc(b"CMYK", A2B0=table)
