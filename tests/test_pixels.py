"""Pixel values as the model sees them: of every kind of file right, or a clear error."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from sts_cli.inputs.picture import Picture, read_picture, settle_pillow
from sts_cli.records import Problem

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.fixture(autouse=True)
def pillow() -> None:
    settle_pillow()


def seen(path: Path) -> np.ndarray:
    """[H, W, 3]: what the model is shown of a file."""
    found = read_picture(path.name, path.parent)
    assert isinstance(found, Picture), found
    return np.asarray(found.image).astype(int)


def tiff(path: Path, values: np.ndarray, **tags: Any) -> Path:
    """A grey TIFF of these values, with tags by their numbers (`t281=4095`)."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name[1:])] = value
    Image.fromarray(values).save(path, tiffinfo=directory)
    return path


def raw_tiff(path: Path, values: np.ndarray, photometric: int, sample: int) -> Path:
    """A TIFF written by hand, for what Pillow does not write."""
    bits = values.dtype.itemsize * 8
    height, width = values.shape
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, values.nbytes), (339, 3, sample),
    ]  # fmt: skip
    body = values.astype(values.dtype.newbyteorder("<")).tobytes()
    directory = struct.pack("<H", len(entries))
    for number, kind, value in entries:
        directory += struct.pack("<HHII", number, kind, 1, value)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + b"\0" * 4)
    return path


def png16(path: Path, values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of 16 bits: grey (0), RGB (2) or RGBA (6), with more chunks before its pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    height, width = values.shape[:2]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    middle = b"".join(chunk(*one) for one in chunks)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + middle + end)
    return path


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 5), (0, 1.02), (0, 3000), (1e-6, 2e-6)])
def test_floats_run_from_the_least_to_the_most(tmp_path: Path, low: float, high: float):
    values = (low + RAMP * (high - low)).astype(np.float32)
    assert abs(seen(tiff(tmp_path / "a.tif", values))[..., 0] - 255 * RAMP).max() <= 1


def test_values_that_are_none_are_white_and_move_no_scale(tmp_path: Path):
    values = RAMP.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    values[1, 0] = -9999
    found = seen(tiff(tmp_path / "a.tif", values, t42113="-9999"))[..., 0]
    assert found[0, :3].tolist() == [255] * 3 and found[1, 0] == 255
    least = 3 / 63
    assert abs(found[2:] - 255 * (RAMP[2:] - least) / (1 - least)).max() <= 1


def test_a_picture_of_nothing_is_white(tmp_path: Path):
    assert (seen(tiff(tmp_path / "a.tif", np.full((4, 4), np.nan, np.float32))) == 255).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_few_bits_in_sixteen_are_not_black(tmp_path: Path, bits: int):
    values = (RAMP * (2**bits - 1)).astype(np.uint16)
    assert abs(seen(tiff(tmp_path / "a.tif", values))[..., 0] - 255 * RAMP).max() <= 2
    assert abs(seen(png16(tmp_path / "a.png", values, 0))[..., 0] - 255 * RAMP).max() <= 2


def test_a_tag_says_what_white_is(tmp_path: Path):
    dark = (RAMP * 1000).astype(np.uint16)
    found = seen(tiff(tmp_path / "a.tif", dark, t281=4095))[..., 0]
    assert abs(found - 255 * RAMP * 1000 / 4095).max() <= 1
    found = seen(png16(tmp_path / "a.png", dark, 0, (b"sBIT", b"\x0c")))[..., 0]
    assert abs(found - 255 * RAMP * 1000 / 4095).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_white_is_zero(tmp_path: Path, kind: Any):
    top = 1 if kind is np.float32 else np.iinfo(kind).max
    values = (RAMP * top).astype(kind)
    path = raw_tiff(tmp_path / "a.tif", values, 0, 3 if kind is np.float32 else 1)
    assert abs(seen(path)[..., 0] - 255 * (1 - RAMP)).max() <= 1


def test_one_bit_where_white_is_zero(tmp_path: Path):
    picture = Image.fromarray(RAMP > 0.5)
    picture.save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert (seen(tmp_path / "a.tif")[..., 0] > 127).tolist() in (
        (RAMP > 0.5).tolist(),
        (RAMP <= 0.5).tolist(),
    )


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
def test_integers_of_32_bits_run_from_the_least_to_the_most(tmp_path: Path, kind: Any):
    limits = np.iinfo(kind)
    values = (limits.min + RAMP * (float(limits.max) - limits.min)).astype(kind)
    path = raw_tiff(tmp_path / "a.tif", values, 1, 2 if kind is np.int32 else 1)
    assert abs(seen(path)[..., 0] - 255 * RAMP).max() <= 1


def test_a_transparent_grey_of_16_bits_is_white(tmp_path: Path):
    values = (RAMP * 65535).astype(np.uint16)
    values[0, 0] = 256
    found = seen(png16(tmp_path / "a.png", values, 0, (b"tRNS", struct.pack(">H", 256))))
    assert found[0, 0].tolist() == [255] * 3 and found[0, 1, 0] == pytest.approx(4, abs=1)


def test_a_transparent_colour_of_16_bits_is_white(tmp_path: Path):
    values = np.zeros((2, 2, 3), np.uint16)
    values[0, 0] = 0x1234, 0xABCD, 0x00FF
    tone = struct.pack(">HHH", *values[0, 0].tolist())
    found = seen(png16(tmp_path / "a.png", values, 2, (b"tRNS", tone)))
    assert found[0, 0].tolist() == [255] * 3 and found[1, 1].tolist() == [0] * 3


def test_alpha_of_16_bits_lies_on_white(tmp_path: Path):
    values = np.zeros((2, 2, 4), np.uint16)
    values[0, 0, 3], values[1, 1] = 32768, (65535, 0, 0, 65535)
    found = seen(png16(tmp_path / "a.png", values, 6))
    assert abs(found[0, 0] - 127).max() <= 1
    assert found[0, 1].tolist() == [255] * 3 and found[1, 1].tolist() == [255, 0, 0]


def swapped() -> bytes:
    """A profile of an RGB whose first channel is blue and whose last is red."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = made.index(b"rXYZ"), made.index(b"bXYZ")
    made[red : red + 4], made[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(made).replace(b"s\0R\0G\0B", b"x\0R\0G\0B").replace(b"sRGB", b"xRGB")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_embedded_profile_is_honoured(tmp_path: Path, mode: str):
    blue = Image.new("RGB", (8, 8), (0, 0, 255)).convert(mode)
    blue.save(tmp_path / "a.png", icc_profile=swapped())
    found = seen(tmp_path / "a.png")[0, 0]
    assert found[0] > 240 and found[1] < 15 and found[2] < 15


@pytest.mark.parametrize("profile", [b"", b"no profile at all", None])
def test_without_a_profile_that_can_be_read_colours_stay(tmp_path: Path, profile: bytes | None):
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.new("RGB", (8, 8), (10, 200, 90))
    picture.save(tmp_path / "a.png", icc_profile=own if profile is None else profile)
    assert seen(tmp_path / "a.png")[0, 0].tolist() == [10, 200, 90]


def test_lab_is_converted(tmp_path: Path):
    source, target = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    red = Image.new("RGB", (8, 8), (220, 40, 30))
    lab = ImageCms.profileToProfile(red, source, target, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert abs(seen(tmp_path / "a.tif")[0, 0] - [220, 40, 30]).max() <= 4


def test_cmyk_is_as_bright_as_its_inks_say(tmp_path: Path):
    for name in ("a.jpg", "a.tif"):
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / name)
        found = seen(tmp_path / name)[0, 0]
        assert found[0] > 230 and found[1] < 25 and found[2] < 25


def test_a_16_bit_picture_is_turned_upright(tmp_path: Path):
    values = np.zeros((4, 8), np.uint16)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={274: 6})
    found = seen(tmp_path / "a.tif")
    assert found.shape[:2] == (8, 4) and found[0, 3, 0] == 255


def test_base64_that_is_none_is_an_error():
    body = io.BytesIO()
    Image.new("RGB", (2, 2)).save(body, "PNG")
    good = base64.b64encode(body.getvalue()).decode()
    assert isinstance(read_picture(f"data:image/png;base64,{good}", Path()), Picture)
    for bad in (good[:20] + "!*" + good[20:], good[:-3], "%"):
        found = read_picture(f"data:image/png;base64,{bad}", Path())
        assert isinstance(found, Problem) and "base64 is damaged" in found.message


@pytest.mark.parametrize(
    "start", [b"\xd7\xcd\xc6\x9a\x00\x00" + b"\0" * 40, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"SIMPLE  ="]
)
def test_formats_that_need_a_program_are_refused(tmp_path: Path, start: bytes):
    (tmp_path / "a.png").write_bytes(start + b"\0" * 100)
    found = read_picture("a.png", tmp_path)
    assert isinstance(found, Problem) and found.kind == "image_unreadable"
    assert "damaged:" not in found.message  # nobody tried to open it
