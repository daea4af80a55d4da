"""Answers are read by the programs that people read them with: pandas, datasets, jq."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sts_cli.outputs.formats import StoredRecord, format_named
from sts_cli.records import Answer, Item, Problem, Seconds, TokenCounts


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with answers.jsonl and answers.csv, of odd texts and with errors."""
    folder = tmp_path_factory.mktemp("answers")
    texts = ["OPEN", 'two\nlines, "quoted"', "naïve お \U0001f600 \u2028 \x07", "", "[red]"]
    rows = [
        Answer(
            Item(str(number), (f"{number}.png", "b.png")[: 1 + number % 2], "what?"),
            "demo",
            "balanced",
            text=text,
            tokens=TokenCounts(576, (192, 64), 128.0, 20, 3),
            seconds=Seconds(0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.5),
            finish="stop",
        )
        for number, text in enumerate(texts)
    ]
    problem = Problem("row_invalid", "questions.jsonl:6: no question")
    rows.append(Answer(Item("5"), "demo", "balanced"))
    rows.append(Answer(Item("6"), "demo", "balanced", problem=problem))
    for name in ("jsonl", "csv"):
        form = format_named(name)
        content = b"".join(form.before(n == 0) + form.record(row) for n, row in enumerate(rows))
        (folder / f"answers.{name}").write_bytes(content)
    return folder


def test_pandas_reads_the_lines(answers: Path):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_json(answers / "answers.jsonl", lines=True)
    assert len(table) == 7 and table["answer"][1] == 'two\nlines, "quoted"'
    assert table["image"][0] == "0.png" and table["images"][1] == ["1.png", "b.png"]
    assert table["tokens"][0]["average"] == 128.0
    assert table["error"].notna().sum() == 1


def test_pandas_reads_the_table(answers: Path):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(answers / "answers.csv")
    assert len(table) == 7 and table["answer"][1] == 'two\nlines, "quoted"'
    assert table["tokens_average"].mean() == 128.0
    assert list(table["error"].dropna()) == ["row_invalid"]


def test_datasets_reads_the_lines(answers: Path, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(
        "json", data_files=str(answers / "answers.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert found.num_rows == 7
    assert found[2]["answer"].startswith("naïve お \U0001f600")
    assert found[0]["tokens"]["semantics"] == 64
    assert found["image"][:2] == ["0.png", None]
    assert found["images"][:2] == [None, ["1.png", "b.png"]]


def test_datasets_reads_an_error_after_ten_megabytes_without_one(answers: Path, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    lines = (answers / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (fault,) = (line for line in lines if json.loads(line)["error"] is not None)
    long = tmp_path / "long.jsonl"
    count = 11_000_000 // len(lines[0])
    long.write_bytes(lines[0] * count + fault)
    found = datasets.load_dataset(
        "json", data_files=str(long), split="train", cache_dir=str(tmp_path), chunksize=1 << 30
    )
    assert found.num_rows == count + 1
    assert found[0]["error"] is None and found[count]["error"]["kind"] == "row_invalid"


def test_several_images_are_known_again_as_they_were_written(answers: Path):
    item = Item("1", ("1.png", "b.png"), "what?")
    for name in ("jsonl", "csv"):
        form = format_named(name)
        with (answers / f"answers.{name}").open("rb") as file:
            keys = [record.key for record in form.read(file) if isinstance(record, StoredRecord)]
        assert keys[1] == form.key(item)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_jq_reads_the_lines(answers: Path):
    query = 'select(.error == null and .answer != null) | "\\(.id) \\(.tokens.average)"'
    done = subprocess.run(
        ["jq", "-r", query, str(answers / "answers.jsonl")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{number} 128" for number in range(5)] or (
        done.stdout.splitlines() == [f"{number} 128.0" for number in range(5)]
    )
