"""The commands end to end, on a small random model: rows, exit codes, what goes where."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from running import no_waiting_for_the_disk, process, read_rows, sts, without_times
from safetensors.torch import load_file, save_file

from sts_cli import pruning
from sts_cli.profile_files import shipped

__all__ = ["no_waiting_for_the_disk"]


@pytest.fixture
def model(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random model, as $STS_MODEL."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    return tiny_checkpoint


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""
    monkeypatch.setattr(
        "sts_cli.loading.model.load", lambda *_, **__: pytest.fail("a model was loaded")
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures and a question file about them."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        colour = (60 * number, 255 - 60 * number, 128)
        Image.new("RGB", (50 + number, 40), colour).save(pictures / f"{number}.png")
    rows = [{"image": f"{n % 4}.png", "question": f"what is {n}?"} for n in range(6)]
    write(pictures / "questions.jsonl", rows)
    return pictures


def write(path: Path, rows: list[Any]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


SECONDS = {"image": 0.5, "encode": 0.5, "select": 0.0, "prefill": 1.0, "decode": 0.5, "total": 2.5}
SHORT = ("--max-new-tokens", "3")


def test_ask_streams_the_answer_and_reports_on_stderr(model: Path, folder: Path):
    done = sts("ask", folder / "0.png", "what is on the sign?", "-p", "aggressive", *SHORT)
    assert done.code == 0
    assert done.out.endswith("\n") and done.out.count("\n") <= done.out.strip().count("\n") + 1
    assert "64 -> 8 -> 6" in done.err and "prefill" in done.err
    quiet = sts("ask", folder / "0.png", "what is on the sign?", "-p", "aggressive", "-q", *SHORT)
    assert (quiet.out, quiet.err) == (done.out, "")


def test_ask_as_json_is_one_row_with_the_same_answer(model: Path, folder: Path):
    text = sts("ask", folder / "0.png", *SHORT)
    (row,) = sts("ask", folder / "0.png", "--json", *SHORT).rows
    assert row["answer"] == text.out.strip() and row["question"] == "What is in the image?"
    assert row["tokens"]["visual"] == 64 and row["profile"] == "balanced"
    assert row["error"] is None


def test_ask_compares_with_the_unpruned_answer(model: Path, folder: Path):
    done = sts("ask", folder / "0.png", "--compare", *SHORT)
    assert done.code == 0 and "off" in done.err and "speed-up" in done.err
    (row,) = sts("ask", folder / "0.png", "--compare", "--json", *SHORT).rows
    assert row["full"]["tokens"]["semantics"] == 64
    assert row["agree"] == (row["answer"] == row["full"]["answer"])
    assert set(row["speedup"]) == {"prefill", "total"}


def test_batch_answers_every_row_in_order(model: Path, folder: Path):
    done = sts("batch", folder / "questions.jsonl", *SHORT)
    assert done.code == 0
    assert [row["id"] for row in done.rows] == ["1", "2", "3", "4", "5", "6"]
    assert [row["question"] for row in done.rows] == [f"what is {n}?" for n in range(6)]
    for row in done.rows:
        assert row["tokens"]["structure"] == 16 and row["tokens"]["semantics"] == 13
        assert row["seconds"]["total"] > 0 and row["finish"] in ("stop", "length")
    assert "6 answered" in done.err and "p95" in done.err and "visual tokens kept" in done.err


def test_a_batch_answers_as_single_questions_do(model: Path, folder: Path):
    together = sts("batch", folder / "questions.jsonl", "--batch-size", 4, *SHORT).rows
    alone = sts("batch", folder / "questions.jsonl", "--batch-size", 1, *SHORT).rows
    assert [row["answer"] for row in together] == [row["answer"] for row in alone]
    asked = [sts("ask", folder / f"{n}.png", f"what is {n}?", "-q", *SHORT) for n in range(2)]
    assert [one.out.rstrip("\n") for one in asked] == [row["answer"] for row in alone[:2]]


def test_a_bad_row_never_stops_the_run(model: Path, folder: Path):
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "text.png").write_text("no picture")
    (folder / "folder.png").mkdir()
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    rows: list[Any] = [
        {"image": "0.png", "question": "good?"},
        {"image": "gone.png", "question": "?"},
        {"image": "broken.png", "question": "?"},
        {"image": "text.png", "question": "?"},
        {"image": "folder.png", "question": "?"},
        {"image": "bomb.png", "question": "?"},
        "{not json",
        "[]",
        {"image": "0.png"},
        {"image": 5, "question": "?"},
        {"image": "0.png", "question": "a\0b"},
        {"image": "https://example.org/a.png", "question": "?"},
        {"image": "0.png", "question": "?" * 200_000},
        {"id": "1", "image": "1.png", "question": "good?"},
    ]
    done = sts("batch", write(folder / "bad.jsonl", rows), *SHORT)
    assert done.code == 1
    kinds = [row["error"] and row["error"]["kind"] for row in done.rows]
    assert kinds == [
        None,
        "image_missing",
        *["image_unreadable"] * 3,
        "image_too_large",
        *["row_invalid"] * 7,
        None,
    ]
    assert all((row["answer"] is None) == (row["error"] is not None) for row in done.rows)
    assert "2 answered; 12 with errors" in done.err and "7 row_invalid" in done.err


def test_a_folder_is_captioned(model: Path, folder: Path):
    done = sts("batch", folder, *SHORT)
    assert [row["id"] for row in done.rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert {row["question"] for row in done.rows} == {"What is in the image?"}
    assert "passed over: 1 of another kind" in done.err
    (row,) = sts("batch", folder / "2.png", "-Q", "which colour?", *SHORT).rows
    assert (row["id"], row["question"]) == ("2.png", "which colour?")


def test_a_run_whose_images_lie_elsewhere_says_where_it_looked(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    (folder / "apart").mkdir()
    rows = write(folder / "apart" / "questions.jsonl", [{"image": "0.png", "question": "?"}])
    told = f"Relative names of images start in {rows.parent}; --images FOLDER changes that."
    apart = sts("batch", rows, *SHORT)
    assert apart.code == 1 and apart.err.splitlines().count(told) == 1
    found = sts("batch", rows, "--images", ".", *SHORT)
    assert found.code == 0 and "--images" not in found.err


def test_questions_may_come_from_stdin(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    lines = (folder / "questions.jsonl").read_bytes()
    piped = sts("batch", "-", *SHORT, stdin=lines)
    assert without_times(piped.rows) == without_times(sts("batch", "questions.jsonl", *SHORT).rows)


def test_a_list_of_paths_may_come_from_stdin(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    lines = b'0.png\n\n{"image": "1.png", "question": "why?", "id": "q"}\ngone.jpg\nno path\n'
    done = sts("batch", "-", "-Q", "which colour?", *SHORT, stdin=lines)
    assert [(row["id"], row["question"]) for row in done.rows[:2]] == [
        ("0.png", "which colour?"),
        ("q", "why?"),
    ]
    kinds = [row["error"] and row["error"]["kind"] for row in done.rows]
    assert kinds == [None, None, "image_missing", "row_invalid"]


def test_paths_from_stdin_may_have_a_null_byte_behind_each(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    odd = Path("a\nb {x}.png")
    odd.write_bytes(Path("0.png").read_bytes())
    listed = b"./a\nb {x}.png\0" + b"1.png\0no image\0\0gone.jpg"
    done = sts("batch", "-", "-Q", "which colour?", *SHORT, stdin=listed)
    assert [row["image"] for row in done.rows] == [f"./{odd}", "1.png", "no image", "gone.jpg"]
    kinds = [row["error"] and row["error"]["kind"] for row in done.rows]
    assert kinds == [None, None, "image_missing", "image_missing"]
    found = subprocess.run(["find", ".", "-name", "*.png", "-print0"], capture_output=True)
    assert {row["id"] for row in sts("batch", "-", *SHORT, stdin=found.stdout).rows} >= {
        "./a\nb {x}.png",
        "./1.png",
    }


@pytest.mark.parametrize("nothing", [b"", b" \n\n", b"\0"])
def test_standard_input_without_a_row_is_refused_as_an_empty_file_is(
    nothing: bytes, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    Path("empty.jsonl").touch()
    Path("empty").mkdir()
    line = 'A line looks like {"image": "a.jpg", "question": "..."}'
    for name, said in {
        "-": f"standard input is empty. {line}",
        "empty.jsonl": f"'empty.jsonl' is empty. {line}",
        "empty": "'empty' holds no images.",
    }.items():
        done = sts("batch", name, "--out", "a.jsonl", "--backend", "torch", stdin=nothing)
        assert (done.code, done.out, done.err) == (2, "", f"sts: {said}\n")
        assert not Path("a.jsonl").exists() and not Path("a.jsonl.run").exists()
    asked = ("batch", "-", "--out", "a.jsonl", "--backend", "torch", *SHORT)
    assert sts(*asked, stdin=Path("questions.jsonl").read_bytes()).code == 0
    before = Path("a.jsonl").read_bytes()
    assert sts(*asked, stdin=nothing).code == 2
    assert Path("a.jsonl").read_bytes() == before


@pytest.mark.parametrize("command", ["batch", "eval"])
def test_the_form_of_what_comes_from_stdin_is_told(
    command: str, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    row = {"image": "0.png", "text": "Is there a dog?", "label": "no", "question_id": 1}
    pope = b"\n" + json.dumps(row).encode() + b"\n" + json.dumps(row).encode()
    more = ("--profiles", "off", "--controls", "none") if command == "eval" else ()
    done = sts(command, "-", *more, *SHORT[:2], stdin=pope)
    assert done.code == 0 and done.err.splitlines().count("reading as POPE") == 1
    quiet = sts(command, "-", *more, *SHORT[:2], "-q", stdin=pope)
    assert "reading" not in quiet.err


def test_several_inputs_and_patterns_are_one_batch(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    out = tmp_path / "answers.jsonl"
    asked = ("batch", "[01].png", "2.png", "--out", out, *SHORT)
    assert sts(*asked, "--limit", 2).code == 0
    done = sts(*asked)
    assert done.code == 0 and "2 answered before" in done.err
    assert [row["id"] for row in read_rows(out)] == ["0.png", "1.png", "2.png"]
    refused = sts("batch", "[01].png", "--out", out, *SHORT)
    assert refused.code == 2 and "another input" in refused.err
    Path("q.jsonl").write_text('{"image": "0.png", "question": "?"}\n')
    refused = sts("batch", "0.png", "q.jsonl", "--out", "q.jsonl", *SHORT)
    assert refused.code == 2 and "is the input" in refused.err


def test_a_benchmark_is_named_in_one_line(model: Path, folder: Path):
    pope = folder / "coco_pope.json"
    row = {"question_id": 1, "image": "0.png", "text": "Is there a dog?", "label": "no"}
    pope.write_text(json.dumps(row) + "\n")
    done = sts("batch", pope, *SHORT)
    assert "reading as POPE\n" in done.err and done.rows[0]["expected"] == ["no"]
    assert "reading" not in sts("batch", pope, "--quiet", *SHORT).err
    exam = sts("eval", pope, "--profiles", "off", "--controls", "none", *SHORT[:2])
    assert "reading as POPE\n" in exam.err and exam.code == 0


def test_a_quiet_answer_is_all_that_a_process_says(folder: Path, model: Path):
    done = process("ask", folder / "0.png", "what is on the sign?", "-q", *SHORT)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("\n")


def test_out_resumes_and_refuses_what_differs(model: Path, folder: Path, tmp_path: Path):
    out = tmp_path / "new" / "answers.jsonl"
    asked = ("batch", folder / "questions.jsonl", "--out", out, "--dtype", "float32", *SHORT)
    assert sts(*asked, "--limit", 2).code == 0
    assert [row["id"] for row in read_rows(out)] == ["1", "2"]
    done = sts(*asked)
    assert done.out == "" and "4 answered" in done.err and "2 answered before" in done.err
    assert [row["id"] for row in read_rows(out)] == ["1", "2", "3", "4", "5", "6"]
    before = out.read_bytes()
    for different, message in (
        (("-p", "off"), "another profile: name 'balanced', not 'off'"),
        (("--max-new-tokens", "4"), "max_new_tokens '3', not '4'"),
        (("-Q", "what?"), "question unset, not 'what?'"),
        (("--compare",), "compare 'False', not 'True'"),
        (("--dtype", "bfloat16"), "precision 'float32, none', not 'bfloat16, none'"),
    ):
        refused = sts(*asked, *different)
        assert refused.code == 2 and message in refused.err
    with (folder / "questions.jsonl").open("a") as file:
        file.write('{"image": "0.png", "question": "more?"}\n')
    refused = sts(*asked)
    assert refused.code == 2 and "the input has changed" in refused.err
    assert out.read_bytes() == before
    assert sts(*asked, "--fresh").code == 0 and len(read_rows(out)) == 7


def test_errors_are_retried_on_request(model: Path, folder: Path, tmp_path: Path):
    (folder / "2.png").rename(folder / "away.png")
    out = tmp_path / "answers.csv"
    asked = ("batch", folder / "questions.jsonl", "--out", out, *SHORT)
    assert sts(*asked).code == 1
    (folder / "away.png").rename(folder / "2.png")
    assert sts(*asked).code == 1  # still in the file
    assert sts(*asked, "--retry-errors").code == 0
    whole = tmp_path / "whole.csv"
    sts("batch", folder / "questions.jsonl", "--out", whole, *SHORT)
    answers = [[line.split(",")[:4] for line in p.read_text().splitlines()] for p in (out, whole)]
    assert answers[0] == answers[1]


def test_sidecars_are_written_once(model: Path, folder: Path):
    (folder / "1.txt").write_text("mine\n")
    done = sts("batch", folder, "--sidecar", *SHORT)
    assert (done.code, done.out) == (0, "")
    assert (folder / "1.txt").read_text() == "mine\n"
    assert all((folder / f"{n}.txt").exists() for n in range(4))
    assert "4 answered before" in sts("batch", folder, "--sidecar", *SHORT).err
    sts("batch", folder, "--sidecar", "--fresh", *SHORT)
    assert (folder / "1.txt").read_text() != "mine\n"


def test_shards_join_to_the_whole(model: Path, folder: Path, tmp_path: Path):
    rows = folder / "questions.jsonl"
    parts = [tmp_path / f"{i}.jsonl" for i in (1, 2, 3, 4)]
    for i, part in enumerate(parts, 1):
        assert sts("batch", rows, "--shard", f"{i}/4", "--out", part, *SHORT).code == 0
    out = tmp_path / "all.jsonl"
    link = tmp_path / "link.jsonl"
    link.symlink_to(parts[0])
    assert sts("merge", out, *parts[:0:-1], link).code == 0
    whole = sts("batch", rows, *SHORT).rows
    assert without_times(read_rows(out)) == without_times(whole)
    missing = sts("merge", tmp_path / "x.jsonl", *parts[:3])
    assert missing.code == 2 and "1/4, 2/4, 3/4; missing: 4/4" in missing.err
    assert not (tmp_path / "x.jsonl").exists()


def test_compare_can_be_a_gate(model: Path, folder: Path):
    rows = folder / "questions.jsonl"
    passed = sts("batch", rows, "-p", "off", "-c", "--fail-under", "agreement=1", *SHORT)
    assert passed.code == 0 and "6 of 6 answers agree" in passed.err
    pruned = sts("batch", rows, "-p", "extreme", "-c", "--max-new-tokens", 12)
    share = sum(row["agree"] for row in pruned.rows) / 6
    assert share < 1
    gate = ("--fail-under", f"agreement={share + 0.01}")
    missed = sts("batch", rows, "-p", "extreme", "-c", "--max-new-tokens", 12, *gate)
    assert missed.code == 3 and "less than" in missed.err


def test_a_gate_counts_the_answers_of_earlier_runs_too(model: Path, folder: Path, tmp_path: Path):
    for out in (tmp_path / "a.jsonl", tmp_path / "a.csv"):
        asked = ("batch", folder / "questions.jsonl", "-p", "off", "-c", "-o", out, *SHORT)
        assert sts(*asked, "--limit", 4).code == 0
        content = out.read_bytes().decode().replace('"agree": true', '"agree": false', 3)
        out.write_bytes(content.replace(",True,", ",False,", 3).encode())
        missed = sts(*asked, "--fail-under", "agreement=0.6")
        assert missed.code == 3 and "3 of 6 answers agree, less than 0.6" in missed.err
        assert sts(*asked, "--fail-under", "agreement=0.5").code == 0


def test_a_gate_is_passed_by_exactly_as_much(model: Path, folder: Path, tmp_path: Path):
    """0.55 * 100 is more than 55 in floating point, 0.28 * 25 more than 7."""
    rows = [{"image": "0.png", "question": f"what is {n}?"} for n in range(25)]
    write(folder / "many.jsonl", rows)
    out = tmp_path / "a.jsonl"
    asked = ("batch", folder / "many.jsonl", "-p", "off", "-c", "-o", out, *SHORT)
    assert sts(*asked).code == 0
    out.write_text(out.read_text().replace('"agree": true', '"agree": false', 18))
    assert sts(*asked, "--fail-under", "agreement=0.28").code == 0
    assert sts(*asked, "--fail-under", "agreement=0.29").code == 3


def test_a_run_that_is_complete_needs_no_model_any_more(
    model: Path, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    out = tmp_path / "a.jsonl"
    asked = ("batch", folder / "questions.jsonl", "-o", out, *SHORT)
    sts(*asked)
    before = out.read_bytes()
    request.getfixturevalue("no_weights")
    done = sts(*asked)
    assert done.code == 0 and "6 answered before" in done.err and out.read_bytes() == before


def test_the_profiles_own_settings_hold_unless_the_command_line_says_else(
    model: Path, folder: Path, tmp_path: Path
):
    mine = tmp_path / "mine.yaml"
    mine.write_text("structure: {method: grid, keep: 8}\nmax_new_tokens: 2\nbatch_size: 1\n")
    rows = folder / "questions.jsonl"
    own = sts("batch", rows, "-p", mine, "--limit", 3).rows
    assert all(row["tokens"]["generated"] <= 2 and row["rows"] == 1 for row in own)
    assert all(row["tokens"]["structure"] == 8 for row in own)
    more = sts("batch", rows, "-p", mine, "--limit", 3, "--max-new-tokens", 6).rows
    assert any(row["tokens"]["generated"] > 2 for row in more)


def test_a_dry_run_reads_everything_and_loads_no_weights(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "sts_cli.loading.model.from_folder", lambda *_: pytest.fail("weights were read")
    )
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "broken.png").write_bytes(b"")
    done = sts("batch", folder, "--dry-run")
    assert done.code == 1
    assert "rows: 6, of which 5 can be asked" in done.out
    assert "broken.png: image_unreadable" in done.out
    assert "images: 5, of which 4 are different" in done.out and "5 PNG" in done.out
    assert "visual tokens: 64 an image, 320 in all" in done.out
    assert "balanced keeps 72 (22.7%), on average over 6 layers" in done.out
    assert "time: not known before some rows are answered" in done.out


def test_a_dry_run_tells_the_time_by_the_answers_that_are_there(
    model: Path, folder: Path, tmp_path: Path
):
    asked = ("batch", folder / "questions.jsonl", "--out", tmp_path / "a.jsonl", *SHORT)
    sts(*asked, "--limit", 2)
    path = tmp_path / "a.jsonl"
    rows = [{**row, "rows": 1, "seconds": SECONDS} for row in read_rows(path)]
    write(path, rows)
    told = "about 8 s for the 4 rows left, at the 2 s a row of the 2 answers in"
    assert told in sts(*asked, "--dry-run").out
    assert read_rows(path) == rows
    with path.open("a") as file:
        file.write('{"id": "3", "im')  # as a kill leaves it
    assert told in sts(*asked, "--dry-run").out
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    assert told in sts(*asked[:3], link, *SHORT, "--dry-run").out
    for other in (("-p", "off"), ("--fresh",)):
        done = sts(*asked, "--dry-run", *other)
        assert done.code == 0 and "time: not known" in done.out


def test_file_names_of_any_kind(model: Path, folder: Path, tmp_path: Path):
    odd = tmp_path / "odd"
    odd.mkdir()
    names = ["with space.png", "\U0001f600.png", 'quote".png', "new\nline.png", "%s[red].png"]
    for name in names:
        (odd / name).write_bytes((folder / "0.png").read_bytes())
    (odd / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "0.png").read_bytes())
    for out in (tmp_path / "a.jsonl", tmp_path / "a.csv"):
        assert sts("batch", odd, "--out", out, *SHORT).code == 0
        assert "6 answered before" in sts("batch", odd, "--out", out, *SHORT).err
    found = {row["image"] for row in read_rows(tmp_path / "a.jsonl")}
    assert found == {*names, "caf\\udce9.png"}


def test_the_demo_model_says_once_that_it_is_no_real_model(
    tiny_checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("STS_MODEL", raising=False)
    monkeypatch.setenv("STS_CACHE", str(tmp_path / "cache"))  # where it was not said today
    monkeypatch.setattr("sts_cli.checkpoints.sources.demo_folder", lambda: tiny_checkpoint)
    done = sts("batch", folder / "questions.jsonl", *SHORT)
    assert done.err.count("--model FOLDER") == 1
    assert "--model" not in sts("batch", folder / "questions.jsonl", "-q", *SHORT).err
    assert "--model" not in sts("ask", folder / "0.png", "-m", tiny_checkpoint, *SHORT).err


MISTAKES = [
    (("batch", "gone.jsonl"), "No file or folder 'gone.jsonl'"),
    (("batch", "questions.jsonl", "-p", "agressive"), "Did you mean 'aggressive'?"),
    (("batch", "questions.jsonl", "-m", "./nowhere"), "No model './nowhere'"),
    (("batch", "questions.jsonl", "--batch-size", "0"), "--batch-size 0"),
    (("batch", "questions.jsonl", "--shard", "3/2"), "--shard 3/2"),
    (("batch", "questions.jsonl", "--dtype", "fp16"), "--dtype fp16"),
    (("batch", "questions.jsonl", "--device", "gpu"), "--device gpu"),
    (("batch", "questions.jsonl", "--quantize", "int9"), "--quantize int9"),
    (("batch", "questions.jsonl", "--on-oom", "cry"), "--on-oom cry"),
    (("batch", "questions.jsonl", "--fail-under", "0.9"), "--fail-under 0.9"),
    (("batch", "questions.jsonl", "--fail-under", "agreement=0.9"), "needs --compare"),
    (("batch", "questions.jsonl", "--out", "a.xlsx"), "must end in .jsonl, .csv or .parquet"),
    (("batch", "questions.jsonl", "--out", "questions.jsonl"), "is the input"),
    (("batch", "questions.jsonl", "--out", "0.png/a.jsonl"), "Cannot write 0.png/a.jsonl"),
    (("batch", "questions.jsonl", "--sidecar"), "takes a folder or an image"),
    (("batch", "questions.jsonl", "--format", "coco"), "--format coco"),
    (("ask", "gone.png"), "No image gone.png"),
    (("batch", ""), "an input has no name"),
    (("batch", ".", "--question", " "), "the question for all rows (--question) is empty"),
    (("batch", "questions.jsonl", "-Q", ""), "the question for all rows (--question) is empty"),
    (("ask", "00.png"), "No image 00.png. Did you mean '0.png'?"),
    (("ask", "questions.jsonl"), "is not an image"),
    (("profiles", "show", "balance"), "Did you mean 'balanced'?"),
    (("merge", "out.jsonl", "questions.jsonl"), "is not the output of sts batch --shard"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...],
    message: str,
    model: Path,
    folder: Path,
    no_weights: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    done = sts(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err and done.err.startswith("sts: ")
    assert len(done.err.strip().splitlines()) == 1 and "Traceback" not in done.err
    assert sorted(folder.rglob("*")) == before


def test_a_model_that_cannot_be_loaded_leaves_no_files(model: Path, folder: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = load_file(broken / "model.safetensors")
    del weights[min(weights)]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    out = tmp_path / "answers" / "a.jsonl"
    done = sts("batch", folder / "questions.jsonl", "-m", broken, "-o", out)
    assert done.code == 2 and "lacks 1 weights" in done.err
    assert list(out.parent.iterdir()) == []


def test_a_mistake_is_told_before_torch_is_imported(folder: Path, tmp_path: Path):
    """In a fresh interpreter that refuses to import it."""
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    for arguments in (
        ("batch", "questions.jsonl", "-p", "agressive"),
        ("batch", "questions.jsonl", "-m", "./nowhere"),
        ("ask", "gone.png", "-m", "./nowhere"),
    ):
        done = process(*arguments, cwd=folder, env=environment)
        assert done.returncode == 2 and done.stderr.startswith("sts: "), done.stderr


def test_profiles_are_listed_and_explained():
    listed = sts("profiles")
    assert listed.code == 0 and "balanced" in listed.out and "22.2%" in listed.out
    shares = [float(share) for share in re.findall(r"(\d+\.\d)%  ", listed.out)]
    assert shares == sorted(shares, reverse=True) and len(shares) == len(shipped())
    assert listed.out.count("(default)") == 1 and "\nbalanced (default)" in listed.out
    shown = sts("profiles", "show", "aggressive")
    assert "structure: {method: repulsion, keep: 0.1215}" in shown.out
    assert "keeps 70" in shown.out and "keeps 58" in shown.out and "64.0 tokens" in shown.out


def test_a_profile_with_an_encoder_is_explained_and_answers(tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("encoder: {method: likeness, keep: 0.5, depth: 0.25}\n")
    shown = sts("profiles", "show", str(mine))
    assert "after 25% of its layers, the vision tower runs on 50% of its patches" in shown.out
    picture = str(Path(__file__).parents[1] / "samples" / "sign.png")
    asked = sts("ask", picture, "what is on the sign?", "--profile", str(mine), "--json")
    assert asked.code == 0 and json.loads(asked.out)["answer"] == "CAKE"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("about: nothing here.", "profile 'mine' has no cuts"),
        (
            "structure: {method: grid, keep: 5000}",
            "grid keeps 5000, so it drops none of the 64 visual tokens there",
        ),
        (
            "cuts: [{method: grid, keep: 0.1}, {method: random, depth: 0.5, keep: 50}]",
            "random keeps 50, so it drops none of the 6 visual tokens there",
        ),
    ],
)
def test_what_a_profile_asks_for_in_vain_is_noted_once(
    model: Path, folder: Path, tmp_path: Path, text: str, note: str
):
    (tmp_path / "mine.yaml").write_text(text)
    chosen = ("--profile", tmp_path / "mine.yaml", *SHORT)
    done = sts("batch", folder / "questions.jsonl", "--model", model, *chosen)
    assert done.err.count(f"note: {note}" if "no cuts" in note else note) == 1, done.err
    quiet = sts("batch", folder / "questions.jsonl", "--model", model, *chosen, "--quiet")
    assert "note:" not in quiet.err


def test_methods_are_listed_with_source_needs_and_options():
    listed = sts("profiles", "methods")
    words = " ".join(listed.out.split())
    assert listed.code == 0 and all(name in words for name in pruning.names())
    assert "2412.13180" in words and "uniform 0 to 1 (0.33)" in words
    assert "heads uniform or qwen2.5-vl-7b (uniform)" in words
