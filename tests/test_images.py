"""Images as they come from cameras, scanners and the web: upright, RGB, or a reason why not."""

from __future__ import annotations

import base64
import io
import os
import random
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, features

from sts_cli.inputs import images, picture
from sts_cli.inputs.images import decode_ahead, prepare
from sts_cli.inputs.picture import read_picture
from sts_cli.inputs.readers import Readers
from sts_cli.machine.packages import to_install
from sts_cli.records import Item, Problem

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def half_red(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def read(path: Path) -> Image.Image:
    ready = prepare(Item("1", (path.name,), "?", path.parent))
    assert ready.item.problem is None, ready.item.problem
    (image,) = ready.images
    assert image.mode == "RGB"
    return image


def problem(path: Path) -> Problem:
    ready = prepare(Item("1", (path.name,), "?", path.parent))
    assert ready.item.problem is not None and ready.images == ()
    return ready.item.problem


def near(image: Image.Image, place: tuple[int, int], wanted: tuple[int, int, int]) -> bool:
    found = image.getpixel(place)
    assert isinstance(found, tuple)
    return all(abs(a - b) < 40 for a, b in zip(found, wanted, strict=True))


FORMATS = ["png", "jpg", "webp", "gif", "bmp", "tiff", "avif", "jp2", "ppm", "tga", "ico", "pcx"]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_common_format_is_read(ending: str, tmp_path: Path):
    if ending in ("avif", "webp", "jp2") and not features.check(
        {"avif": "avif", "webp": "webp", "jp2": "jpg_2000"}[ending]
    ):
        pytest.skip(f"this Pillow has no {ending}")
    half_red(size=(64, 64)).save(tmp_path / f"a.{ending}")
    image = read(tmp_path / f"a.{ending}")
    assert near(image, (5, 32), RED) and near(image, (60, 32), BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_it_was_taken(orientation: int, tmp_path: Path):
    upright = half_red()
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read(tmp_path / "a.jpg")
    assert image.size == (40, 20) and near(image, (5, 10), RED) and near(image, (35, 10), BLUE)


def test_a_damaged_orientation_turns_nothing(tmp_path: Path):
    half_red().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read(tmp_path / "a.jpg").size == (40, 20)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "I;16", "I", "F", "LAB"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path):
    white = Image.new("RGB", (8, 8), WHITE)
    if mode == "LAB":
        image = Image.new("LAB", (8, 8), (255, 128, 128))
    elif mode in ("I;16", "I"):
        image = Image.new(mode, (8, 8), 65535)
    else:
        image = white.convert(mode)
    image.save(tmp_path / "a.tiff")
    assert near(read(tmp_path / "a.tiff"), (4, 4), WHITE)


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path):
    Image.new("I;16", (8, 8), 32768).save(tmp_path / "a.png")
    assert near(read(tmp_path / "a.png"), (4, 4), (128, 128, 128))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_lies_on_white(mode: str, tmp_path: Path):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    (image.convert(mode) if mode != "PA" else image.quantize()).save(tmp_path / "a.png")
    assert near(read(tmp_path / "a.png"), (4, 4), WHITE)


def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path: Path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.gif", transparency=0)
    assert near(read(tmp_path / "a.gif"), (4, 4), WHITE)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_or_pages_the_first_is_read(ending: str, tmp_path: Path):
    first, more = half_red(), [Image.new("RGB", (40, 20), WHITE)] * 200
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=more)
    assert near(read(tmp_path / f"a.{ending}"), (5, 10), RED)


def test_a_wrong_ending_does_not_matter(tmp_path: Path):
    half_red().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").size == (40, 20)


def test_what_no_file_is_and_what_no_image_is_differ(tmp_path: Path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello" * 100)
    (tmp_path / "web.jpg").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "doc.png").write_bytes(b"%PDF-1.7 ...")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 90)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    found = {path.name: problem(path) for path in [*tmp_path.iterdir(), tmp_path / "gone.png"]}
    assert found["gone.png"].kind == "image_missing"
    assert {one.kind for name, one in found.items() if name != "gone.png"} == {"image_unreadable"}
    for name, reason in {
        "empty.png": "0 bytes",
        "text.png": "not an image",
        "web.jpg": "a web page",
        "doc.png": "a PDF",
        "photo.heic": to_install("pillow-heif>=0.18"),
        "folder.png": "is a folder",
        "pipe.png": "not a regular file",
    }.items():
        assert reason in found[name].message


def test_postscript_is_never_run(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "PostScript" in problem(tmp_path / "a.png").message


@pytest.mark.parametrize(
    "start, reason",
    [
        (b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 99, 99, 96), "WMF"),
        (b"\1\0\0\0" + bytes(36) + b" EMF", "EMF"),
        (b"BUFR" + bytes(9), "not an image"),
        (b"GRIB\0\0\0\1", "not an image"),
        (b"\x89HDF\r\n\x1a\n", "not an image"),
        (b"\0\0\1\xb3\x01\0\x10", "not an image"),
        (b"SIMPLE  =                    T".ljust(80) + b"END", "not an image"),
    ],
    ids=["wmf", "emf", "bufr", "grib", "hdf5", "mpeg", "fits"],
)
def test_what_needs_a_program_or_is_no_picture_is_never_opened(
    start: bytes, reason: str, tmp_path: Path
):
    (tmp_path / "a.png").write_bytes(start + bytes(200))
    assert reason in problem(tmp_path / "a.png").message


def test_too_many_pixels_are_told_with_the_figure(tmp_path: Path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    found = problem(tmp_path / "bomb.png")
    assert found.kind == "image_too_large"
    assert "400,000,000 pixels" in found.message and "150,000,000" in found.message


def test_too_large_a_file_is_told_with_the_figure(tmp_path: Path):
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(picture.LARGEST_FILE + 1)  # sparse: takes no room
    found = problem(tmp_path / "big.png")
    assert found.kind == "image_too_large" and "268,435,457 bytes" in found.message


def scans_without_end(folder: Path, count: int) -> Path:
    """A progressive JPEG whose last scan, which changes nothing, stands there `count` times."""
    file = io.BytesIO()
    Image.new("L", (400, 400), 90).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xc4")  # its Huffman table, then the scan, up to the end marker
    (folder / "bomb.jpg").write_bytes(data[:-2] + data[last:-2] * count + data[-2:])
    return folder / "bomb.jpg"


def test_a_jpeg_of_endless_scans_is_stopped_and_told_with_the_seconds(tmp_path: Path):
    path = scans_without_end(tmp_path, 500_000)  # 23 MB; minutes
    found = read_picture(path.name, tmp_path, seconds=0.2)
    assert isinstance(found, Problem) and found.kind == "image_unreadable"
    assert found.message == "bomb.jpg was not decoded within 0.2 seconds."


def test_an_image_that_takes_too_long_is_a_problem_of_its_row_alone(tmp_path: Path):
    half_red().save(tmp_path / "a.png")
    names = ["a.png", scans_without_end(tmp_path, 500_000).name, "a.png"]
    rows = [Item(str(n), (name,), "?", tmp_path) for n, name in enumerate(names)]
    ready = list(decode_ahead(rows, workers=1, seconds=1))
    problems = [one.item.problem and one.item.problem.message for one in ready]
    assert problems == [None, "bomb.jpg was not decoded within 1 seconds.", None]


def test_what_is_stuck_gives_its_place_to_others_and_its_late_result_is_dropped():
    stuck, readers = threading.Event(), Readers[str](2, seconds=0.05)
    late = [readers.submit(lambda: str(stuck.wait()), f"gave up on {n}") for n in range(5)]
    after = readers.submit(lambda: "done", "gave up")
    while not all(one.done() for one in (*late, after)):
        readers.wait([one for one in (*late, after) if not one.done()], 0.05)
    assert [one.result() for one in late] == [f"gave up on {n}" for n in range(5)]
    stuck.set()
    assert after.result() == "done" and late[0].result() == "gave up on 0"


def test_what_a_job_raises_comes_to_who_asks_for_its_result():
    readers = Readers[float](1, seconds=60)
    with pytest.raises(ZeroDivisionError):
        readers.submit(lambda: 1 / 0, 0.0).result()
    assert readers.submit(lambda: 2.0, 0.0).result() == 2.0


def test_a_process_ends_without_what_is_stuck():
    code = """
from threading import Event
from sts_cli.inputs.readers import Readers
readers = Readers(1, seconds=0.01)
result = readers.submit(Event().wait, "gave up")
while not result.done():
    readers.wait([result], 0.01)
print(result.result())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("gave up\n", "", 0)


def test_a_huge_image_is_handed_on_no_larger_than_models_look_at(tmp_path: Path):
    half_red("L", (9000, 4000)).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert image.width * image.height <= picture.USED_PIXELS
    assert abs(image.width / image.height - 9 / 4) < 0.01


def address(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_an_image_may_stand_in_the_row_itself():
    item = Item("1", (address(half_red()),), "?")
    (image,) = prepare(item).images
    assert near(image, (5, 10), RED)
    assert item.labels[0].startswith("data:image/png;") and len(item.labels[0]) < 40


def test_a_damaged_address_is_a_problem_of_its_row():
    for bad in ("data:image/png;base64,%%%", "data:", "data:image/png;base64,AAAA"):
        found = prepare(Item("1", (bad,), "?")).item.problem
        assert found is not None and found.kind == "image_unreadable"


@pytest.mark.parametrize("junk", ["!", "-", "\n", "%0A", "é"])
def test_base64_is_read_strictly(junk: str):
    """A decoder that passes over what is no base64 would read another file than was meant."""
    good = address(half_red())
    found = prepare(Item("1", (good[:60] + junk + good[60:],), "?")).item.problem
    assert found is not None and found.kind == "image_unreadable"
    assert "base64 is damaged" in found.message


def test_equal_files_have_equal_digests(tmp_path: Path):
    for name in ("a.png", "b.png"):
        half_red().save(tmp_path / name)
    half_red(size=(20, 20)).save(tmp_path / "c.png")
    ready = list(decode_ahead([Item(n, (n,), "?", tmp_path) for n in ("a.png", "b.png", "c.png")]))
    first, second, third = (one.digests for one in ready)
    assert first == second != third


def test_the_order_of_the_input_is_kept_and_problems_stay_with_their_rows(tmp_path: Path):
    for n in range(30):
        half_red(size=(2000 if n % 7 == 0 else 20, 20)).save(tmp_path / f"{n}.png")
    (tmp_path / "11.png").write_bytes(b"broken")
    rows = [Item(str(n), (f"{n}.png",), "?", tmp_path) for n in range(30)]
    rows[5] = Item("5", problem=Problem("row_invalid", "bad"))
    ready = list(decode_ahead(rows))
    assert [one.item.id for one in ready] == [str(n) for n in range(30)]
    assert [n for n, one in enumerate(ready) if one.item.problem] == [5, 11]
    assert all(len(one.images) == (0 if n in (5, 11) else 1) for n, one in enumerate(ready))


def test_an_image_that_following_rows_share_is_decoded_once(tmp_path: Path):
    half_red().save(tmp_path / "a.png")
    rows = [Item(str(n), ("a.png", "a.png"), "?", tmp_path) for n in range(5)]
    ready = list(decode_ahead(rows))
    assert len({id(image) for one in ready for image in one.images}) == 1
    assert [one.seconds > 0 for one in ready] == [True, False, False, False, False]


def test_only_so_many_rows_are_read_ahead(tmp_path: Path):
    half_red().save(tmp_path / "a.png")
    read_rows = 0

    def rows() -> Iterator[Item]:
        nonlocal read_rows
        for n in range(10_000):
            read_rows += 1
            yield Item(str(n), ("a.png",), "?", tmp_path)

    ready = decode_ahead(rows(), ahead=4)
    for _ in range(3):
        next(ready)
    ready.close()
    assert read_rows < 20


def test_an_item_comes_out_while_the_source_keeps_the_next_waiting(tmp_path: Path):
    half_red().save(tmp_path / "a.png")
    come = threading.Event()

    def rows() -> Iterator[Item]:
        yield Item("1", ("a.png",), "?", tmp_path)
        assert come.wait(60)
        yield Item("2", ("a.png",), "?", tmp_path)

    ready = decode_ahead(rows())
    assert next(ready).item.id == "1"
    come.set()
    assert [one.item.id for one in ready] == ["2"]


def test_an_error_of_the_source_is_not_swallowed():
    def rows() -> Iterator[Item]:
        yield Item("1", problem=Problem("row_invalid", "bad"))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(decode_ahead(rows()))


def test_damaged_images_of_every_format_are_images_or_problems(tmp_path: Path):
    """600 files: cut short, bits flipped, stretches zeroed; none may raise or end the process."""
    chance = random.Random(0)
    rows = []
    for ending in ("png", "jpg", "webp", "gif", "bmp", "tiff", "ppm", "tga", "ico", "jp2"):
        whole = io.BytesIO()
        names = {"jpg": "JPEG", "jp2": "JPEG2000"}
        half_red(size=(48, 48)).save(whole, names.get(ending, ending.upper()))
        for number in range(60):
            data = bytearray(whole.getvalue())
            kind = number % 3
            if kind == 0:
                del data[chance.randrange(len(data)) :]
            elif kind == 1:
                for _ in range(chance.randrange(1, 20)):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            else:
                start = chance.randrange(len(data))
                data[start : start + 64] = bytes(len(data[start : start + 64]))
            name = f"{ending}-{number}.{ending}"
            (tmp_path / name).write_bytes(data)
            rows.append(Item(name, (name,), "?", tmp_path))
    ready = list(decode_ahead(rows))
    assert [one.item.id for one in ready] == [row.id for row in rows]
    for one in ready:
        problem = one.item.problem
        assert (problem is None) == (len(one.images) == 1)
        assert problem is None or (problem.kind.startswith("image_") and len(problem.message) < 400)


def test_decoded_images_that_are_remembered_stay_within_their_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However large the images are that come after small ones."""
    monkeypatch.setattr(images, "HELD_BYTES", 100_000)
    sizes = [20] * 10 + [100] * 6  # 1,200 and 30,000 bytes each
    for number, size in enumerate(sizes):
        Image.new("RGB", (size, size), (number, 0, 0)).save(tmp_path / f"{number}.png")
    alive: dict[int, weakref.ref[Image.Image]] = {}
    rows = [Item(str(n), (f"{n}.png",), "?", tmp_path) for n in range(len(sizes))]
    for number, ready in enumerate(decode_ahead(rows, ahead=1)):
        alive[number] = weakref.ref(ready.images[0])
        del ready
        there = [one() for one in alive.values()]
        held = sum(3 * image.width * image.height for image in there if image is not None)
        there.clear()
        assert held <= 100_000 + 30_000  # the one that came last is still on its way out
