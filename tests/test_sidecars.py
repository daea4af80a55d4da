"""One text file beside each image: none shared, none lost, none of the user's replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image
from running import no_waiting_for_the_disk, read_rows, sts

from sts_cli.outputs.sidecar import Sidecars
from sts_cli.records import Answer, Item, Problem

__all__ = ["no_waiting_for_the_disk"]

SHORT = ("--max-new-tokens", "2", "-q")


@pytest.fixture
def photos(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; `sts` answers by a small random model."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def picture(path: Path, colour: str = "red") -> Path:
    Image.new("RGB", (50, 40), colour).save(path, "png")
    return path


def item(folder: Path, name: str) -> Item:
    return Item(name, (name,), "?", folder)


def places(folder: Path, *names: str) -> list[str]:
    """The sidecars of images that all are in a folder."""
    for name in names:
        (folder / name).touch()
    sidecars = Sidecars(replace=False)
    return [sidecars.place(item(folder, name)).name for name in names]


def texts(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.txt")}


def test_an_answer_lies_beside_its_image(tmp_path: Path):
    sidecars = Sidecars(replace=False)
    one = item(tmp_path, "a.jpg")
    sidecars.write(Answer(one, "m", "p", text="a cat"))
    assert (tmp_path / "a.txt").read_text() == "a cat\n"
    problem = Problem("image_missing", "No image.")
    sidecars.write(Answer(item(tmp_path, "b.jpg"), "m", "p", problem=problem))
    assert os.listdir(tmp_path) == ["a.txt"]
    sidecars.write(Answer(one, "m", "p", text="a dog"))
    assert (tmp_path / "a.txt").read_text() == "a cat\n"
    Sidecars(replace=True).write(Answer(one, "m", "p", text="a dog"))
    assert (tmp_path / "a.txt").read_text() == "a dog\n"


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a.jpg", "b.png", "notes.md"], ["a.txt", "b.txt", "notes.txt"]),
        (["IMG_1.JPG", "IMG_1.PNG"], ["IMG_1.JPG.txt", "IMG_1.PNG.txt"]),
        (["IMG_1.HEIC", "img_1.jpg"], ["IMG_1.HEIC.txt", "img_1.jpg.txt"]),
        (["a.jpg", "a.JPG"], ["a.jpg.txt", "a.JPG.txt"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.txt", "a.png.txt", "a.jpg.png.txt"]),
        (["a.jpg", "a.jpg.png"], ["a.txt", "a.jpg.png.txt"]),
        (["a.b.jpg", "a.c.jpg"], ["a.b.txt", "a.c.txt"]),
        (["a.txt"], ["a.txt.txt"]),
    ],
    ids=str,
)
def test_names_follow_from_the_names_in_the_folder(
    names: list[str], wanted: list[str], tmp_path: Path
):
    assert places(tmp_path, *names) == wanted


def test_a_name_too_long_for_its_sidecar_is_cut_and_stays_unique(tmp_path: Path):
    long = ["a" * 249 + one + ".jpg" for one in "12"]
    both = [long[0], long[0].replace(".jpg", ".png")]
    assert places(tmp_path, *long) == [name.replace(".jpg", ".txt") for name in long]
    cut = places(tmp_path, *both)
    assert len(set(cut)) == 2
    assert all(len(name) <= 255 and name.startswith("a" * 200) for name in cut)
    wide = places(tmp_path, "é" * 125 + ".jpg", "é" * 125 + ".png")
    assert len(set(wide)) == 2 and all(len(name.encode()) <= 255 for name in wide)


def test_names_of_254_bytes_are_answered(photos: Path):
    for ending in ("jpg", "png"):
        picture(photos / f"{'a' * 250}.{ending}")
    picture(photos / f"{'b' * 250}.jpg")
    assert sts("batch", photos, "--sidecar", *SHORT).code == 0
    assert len(texts(photos)) == 3


def test_two_photos_of_one_name_have_a_text_each(photos: Path):
    picture(photos / "IMG_1.JPG", "red")
    picture(photos / "IMG_1.PNG", "blue")
    assert sts("batch", photos, "--sidecar", *SHORT).code == 0
    assert texts(photos) == {"IMG_1.JPG.txt", "IMG_1.PNG.txt"}
    assert "2 answered before" in sts("batch", photos, "--sidecar").err


@pytest.mark.parametrize(("first", "second"), [("JPG", "PNG"), ("PNG", "HEIC"), ("png", "PNG")])
def test_the_second_photo_may_come_later(first: str, second: str, photos: Path):
    picture(photos / f"IMG_1.{first}", "red")
    sts("batch", photos, "--sidecar", *SHORT)
    assert texts(photos) == {"IMG_1.txt"}
    picture(photos / f"IMG_1.{second}", "blue")
    assert sts("batch", photos, "--sidecar", *SHORT).code == 0
    assert texts(photos) == {"IMG_1.txt", f"IMG_1.{first}.txt", f"IMG_1.{second}.txt"}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_text_of_the_user_stays_beside_out_too(fresh: bool, photos: Path, tmp_path: Path):
    picture(photos / "a.jpg")
    picture(photos / "b.jpg")
    (photos / "a.txt").write_text("mine\n")
    out = tmp_path / "a.jsonl"
    done = sts("batch", photos, "--sidecar", "--out", out, *SHORT, *(["--fresh"] if fresh else []))
    assert done.code == 0 and [row["id"] for row in read_rows(out)] == ["a.jpg", "b.jpg"]
    assert ((photos / "a.txt").read_text() == "mine\n") is not fresh
    assert texts(photos) == {"a.txt", "b.txt"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file_name": "a.jpg"}, {"file_name": "a.jpg", "id": "x"}], "rows 1 and x"),
        ([{"file_name": "a.jpg"}, {"file_name": "./a.jpg"}], "rows 1 and 2"),
        ([{"file_name": "sub/../a.jpg"}, {"file_name": "a.jpg"}], "rows 1 and 2"),
        ([{"file_name": "a.jpg"}, {"file_name": "a"}], "rows 1 and 2"),
        ([{"images": ["a.jpg", "b.jpg"]}], "row 1 is not about one image file"),
        ([{"image": "data:image/png;base64,AAAA"}], "row 1 is not about one image file"),
        ([{"file_name": "a.jpg"}, {"file_name": "a.txt"}], "is an image of the input"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_metadata_that_would_share_a_text_is_refused(
    rows: list[dict[str, object]], message: str, photos: Path
):
    (photos / "sub").mkdir()
    for name in ("a.jpg", "b.jpg", "a", "a.txt"):
        picture(photos / name)
    lines = (json.dumps({"question": "?", **row}) + "\n" for row in rows)
    (photos / "metadata.jsonl").write_text("".join(lines))
    before = {path: path.read_bytes() for path in photos.iterdir() if path.is_file()}
    done = sts("batch", photos, "--sidecar", "--fresh", *SHORT)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1
    assert {path: path.read_bytes() for path in photos.iterdir() if path.is_file()} == before


def test_metadata_that_asks_once_about_each_is_answered(photos: Path):
    for name in ("a.jpg", "b.jpg"):
        picture(photos / name)
    rows = [{"file_name": "a.jpg"}, {"file_name": "b.jpg"}, {"file_name": "gone.jpg"}]
    (photos / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sts("batch", photos, "--sidecar", *SHORT).code == 1
    assert texts(photos) == {"a.txt", "b.txt"}
