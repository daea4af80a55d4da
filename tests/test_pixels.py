"""Every kind of pixel becomes the RGB that its file means, or its row says why not."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageCms, features
from rasters import SRGB, grey_screen, odd_inks, png, screen, tiff

from sts_cli.inputs.colors import conversion
from sts_cli.inputs.picture import read_picture, settle_pillow
from sts_cli.inputs.told import FULL
from sts_cli.records import Problem

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
ORDERS = pytest.mark.parametrize("order", ["<", ">"])
JPEG2000 = pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
Color = tuple[int, int, int]


@pytest.fixture(autouse=True)
def settled() -> None:
    settle_pillow()


def read(data: bytes, folder: Path) -> Image.Image:
    (folder / "picture").write_bytes(data)
    found = read_picture("picture", folder)
    assert not isinstance(found, Problem), found
    assert found.image.mode == "RGB"
    return found.image


def pixels(data: bytes, folder: Path) -> list[Color]:
    image = read(data, folder)
    flat = image.tobytes()
    return [(flat[n], flat[n + 1], flat[n + 2]) for n in range(0, len(flat), 3)]


def greys(data: bytes, folder: Path) -> list[int]:
    found = pixels(data, folder)
    assert all(red == green == blue for red, green, blue in found)
    return [red for red, _, _ in found]


def refused(data: bytes, folder: Path) -> str:
    (folder / "picture").write_bytes(data)
    found = read_picture("picture", folder)
    assert isinstance(found, Problem) and found.kind == "image_unreadable"
    assert "damaged" not in found.message
    return found.message


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def near(found: Sequence[int], wanted: Sequence[int], by: int = 4) -> bool:
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


# Numbers that are no brightness yet.


def floats(*numbers: float, order: str = "<", photometric: int = 1, **tags: int | str) -> bytes:
    packed = struct.pack(f"{order}{len(numbers)}f", *numbers)
    return tiff((len(numbers), 1), 32, photometric, packed, sign=3, order=order, **tags)


@ORDERS
@pytest.mark.parametrize(
    "numbers, wanted",
    [
        ((0.0, 0.5, 1.0), [0, 128, 255]),
        ((0.02, 0.52, 1.02), [0, 128, 255]),  # a little above 1, as resizing leaves it
        ((-1.0, 0.0, 1.0), [0, 128, 255]),
        ((1000.0, 1500.0, 2000.0), [0, 128, 255]),
        ((0.0, math.nan, 1.0), [0, 255, 255]),
        ((0.0, math.inf, -math.inf, 4.0, 2.0), [0, 255, 0, 255, 128]),
        ((0.0, -3.4028234663852886e38, 10.0), [0, 255, 255]),  # GIS programs' "no value"
        ((-9999.0, 100.0, 300.0, 200.0), [255, 0, 255, 128]),
    ],
)
def test_floats_span_black_to_white(
    numbers: tuple[float, ...], wanted: list[int], order: str, tmp_path: Path
):
    assert near(greys(floats(*numbers, order=order), tmp_path), wanted, by=1)


@pytest.mark.parametrize("told", ["-32768", "-32768.0 ", "-3.2768e4"])
def test_the_number_that_gdal_says_is_no_value_is_white(told: str, tmp_path: Path):
    assert greys(floats(-32768, 10, 20, _42113=told), tmp_path) == [255, 0, 255]
    assert greys(floats(-32768, 0, 32768, _42113="none"), tmp_path) == [0, 128, 255]


def test_a_number_of_64_bits_that_is_no_value_is_found_in_pixels_of_32(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    data = floats(-9999.99, 10, 20, _42113="-9999.99")
    assert greys(data, tmp_path) == [255, 0, 255]
    assert greys(floats(5, 10, _42113="-1.7976931348623157e+308"), tmp_path) == [0, 255]
    assert not recwarn.list


@pytest.mark.parametrize("numbers", [(math.nan, math.nan), (math.inf, -math.inf), (-9999, -9999)])
def test_a_picture_without_any_value_is_refused(numbers: tuple[float, ...], tmp_path: Path):
    assert "no pixel with a value" in refused(floats(*numbers), tmp_path)


@pytest.mark.parametrize("number, wanted", [(0, 0), (-3, 0), (0.5, 128), (1, 255), (100, 100),
                                            (255, 255), (5000, 255)])  # fmt: skip
def test_floats_of_one_tone(number: float, wanted: int, tmp_path: Path):
    assert greys(floats(number, number), tmp_path) == [wanted, wanted]


def test_floats_whose_zero_is_white_are_turned(tmp_path: Path):
    assert greys(floats(0, 1, math.nan, photometric=0), tmp_path) == [255, 0, 255]


def test_a_tall_picture_has_one_scale_for_all_of_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sts_cli.inputs.deep.STRIP", 2)
    image = Image.new("F", (2, 5))
    image.putdata([float(n) for n in range(10)])
    assert greys(saved(image, "TIFF"), tmp_path) == [round(n * 255 / 9 + 1e-9) for n in range(10)]


def test_whole_numbers_of_32_bits_span_black_to_white(tmp_path: Path):
    high = struct.pack("<3I", 2**32 - 1, 0, 2**31)
    assert greys(tiff((3, 1), 32, 1, high), tmp_path) == [255, 0, 128]
    low = struct.pack("<3i", -(2**31), 0, 2**31 - 1)
    assert greys(tiff((3, 1), 32, 1, low, sign=2), tmp_path) == [0, 128, 255]
    assert greys(tiff((2, 1), 32, 1, struct.pack("<2I", 70_000, 90_000)), tmp_path) == [0, 255]


@ORDERS
def test_signed_numbers_of_8_and_16_bits(order: str, tmp_path: Path):
    sixteen = struct.pack(f"{order}4h", -1000, 0, 1000, -9999)
    assert greys(tiff((4, 1), 16, 1, sixteen, sign=2, order=order), tmp_path) == [0, 128, 255, 255]
    eight = struct.pack("3b", -100, 0, 100)
    assert greys(tiff((3, 1), 8, 1, eight, sign=2, order=order), tmp_path) == [0, 128, 255]


# 16 bits, and fewer bits stored in 16.


def words(*numbers: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}{len(numbers)}H", *numbers)


def grey16(*numbers: int, order: str = "<", photometric: int = 1, **tags: int | str) -> bytes:
    packed = words(*numbers, order=order)
    return tiff((len(numbers), 1), 16, photometric, packed, order=order, **tags)


@ORDERS
@pytest.mark.parametrize("full", [1, 255, 1023, 4095, 16383, FULL])
def test_without_a_word_16_bits_are_the_fewest_that_hold_the_brightest(
    full: int, order: str, tmp_path: Path
):
    numbers = (0, full // 2, full)
    wanted = [0, round(255 * (full // 2) / full), 255]
    assert greys(grey16(*numbers, order=order), tmp_path) == wanted
    big = words(*numbers, order=">")
    assert greys(png((3, 1), 16, 0, big), tmp_path) == wanted
    colors = words(*(n for n in numbers for _ in range(3)), order=order)
    assert greys(tiff((3, 1), (16, 16, 16), 2, colors, order=order), tmp_path) == wanted
    big = words(*(n for n in numbers for _ in range(3)), order=">")
    assert greys(png((3, 1), 16, 2, big), tmp_path) == wanted


def test_colors_of_12_bits_keep_every_bit_and_stay_upright(tmp_path: Path):
    colors = words(4095, 0, 16, 0, 2048, 4095)
    data = tiff((2, 1), (16, 16, 16), 2, colors, _274=3)
    assert pixels(data, tmp_path) == [(0, 128, 255), (255, 0, 1)]
    exif = Image.Exif()
    exif[0x0112] = 3
    colors = words(4095, 0, 16, 0, 2048, 4095, order=">")
    data = png((2, 1), 16, 2, colors, eXIf=exif.tobytes()[6:])
    assert pixels(data, tmp_path) == [(0, 128, 255), (255, 0, 1)]


def test_the_brightest_number_that_a_tiff_tells_is_white(tmp_path: Path):
    assert greys(grey16(0, 1000, _281=4095), tmp_path) == [0, 62]
    assert greys(grey16(0, 1000, _281=2000), tmp_path) == [0, 128]
    assert greys(grey16(0, 20_000, _281=40_000), tmp_path) == [0, 128]
    colors = words(0, 1000, 0)
    assert pixels(tiff((1, 1), (16,) * 3, 2, colors, _281=[2000] * 3), tmp_path) == [(0, 128, 0)]


def test_a_told_number_below_the_brightest_is_no_limit(tmp_path: Path):
    assert greys(grey16(0, 65535, 32768, _281=255), tmp_path) == [0, 255, 128]
    assert greys(grey16(0, 4095, _281=0), tmp_path) == [0, 255]
    assert greys(grey16(0, 0, _281=0), tmp_path) == [0, 0]


def test_the_bits_that_a_png_tells(tmp_path: Path):
    small, full = words(0, 1000, order=">"), words(0, 32768, order=">")
    assert greys(png((2, 1), 16, 0, small, sBIT=b"\x0c"), tmp_path) == [0, 62]
    assert greys(png((2, 1), 16, 0, full, sBIT=b"\x0c"), tmp_path) == [0, 128]
    assert greys(png((2, 1), 16, 0, small, sBIT=b"\x10"), tmp_path) == [0, 4]
    colors = words(0, 1000, 0, order=">")
    assert pixels(png((1, 1), 16, 2, colors, sBIT=b"\x0c" * 3), tmp_path) == [(0, 62, 0)]


def test_12_bits_that_stand_close_together(tmp_path: Path):
    assert greys(tiff((2, 1), 12, 1, b"\x80\x00\x00"), tmp_path) == [128, 0]
    assert greys(tiff((2, 1), 12, 1, b"\x20\x00\x00"), tmp_path) == [32, 0]


def test_a_format_that_scales_by_itself_stays_as_dark_as_it_is(tmp_path: Path):
    dark = b"P5 2 1 65535\n" + words(0, 2570, order=">")
    assert greys(dark, tmp_path) == [0, 10]
    twelve = b"P5 2 1 4095\n" + words(4095, 2048, order=">")
    assert near(greys(twelve, tmp_path), [255, 128], by=1)


@pytest.mark.parametrize("photometric, wanted", [(0, [255, 127, 0]), (1, [0, 128, 255])])
def test_zero_is_white_where_a_tiff_says_so(photometric: int, wanted: list[int], tmp_path: Path):
    assert near(greys(grey16(0, 32896, 65535, photometric=photometric), tmp_path), wanted, by=1)
    eight = tiff((3, 1), 8, photometric, bytes((0, 128, 255)))
    assert greys(eight, tmp_path) == wanted
    one = tiff((8, 1), 1, photometric, b"\xf0")
    assert greys(one, tmp_path) == [wanted[2]] * 4 + [wanted[0]] * 4


def test_no_data_of_16_bits_is_white_and_does_not_count_as_bright(tmp_path: Path):
    assert greys(grey16(0, 4095, 65535, _42113="65535"), tmp_path) == [0, 255, 255]


@pytest.mark.parametrize("orientation, wanted", [(1, [0, 255]), (3, [255, 0]), (6, [0, 255])])
def test_16_bits_are_turned_once(orientation: int, wanted: list[int], tmp_path: Path):
    assert greys(grey16(0, FULL, _274=orientation), tmp_path) == wanted
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("I;16", (2, 1))
    image.putpixel((1, 0), FULL)
    data = saved(image, "PNG", exif=exif)
    assert greys(data, tmp_path) == wanted
    assert read(data, tmp_path).size == ((1, 2) if orientation == 6 else (2, 1))


# Transparency.


def test_grey_of_16_bits_is_transparent_at_its_very_number_alone(tmp_path: Path):
    data = png((4, 1), 16, 0, words(256, 257, 0, FULL, order=">"), tRNS=words(256, order=">"))
    assert greys(data, tmp_path) == [255, 1, 0, 255]


def test_a_color_of_16_bits_is_transparent_at_its_very_numbers_alone(tmp_path: Path):
    colors = words(256, 512, 768, 257, 512, 768, FULL, 0, 0, order=">")
    data = png((3, 1), 16, 2, colors, tRNS=words(256, 512, 768, order=">"))
    assert pixels(data, tmp_path) == [(255, 255, 255), (1, 2, 3), RED]


@pytest.mark.parametrize("bits, row", [(1, b"\x80"), (2, b"\x40"), (4, b"\x50"), (8, b"\7\0")])
def test_grey_of_few_bits_is_transparent_at_its_number(bits: int, row: bytes, tmp_path: Path):
    first = row[0] >> (8 - bits)
    assert greys(png((2, 1), bits, 0, row, tRNS=words(first, order=">")), tmp_path) == [255, 0]
    wide = words(first + 256, order=">")  # the bits above those of the picture do not count
    assert greys(png((2, 1), bits, 0, row, tRNS=wide), tmp_path) == [255, 0]
    black = png((2, 1), bits, 0, row, tRNS=words(0, order=">"))
    assert greys(black, tmp_path) == [first * 255 // (2**bits - 1), 255]


def test_alpha_of_16_bits_lies_on_white(tmp_path: Path):
    colors = words(FULL, 0, 0, 0, FULL, 0, 0, FULL, FULL, 0, 0, 32768, order=">")
    found = pixels(png((3, 1), 16, 6, colors), tmp_path)
    assert found[:2] == [(255, 255, 255), RED] and near(found[2], (255, 127, 127), by=1)
    grey = words(0, FULL, 0, 0, order=">")
    assert greys(png((2, 1), 16, 4, grey), tmp_path) == [0, 255]


def test_12_bits_with_alpha_are_refused_and_black_with_alpha_is_not(tmp_path: Path):
    assert "uses few" in refused(png((1, 1), 16, 6, words(9, 9, 9, 4095, order=">")), tmp_path)
    assert pixels(png((1, 1), 16, 6, words(0, 0, 0, FULL, order=">")), tmp_path) == [(0, 0, 0)]


def test_a_palette_with_many_alphas_lies_on_white(tmp_path: Path):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *BLUE, 0, 0, 0])
    image.putdata([0, 1, 2])
    data = saved(image, "PNG", transparency=bytes((255, 0, 128)))
    assert pixels(data, tmp_path) == [RED, (255, 255, 255), (127, 127, 127)]


@pytest.mark.parametrize("alpha, wanted", [(0, [RED, BLUE]), (255, [(255, 255, 255), BLUE])])
def test_an_alpha_that_was_never_written_hides_nothing(
    alpha: int, wanted: list[Color], tmp_path: Path
):
    head = bytes((0, 0, 2, 0, 0, 0, 0, 0)) + struct.pack("<4H", 0, 0, 2, 1) + bytes((32, 0x28))
    assert pixels(head + bytes((0, 0, 255, 0, 255, 0, 0, alpha)), tmp_path) == wanted


# Kinds of a TIFF.


@ORDERS
@pytest.mark.parametrize("full", [255, FULL])
def test_a_palette_of_small_numbers_is_not_black(full: int, order: str, tmp_path: Path):
    palette = [0, full, *[0] * 254, *[0] * 256, full, 0, *[0] * 254]
    data = tiff((2, 1), 8, 3, b"\0\1", order=order, _320=palette)
    assert pixels(data, tmp_path) == [BLUE, RED]


def test_planes_of_one_color_each(tmp_path: Path):
    planes = tiff((2, 1), (8, 8, 8), 2, b"\xff\0", b"\0\xff", b"\0\0", _284=2)
    assert pixels(planes, tmp_path) == [RED, GREEN]
    deep = tiff((2, 1), (16,) * 3, 2, words(FULL, 0), words(0, FULL), words(0, 0), _284=2)
    assert "planes" in refused(deep, tmp_path)
    packed = [zlib.compress(words(*two)) for two in ((FULL, 0), (0, FULL), (0, 0))]
    assert pixels(tiff((2, 1), (16,) * 3, 2, *packed, _284=2, _259=8), tmp_path) == [RED, GREEN]
    packed = [zlib.compress(words(*two)) for two in ((4095, 0), (0, 4095), (0, 0))]
    dim = tiff((2, 1), (16,) * 3, 2, *packed, _284=2, _259=8)
    assert "uses few" in refused(dim, tmp_path)


@pytest.mark.parametrize(
    "data, reason",
    [
        (tiff((1, 1), (8,) * 5, 2, *[b"\7"] * 5, _284=2), "a TIFF of a kind that is not read"),
        (tiff((1, 1), 64, 1, bytes(8), sign=3), "a TIFF of a kind that is not read"),
        (tiff((1, 1), (32,) * 3, 2, bytes(12), sign=3), "a TIFF of a kind that is not read"),
        (tiff((1, 1), (8, 8, 8), 2, b"\1\2\3", _254=1), "begins with a small preview"),
        (tiff((2, 2), (8, 8, 8), 6, bytes(600), _530=[2, 2]), "has YCbCr colours"),
        (tiff((1, 1), (8,) * 4, 5, bytes(4), _332=2), "inks other than CMYK"),
    ],
)
def test_a_tiff_that_cannot_be_read_right_is_refused(data: bytes, reason: str, tmp_path: Path):
    assert reason in refused(data, tmp_path)


def test_lab_and_cmyk_with_more_bands(tmp_path: Path):
    lab = tiff((1, 1), (8, 8, 8), 8, bytes((136, 80, 70)))
    assert near(pixels(lab, tmp_path)[0], (250, 3, 3))
    inks = tiff((1, 1), (8,) * 5, 5, bytes((0, 255, 255, 0, 7)), _338=0)
    assert pixels(inks, tmp_path) == [RED]


def test_the_first_page_of_deep_pages_is_read(tmp_path: Path):
    pages = [Image.new("I;16", (1, 1), value) for value in (4095, 1, 2)]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert greys(data, tmp_path) == [255]


# Colours.

SWAPPED = screen(SRGB[2], SRGB[1], SRGB[0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_blue_of_a_profile_that_means_red_is_red(kind: str, tmp_path: Path):
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    data = saved(Image.new("RGB", (16, 16), BLUE), kind, icc_profile=SWAPPED, **options)
    image = read(data, tmp_path)
    found = image.getpixel((8, 8))
    assert isinstance(found, tuple) and near(found, RED, by=8)
    assert "icc_profile" not in image.info


def test_blue_of_a_palette_and_under_alpha_is_brought_to_srgb_too(tmp_path: Path):
    palette = Image.new("RGB", (1, 1), BLUE).quantize()
    assert near(pixels(saved(palette, "PNG", icc_profile=SWAPPED), tmp_path)[0], RED)
    half = Image.new("RGBA", (1, 1), (*BLUE, 128))
    found = pixels(saved(half, "PNG", icc_profile=SWAPPED), tmp_path)[0]
    assert near(found, (255, 127, 127))
    deep = png((1, 1), 16, 2, words(0, 0, FULL, order=">"), iCCP=iccp(SWAPPED))
    assert near(pixels(deep, tmp_path)[0], RED)


def iccp(profile: bytes) -> bytes:
    return b"x\0\0" + zlib.compress(profile)


def test_a_wide_profile_makes_colors_stronger(tmp_path: Path):
    wide = screen((0.515, 0.241, -0.001), (0.292, 0.692, 0.042), (0.157, 0.067, 0.784))  # P3
    data = saved(Image.new("RGB", (1, 1), (200, 100, 100)), "PNG", icc_profile=wide)
    red, green, blue = pixels(data, tmp_path)[0]
    assert red > 208 and green < 98 and near((blue,), (98,), by=6)


def test_the_profile_srgb_moves_nothing(tmp_path: Path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.linear_gradient("L").resize((64, 64))
    colors = Image.merge("RGB", (image, image.rotate(90), image.rotate(180)))
    assert read(saved(colors, "PNG", icc_profile=srgb), tmp_path).tobytes() == colors.tobytes()
    assert conversion(srgb, "RGB") is None  # a photo of 12 million pixels is not converted in vain
    assert conversion(SWAPPED, "RGB") is not None


def test_a_grey_profile_brightens_grey(tmp_path: Path):
    linear = grey_screen(1.0)
    grey = Image.new("L", (1, 1), 128)
    assert near(greys(saved(grey, "PNG", icc_profile=linear), tmp_path), [188])
    clear = Image.new("LA", (1, 1), (128, 0))
    assert greys(saved(clear, "PNG", icc_profile=linear), tmp_path) == [255]
    deep = png((2, 1), 16, 0, words(32896, FULL, order=">"), iCCP=iccp(linear))
    assert near(greys(deep, tmp_path), [188, 255])


def test_a_grey_photo_keeps_the_meaning_of_the_colors_it_was_made_of(tmp_path: Path):
    linear = screen(*SRGB, power=1.0)
    grey = Image.new("L", (1, 1), 128)
    assert near(greys(saved(grey, "PNG", icc_profile=linear), tmp_path), [188])


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_the_profile_of_a_printer_says_what_its_inks_are(kind: str, tmp_path: Path):
    options = {"quality": 100} if kind == "JPEG" else {}
    for inks, wanted in (((255, 0, 0, 0), (0, 0, 0)), ((0, 255, 0, 255), (255, 255, 255))):
        image = Image.new("CMYK", (8, 8), inks)
        found = pixels(saved(image, kind, icc_profile=odd_inks(), **options), tmp_path)
        assert near(found[0], wanted, by=8)


def test_a_cmyk_jpeg_is_not_its_negative(tmp_path: Path):
    data = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert near(pixels(data, tmp_path)[0], RED, by=8)


@pytest.mark.parametrize(
    "profile", [SWAPPED[:90], SWAPPED[:200], b"junk" * 50, grey_screen(1.0), odd_inks()]
)
def test_a_profile_that_is_damaged_or_for_other_pixels_is_passed_over(
    profile: bytes, tmp_path: Path
):
    data = saved(Image.new("RGB", (1, 1), (10, 100, 200)), "TIFF", icc_profile=profile)
    assert pixels(data, tmp_path) == [(10, 100, 200)]


@JPEG2000
def test_a_dark_jpeg_2000_of_16_bits_stays_dark(tmp_path: Path):
    assert greys(saved(Image.new("I;16", (2, 2), 2570), "JPEG2000"), tmp_path) == [10] * 4


@JPEG2000
def test_the_profile_in_the_header_of_a_jpeg_2000(tmp_path: Path):
    data = saved(Image.new("RGB", (16, 16), BLUE), "JPEG2000")
    at = data.index(b"colr") - 4
    box = int.from_bytes(data[at : at + 4], "big")
    new = struct.pack(">I", 11 + len(SWAPPED)) + b"colr\2\0\0" + SWAPPED
    head = data.index(b"jp2h") - 4
    size = int.from_bytes(data[head : head + 4], "big") - box + len(new)
    data = data[:head] + struct.pack(">I", size) + data[head + 4 : at] + new + data[at + box :]
    assert near(pixels(data, tmp_path)[0], RED, by=8)


def test_the_gamma_of_a_png_counts_where_nothing_else_says_its_colors(tmp_path: Path):
    linear, screens = struct.pack(">I", 100_000), struct.pack(">I", 45_455)
    colors = bytes((128, 0, 255))
    assert pixels(png((1, 1), 8, 6, colors + b"\xff", gAMA=linear), tmp_path) == [(186, 0, 255)]
    half = pixels(png((1, 1), 8, 6, b"\0\0\0\x80", gAMA=linear), tmp_path)[0]
    assert near(half, (127, 127, 127), by=1)
    assert pixels(png((1, 1), 8, 2, colors, gAMA=screens), tmp_path) == [(128, 0, 255)]
    assert pixels(png((1, 1), 8, 2, colors, gAMA=bytes(4)), tmp_path) == [(128, 0, 255)]
    both = png((1, 1), 8, 2, colors, sRGB=b"\0", gAMA=linear)
    assert pixels(both, tmp_path) == [(128, 0, 255)]
    profile = png((1, 1), 8, 2, colors, iCCP=iccp(screen(*SRGB)), gAMA=linear)
    assert near(pixels(profile, tmp_path)[0], (128, 0, 255))
