"""sts merge: all shards of one run, finished, into a file that nothing else stood in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image
from running import Done, no_waiting_for_the_disk, read_rows, sts, without_times

__all__ = ["no_waiting_for_the_disk"]

SHORT = ("--max-new-tokens", "2", "-q")


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with five questions; the shards 1.jsonl and 2.jsonl hold answers to all of them."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 40), "red").save("a.png")
    rows = ({"image": "a.png", "question": f"what is {n}?"} for n in range(5))
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in (1, 2):
        assert shard(number).code == 0
    return tmp_path


def shard(number: int, *options: object, of: int = 2, out: str = "") -> Done:
    name = out or f"{number}.jsonl"
    return sts("batch", "q.jsonl", "--shard", f"{number}/{of}", "--out", name, *SHORT, *options)


def refused(*arguments: object, because: str) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir()}
    done = sts("merge", *arguments)
    assert done.code == 2 and because in done.err and done.err.count("\n") == 1, done.err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_merge_is_the_file_of_one_run_and_goes_on_as_such(place: Path):
    assert sts("merge", "all.jsonl", "2.jsonl", "1.jsonl").code == 0
    assert [row["id"] for row in read_rows(Path("all.jsonl"))] == ["1", "2", "3", "4", "5"]
    assert sts("merge", "all.jsonl", "1.jsonl", "2.jsonl").code == 0
    before = Path("all.jsonl").read_bytes()
    done = sts("batch", "q.jsonl", "--out", "all.jsonl", *SHORT[:2])
    assert done.code == 0 and "5 answered before" in done.err
    assert Path("all.jsonl").read_bytes() == before
    assert sts("batch", "q.jsonl", "--out", "one.jsonl", *SHORT).code == 0
    one, merged = (without_times(read_rows(Path(name))) for name in ("one.jsonl", "all.jsonl"))
    assert one == merged


@pytest.mark.parametrize("of", [2, 4])
def test_what_is_missing_is_named(of: int, place: Path):
    shard(1, of=of, out="one.jsonl")
    missing = ", ".join(f"{number}/{of}" for number in range(2, of + 1))
    refused("all.jsonl", "one.jsonl", because=f"These are the shards 1/{of}; missing: {missing}.")


def test_a_shard_given_twice_is_named(place: Path):
    Path("again.jsonl").symlink_to("1.jsonl")
    refused("all.jsonl", "1.jsonl", "again.jsonl", because="are both the shard 1/2")
    shard(2, of=3, out="other.jsonl")
    refused("all.jsonl", "1.jsonl", "other.jsonl", because="shards of different runs: 1/2, 2/3")


def test_a_shard_of_the_first_rows_only_is_not_finished(place: Path):
    assert shard(2, "--limit", 1, "--fresh").code == 0
    refused("all.jsonl", "1.jsonl", "2.jsonl", because="2.jsonl is not finished")
    assert shard(2, "--limit", 1).code == 0
    refused("all.jsonl", "1.jsonl", "2.jsonl", because="without --limit")
    assert shard(2).code == 0
    assert sts("merge", "all.jsonl", "1.jsonl", "2.jsonl").code == 0


def test_a_look_at_the_first_rows_of_a_finished_shard_leaves_it_finished(place: Path):
    assert shard(2, "--limit", 1).code == 0
    assert sts("merge", "all.jsonl", "1.jsonl", "2.jsonl").code == 0


def test_a_shard_that_was_interrupted_is_not_finished(place: Path):
    settings = json.loads(Path("2.jsonl.run").read_text())
    del settings["complete"]
    Path("2.jsonl.run").write_text(json.dumps(settings))
    refused("all.jsonl", "1.jsonl", "2.jsonl", because="2.jsonl is not finished")


def test_a_shard_that_lost_rows_is_noticed(place: Path):
    lines = Path("1.jsonl").read_bytes().splitlines(keepends=True)
    Path("1.jsonl").write_bytes(b"".join(lines[:-2]))
    refused("all.jsonl", "1.jsonl", "2.jsonl", because="1.jsonl lacks rows")


@pytest.mark.parametrize(
    ("options", "because"),
    [
        (("--max-new-tokens", "3"), "max_new_tokens '3', not '2'"),
        (("-Q", "why?"), "question 'why?', not unset"),
        (("-p", "off"), "another profile: name 'off', not 'balanced'"),
        (("--images", ".."), "another images folder"),
    ],
    ids=str,
)
def test_shards_of_other_settings_are_not_joined(
    options: tuple[str, ...], because: str, place: Path
):
    shard(2, *options, out="other.jsonl")
    refused("all.jsonl", "1.jsonl", "other.jsonl", because=because)


def test_shards_of_a_model_that_changed_are_not_joined_and_those_of_a_copy_are(place: Path):
    path = Path("2.jsonl.run")
    settings = json.loads(path.read_text())
    weights = settings["files"]["model.safetensors"]
    for digest, code in ((f"{weights.split()[0]} 5", 0), ("0123 5", 2)):
        settings["files"]["model.safetensors"] = digest
        path.write_text(json.dumps(settings))
        done = sts("merge", "all.jsonl", "1.jsonl", "2.jsonl")
        assert done.code == code
    assert "has changed since (model.safetensors)" in done.err


@pytest.mark.parametrize("out", ["1.jsonl", "./1.jsonl", "link.jsonl", "hard.jsonl", "2.jsonl.run"])
def test_a_shard_is_never_written_over(out: str, place: Path):
    Path("link.jsonl").symlink_to("1.jsonl")
    os.link("1.jsonl", "hard.jsonl")
    for force in ((), ("--force",)):
        refused(out, place / "1.jsonl", "2.jsonl", *force, because="is one of the shards")


@pytest.mark.parametrize("out", ["notes.txt", "other.jsonl", "q.jsonl"])
def test_another_file_is_replaced_only_by_force(out: str, place: Path):
    Path("notes.txt").write_text("mine\n")
    sts("batch", "q.jsonl", "--out", "other.jsonl", "-p", "off", *SHORT)
    refused(out, "1.jsonl", "2.jsonl", because=f"{out} exists and is no merge of this run")
    assert sts("merge", out, "1.jsonl", "2.jsonl", "--force").code == 0
    assert len(read_rows(Path(out))) == 5


def test_force_does_not_replace_what_lies_beside(place: Path):
    Path("all.jsonl.run").write_text("mine\n")
    refused("all.jsonl", "1.jsonl", "2.jsonl", "--force", because="was not written by sts")
