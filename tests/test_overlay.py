"""The overlay shows what was kept, where it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import checkpoints
import pytest
import tiny
from PIL import Image
from running import no_waiting_for_the_disk, sts

import sts_cli
from sts_cli.families.places import raster, square_tiles, with_newlines
from sts_cli.outputs.overlays import safe
from sts_cli.records import KeptTokens, Place
from sts_cli.report.overlay import (
    DROPPED,
    FRAME,
    MARGIN,
    VEIL,
    encoded,
    endings,
    format_for,
    is_overlay,
    mark_of,
    overlay,
    veiled,
)
from sts_cli.report.rasters import Raster, rasters, survivals

__all__ = ["no_waiting_for_the_disk"]

SHORT = ("--max-new-tokens", "2", "-q")
EVERY = tuple(((row + 0.5) / 4, (column + 0.5) / 4) for row in range(4) for column in range(4))


def places(tensor) -> tuple[Place, ...]:
    return tuple((row, column) for row, column in tensor.tolist())


def grey(level: int, share: float) -> tuple[int, ...]:
    """A grey picture under a share of the veil."""
    return tuple(round(level + (veil - level) * share) for veil in VEIL)


def near(found: object, wanted: tuple[int, ...]) -> bool:
    assert isinstance(found, tuple)
    return all(abs(a - b) <= 2 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("level", [0, 255])
def test_the_original_stands_beside_what_was_kept(level: int):
    kept = KeptTokens(EVERY, (EVERY[:8], EVERY[:1]))
    drawn = overlay(Image.new("RGB", (80, 40), (level,) * 3), kept)
    first = [drawn.getpixel((MARGIN + x, MARGIN + y)) for x, y in ((10, 10), (1000, 500))]
    assert first == [(level,) * 3] * 2
    left = 2 * MARGIN + 1024
    last, second, dropped = (
        drawn.getpixel((left + x, MARGIN + y)) for x, y in ((128, 64), (384, 64), (384, 448))
    )
    assert last == (level,) * 3
    assert near(dropped, grey(level, DROPPED))
    assert sorted([last, second, dropped]) in ([last, second, dropped], [dropped, second, last])
    assert drawn.getpixel((left, MARGIN)) == FRAME
    assert drawn.size[1] > 512 + 2 * MARGIN  # a legend stands below


def test_without_cuts_nothing_is_veiled():
    plain = Image.effect_noise((90, 60), 80).convert("RGB")
    assert veiled(plain, KeptTokens(EVERY, ())).tobytes() == plain.tobytes()


def test_tiles_and_the_whole_image_are_grids_of_their_own():
    tiles = square_tiles(3 * 16, 16, (200, 100))
    left, right, whole = rasters(places(tiles))
    assert (left.rows, left.columns, left.width, left.height) == (4, 4, 0.125, 0.25)
    assert right.left == 0.5 and whole == Raster(0, 0, 0.25, 0.25, 4, 4)


def test_a_tile_below_another_column_is_no_part_of_it():
    corners = [(one.top, one.left) for one in rasters(places(square_tiles(5 * 16, 16, (99, 99))))]
    assert corners == [(0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5), (0, 0)]


def test_newline_tokens_have_no_cell():
    mixed = places(with_newlines(16 + 4 * (8 + 1), 16, (200, 100)))
    whole, parts = rasters(mixed)
    assert (whole.rows, whole.columns) == (4, 4)
    assert (parts.rows, parts.columns, parts.width) == (4, 8, 0.125)
    kept = KeptTokens(mixed, (mixed[10:30],))
    assert len(survivals(kept)) == 48
    assert sum(survivals(kept)) == sum(column < 1 for _, column in mixed[10:30])


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (13, 1), (1, 1)])
def test_any_grid_covers_its_image(size: tuple[int, int]):
    (grid,) = rasters(places(raster(*size)))
    boxes = grid.boxes()
    assert (grid.rows, grid.columns) == size
    assert boxes[0][:2] == pytest.approx((0, 0), abs=1e-5)
    assert boxes[-1][2:] == pytest.approx((1, 1), abs=1e-5)


def test_tokens_of_the_same_place_are_told_apart():
    twice = (*EVERY, *EVERY)
    survived = survivals(KeptTokens(twice, ((EVERY[3], EVERY[5], EVERY[3]),)))
    assert [n for n, lived in enumerate(survived) if lived] == [3, 5, 19]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("size", [(300, 120), (90, 200)])
def test_the_grids_of_every_family_cover_what_it_sees(
    family: str, size: tuple[int, int], tmp_path: Path
):
    """LLaVA cuts a square out of the middle; all others look at the whole image."""
    model = sts_cli.load(str(checkpoints.write(family, tmp_path / "m")), profile="aggressive")
    image = Image.effect_noise(size, 60).convert("RGB")
    answer = model.ask(image, "what?", places=True, max_new_tokens=1)
    assert answer.kept is not None and answer.tokens is not None
    every = answer.kept[0].every
    boxes = [box for grid in rasters(every) for box in grid.boxes()]
    assert len(boxes) == answer.tokens.visual - sum(column == 1 for _, column in every)
    square = min(size)
    seen = size if family != "llava" else (square, square)
    edges = [(1 - part / full) / 2 for part, full in zip(seen, size, strict=True)]
    assert [min(box[side] for box in boxes) for side in (0, 1)] == pytest.approx(edges, abs=0.01)
    far = [1 - edge for edge in edges]
    assert [max(box[side] for box in boxes) for side in (2, 3)] == pytest.approx(far, abs=0.01)
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    whole = (far[0] - edges[0]) * (far[1] - edges[1])
    layers = 1 if family in ("llava", "gemma3") or family.startswith("qwen") else 2
    assert area == pytest.approx(layers * whole, rel=0.02)


@pytest.mark.parametrize("ending", endings())
def test_an_overlay_in_every_format_that_pillow_writes(ending: str, tmp_path: Path):
    path = tmp_path / f"kept{ending}"
    form = format_for(path)
    assert form is not None
    drawn = overlay(Image.new("RGB", (60, 40), "red"), KeptTokens(EVERY, (EVERY[:3],)))
    path.write_bytes(encoded(drawn, form, "0123"))
    assert path.stat().st_size > 1000
    assert mark_of(path) == ("0123" if ending in endings(marked=True) else None)


def test_common_formats_are_there():
    assert {".png", ".jpg", ".webp", ".tif", ".gif", ".bmp", ".pdf"} <= set(endings())
    assert {".png", ".jpg", ".webp", ".tif", ".gif"} <= set(endings(marked=True))
    assert not {".ico", ".xbm", ".h5"} & set(endings())


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two pictures."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (80, 40), colour).save(f"{number}.png")
    return tmp_path


def ask_rows(*ids: str, images: object = "0.png", file: str = "q.jsonl") -> None:
    rows = ({"id": one, "image": images, "question": f"what {n}?"} for n, one in enumerate(ids))
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("ending", [".png", ".jpeg", ".webp", ".bmp"])
def test_ask_draws_in_the_format_of_the_name(ending: str, place: Path):
    assert sts("ask", "0.png", "--overlay", f"kept{ending}", *SHORT).code == 0
    with Image.open(f"kept{ending}") as drawn:
        assert drawn.size[0] == 2 * 1024 + 3 * MARGIN


def test_a_format_that_is_not_written_is_refused_with_those_that_are(place: Path):
    done = sts("ask", "0.png", "--overlay", "kept.txt", *SHORT)
    assert done.code == 2 and ".jpg" in done.err and done.err.count("\n") == 1
    assert ".apng" not in done.err  # no list of forty
    done = sts("batch", "0.png", "--overlay", "kept/*.bmp", *SHORT)
    assert done.code == 2 and ".webp" in done.err and ".bmp," not in done.err
    assert not Path("kept").exists()


def test_batch_draws_every_row(place: Path):
    ask_rows("a", "b/../c", "../../d", "é", "")
    done = sts("batch", "q.jsonl", "--overlay", "kept", "-o", "o.jsonl", *SHORT)
    assert done.code == 0, done.err
    names = sorted(path.name for path in place.rglob("*.jpg"))
    assert len(names) == 5 and {"a.jpg", "é.jpg"} <= set(names)
    assert all(path.parent.name == "kept" and is_overlay(path) for path in place.rglob("*.jpg"))


def test_rows_of_one_id_and_images_of_one_row_have_files_of_their_own(place: Path):
    ask_rows("7", "7")
    ask_rows("8", images=["0.png", "1.png"], file="more.jsonl")
    for file in ("q.jsonl", "more.jsonl", "q.jsonl"):  # the third replaces what the first drew
        assert sts("batch", file, "--overlay", "kept/*.webp", *SHORT).code == 0
    names = sorted(path.name for path in Path("kept").iterdir())
    assert len(names) == 4 and {"7.webp", "8-1.webp", "8-2.webp"} <= set(names)
    marks = {mark_of(Path("kept") / name) for name in names}
    assert len(marks) == 4


def test_a_file_of_the_user_stays(place: Path):
    ask_rows("0")
    Path("kept").mkdir()
    shutil.copy("0.png", "kept/0.png")
    assert sts("batch", "q.jsonl", "--overlay", "kept/*.png", *SHORT).code == 0
    assert Path("kept/0.png").read_bytes() == Path("0.png").read_bytes()
    (other,) = (path for path in Path("kept").iterdir() if path.name != "0.png")
    assert other.name.startswith("0~") and is_overlay(other)


@pytest.mark.parametrize(
    "identity", ["..", "a/b", "a\\b", "con:x", ".hidden", "-rf", "x" * 300, "é" * 200, "a\0b", " "]
)
def test_no_id_leads_out_of_the_folder(identity: str):
    name = safe(identity)
    assert Path(name).name == name and len(f"{name}~{'0' * 16}-10.jpeg".encode()) <= 255
    assert name[0] not in ".-" and safe(identity + "y") != name
