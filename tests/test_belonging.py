"""Answers are only joined to answers of the same run; a file is only replaced if sts wrote it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from PIL import Image
from running import no_waiting_for_the_disk, read_rows, sts

from sts_cli.errors import OutputError
from sts_cli.inputs import jsonl
from sts_cli.outputs.formats import format_named
from sts_cli.outputs.journal import Journal
from sts_cli.records import Answer, Item, Problem

__all__ = ["no_waiting_for_the_disk"]

SHORT = ("--max-new-tokens", "2", "-q")
RUN: dict[str, Any] = {"model": "demo", "input": "one", "profile": {"name": "balanced"}}


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two folders of pictures of the same names, and questions about them."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for folder, colour in (("A", "red"), ("B", "blue")):
        Path(folder).mkdir()
        for number in range(3):
            Image.new("RGB", (50, 40), colour).save(f"{folder}/{number}.png")
    write(Path("q.jsonl"), 3)
    return tmp_path


def write(path: Path, count: int, question: str = "what?") -> Path:
    rows = ({"id": n, "image": f"{n % 3}.png", "question": question} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(*arguments: object, because: str) -> None:
    """The command writes nothing, and says in one line why."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = sts(*arguments, *SHORT)
    assert done.code == 2 and because in done.err and done.err.count("\n") == 1, done.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_another_folder_of_images_is_another_run(place: Path):
    asked = ("batch", "q.jsonl", "--out", "o.jsonl", *SHORT)
    assert sts(*asked, "--images", "A", "--limit", 1).code == 0
    other = (*asked[:-3], "--images", "B")
    refused(*other, because="another images folder: ")
    assert sts(*asked, "--images", place / "A").code == 0
    refused(*other, because="another images folder: ")  # of a complete file, too
    assert sts(*other, *SHORT, "--fresh").code == 0


@pytest.mark.parametrize("earlier", [[], ["--limit", 2], ["--limit", 3]])
def test_a_run_reads_each_row_once_whatever_was_answered_before(place: Path, earlier: list[object]):
    asked = ("batch", "q.jsonl", "--images", "A", "--out", "o.jsonl", *SHORT)
    assert sts(*asked, *earlier, "--dry-run" if not earlier else "-q").code == 0
    with patch.object(jsonl, "read_line", wraps=jsonl.read_line) as parse:
        assert sts(*asked).code == 0
    assert parse.call_count == 1 + 3  # one to see that there is a row
    assert [row["id"] for row in read_rows(place / "o.jsonl")] == ["0", "1", "2"]


def test_the_same_questions_beside_other_images_are_another_run(place: Path):
    for folder in "AB":
        shutil.copy("q.jsonl", folder)
    assert sts("batch", "A/q.jsonl", "--out", "o.jsonl", "--limit", 1, *SHORT).code == 0
    refused("batch", "B/q.jsonl", "--out", "o.jsonl", because="another images folder: ")


def test_questions_from_stdin_are_about_the_images_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = Path("q.jsonl").read_bytes()
    asked = ("batch", "-", "--out", place / "o.jsonl", *SHORT)
    monkeypatch.chdir("A")
    assert sts(*asked, "--limit", 1, stdin=lines).code == 0
    monkeypatch.chdir("../B")
    assert "another images folder" in sts(*asked, stdin=lines).err


@pytest.mark.parametrize("rows", [1, 3])
def test_a_model_that_changed_is_another_run(rows: int, tiny_checkpoint: Path, place: Path):
    """Also for a run that is complete, which needs no model any more."""
    asked = ("batch", "q.jsonl", "--images", "A", "-m", "model", "--out", "o.jsonl")
    shutil.copytree(tiny_checkpoint, "model")
    assert sts(*asked, "--limit", rows, *SHORT).code == 0
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        path = Path("model") / name
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        refused(*asked, because=f"the model in model has changed since ({name})")
        path.write_bytes(before)
    weights = Path("model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    refused(*asked, because="the model in model has changed since (model.safetensors)")
    assert sts(*asked, *SHORT, "--fresh").code == 0


def test_a_model_fetched_again_is_compared_once_it_is_here(tmp_path: Path):
    """The files of a hub model are not known before it is loaded."""
    out, form = tmp_path / "o.jsonl", format_named("jsonl")
    first = Journal(out, form, RUN)
    first.confirm("float32, none", {"model.safetensors": "0123"})
    first.append(Answer(Item("1", ("1.png",), "?"), "demo", "balanced", text="a"))
    first.close(False)
    again = Journal(out, form, RUN)
    with pytest.raises(OutputError, match=r"the model in demo has changed since \(model.safe"):
        again.confirm("float32, none", {"model.safetensors": "4567"})
    Journal(out, form, RUN).confirm("float32, none", {"model.safetensors": "0123"})


def test_a_run_file_of_an_older_version_tells_less_and_the_run_goes_on(place: Path):
    asked = ("batch", "q.jsonl", "--images", "A", "--out", "o.jsonl", *SHORT)
    assert sts(*asked, "--limit", 1).code == 0
    settings = json.loads(Path("o.jsonl.run").read_text())
    assert settings.pop("images") and settings.pop("files")
    Path("o.jsonl.run").write_text(json.dumps(settings))
    assert sts(*asked).code == 0 and len(read_rows(Path("o.jsonl"))) == 3
    assert {"images", "files"} <= json.loads(Path("o.jsonl.run").read_text()).keys()


@pytest.mark.parametrize("content", [b"", bytes(40)])
def test_an_empty_run_file_lets_no_other_run_go_on(content: bytes, tmp_path: Path):
    out, form = tmp_path / "o.jsonl", format_named("jsonl")
    answered(out, [Item("1", ("1.png",), "?")])
    (tmp_path / "o.jsonl.run").write_bytes(content)
    for profile in ("balanced", "off"):
        with pytest.raises(OutputError, match=r"unknown run: .*o.jsonl.run is empty"):
            Journal(out, form, {**RUN, "profile": {"name": profile}})
    Journal(out, form, RUN, fresh=True).discard()


def test_settings_are_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever ends the process before the renaming, the settings of before are there, whole."""
    out = tmp_path / "o.jsonl"
    answered(out, [Item("1", ("1.png",), "?")])
    before = (tmp_path / "o.jsonl.run").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    journal = Journal(out, format_named("jsonl"), RUN)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.confirm("float32, none")
    assert (tmp_path / "o.jsonl.run").read_bytes() == before
    journal.discard()


def answered(
    out: Path, items: list[Item], failed: str = "", form: str = "jsonl", stop: int | None = None
) -> None:
    """A run that fails on the ids in `failed` and answers nothing else than an empty text."""
    journal = Journal(out, format_named(form), RUN)
    journal.confirm("float32, none")
    for item in items[:stop]:
        problem = Problem("image_missing", "gone") if item.id in failed else None
        text = None if problem else ""
        journal.append(Answer(item, "demo", "balanced", text=text, problem=problem))
    journal.close(stop is None, items)


RECORD = b'{"id": "a note of mine, on one line without an end'
FOREIGN = {
    "o.jsonl": RECORD,
    "o.csv": b"id,image,question",
    "o.json": b'[\n{"question_id": 1',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_only_begins_like_ours_is_not_ours(name: str, place: Path):
    Path(name).write_bytes(FOREIGN[name])
    form = ("--format", "vqav2") if name == "o.json" else ()
    asked = ("batch", "q.jsonl", "--images", "A", "--out", name, *form)
    refused(*asked, because=f"Cannot continue {name}: ")
    refused(*asked, "--fresh", because=f"Cannot continue {name}: ")
    Path(name).rename("moved")
    answers = sts(*asked, "--limit", 1, *SHORT)
    assert answers.code == 0
    Path(name).write_bytes(FOREIGN[name])  # as a kill leaves it, with its .run beside
    assert sts(*asked, *SHORT).code == 0


def test_a_file_beside_the_answers_is_not_replaced_unless_it_is_ours(place: Path):
    asked = ("batch", "q.jsonl", "--images", "A", "--out", "o.jsonl")
    Path("o.jsonl.run").write_text("run this first\n")
    refused(*asked, because="o.jsonl.run was not written by sts")
    refused(*asked, "--fresh", because="o.jsonl.run was not written by sts")
    Path("o.jsonl.run").unlink()
    Path("o.jsonl.part").write_bytes(RECORD)
    refused(*asked, "--fresh", because="Cannot continue o.jsonl.part: ")


@pytest.mark.parametrize("spelling", ["q.jsonl", "./q.jsonl", "A/../q.jsonl", "link", "hard"])
def test_the_questions_are_never_written_over(spelling: str, place: Path):
    Path("link.jsonl").symlink_to("q.jsonl")
    os.link("q.jsonl", "hard.jsonl")
    out = f"{spelling}.jsonl" if spelling in ("link", "hard") else spelling
    for options in ((), ("--fresh",)):
        refused("batch", "q.jsonl", "--images", "A", "--out", out, *options, because="is the input")
    shutil.copy("q.jsonl", "o.jsonl.part")
    asked = ("batch", "o.jsonl.part", "--images", "A", "--out", "o.jsonl", "--fresh")
    refused(*asked, because="is the input")


@pytest.mark.parametrize("spelling", ["photo.png", "./photo.png", "link.png", "hard.png"])
def test_an_overlay_is_never_drawn_over_the_image(spelling: str, place: Path):
    shutil.copy("A/0.png", "photo.png")
    Path("link.png").symlink_to("photo.png")
    os.link("photo.png", "hard.png")
    refused("ask", "photo.png", "--overlay", spelling, because="is the image")


def test_an_overlay_replaces_overlays_only(place: Path):
    refused("ask", "A/0.png", "--overlay", "B/0.png", because="is no overlay of sts")
    for number in (0, 1):
        assert sts("ask", f"A/{number}.png", "--overlay", "kept.png", *SHORT).code == 0
    with Image.open("kept.png") as drawn:
        assert drawn.size[0] > 2 * 1024


def test_results_told_apart_by_ids_only_go_on_from_a_file_and_not_from_stdin(place: Path):
    asked = ("--images", "A", "--format", "vqav2", "--out", "o.json", *SHORT)
    other = write(Path("other.jsonl"), 3, "why?").read_bytes()
    assert sts("batch", "-", *asked, stdin=Path("q.jsonl").read_bytes()).code == 0
    before = Path("o.json").read_bytes()
    done = sts("batch", "-", *asked, stdin=other)
    assert done.code == 2 and "which may answer other questions" in done.err
    assert Path("o.json").read_bytes() == before
    assert sts("batch", "-", *asked, "--fresh", stdin=other).code == 0
    assert sts("batch", "q.jsonl", *asked, "--fresh", "--limit", 1).code == 0
    assert "2 answered" in sts("batch", "q.jsonl", *asked[:-1]).err


def test_results_told_apart_by_ids_need_ids_that_differ(place: Path):
    rows = [{"id": 7, "image": f"{n}.png", "question": "what?"} for n in range(2)]
    Path("twins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("batch", "twins.jsonl", "--images", "A", "--out")
    refused(*asked, "o.json", "--format", "vqav2", because="two rows have the id 7")
    assert sts(*asked, "o.jsonl", *SHORT).code == 0 and len(read_rows(Path("o.jsonl"))) == 2


def test_results_without_settings_are_nobodys(tmp_path: Path):
    out, form = tmp_path / "o.json", format_named("vqav2")
    answered(out, [Item(str(n), ("1.png",), "?") for n in range(3)], form="vqav2", stop=2)
    (tmp_path / "o.json.run").unlink()
    with pytest.raises(OutputError, match="which may answer other questions"):
        Journal(out, form, RUN)


def test_an_empty_answer_is_no_error_and_an_error_stays_one(tmp_path: Path):
    out, form = tmp_path / "o.json", format_named("vqav2")
    items = [Item(str(n), ("1.png",), "?") for n in range(4)]
    answered(out, items, failed="13", form="vqav2")
    again = Journal(out, form, RUN)
    assert (again.before, again.errors) == (4, 2)
    again.close(True, items)
    retried = Journal(out, form, RUN, retry=True)
    assert [retried.take(item) for item in items] == [True, False, True, False]
    retried.close(False)
    rows = json.loads(out.read_bytes() + b"]")
    assert rows == [{"question_id": n, "answer": ""} for n in (0, 2)]
