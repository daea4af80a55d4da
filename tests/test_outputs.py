"""Output files as journals: whatever ends a run, every row is there once, whole, and in order."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import no_waiting_for_the_disk

from sts_cli.errors import OutputError
from sts_cli.outputs.formats import Format, format_named, format_of
from sts_cli.outputs.journal import Journal
from sts_cli.outputs.keys import Answered, key_of
from sts_cli.records import Answer, Comparison, Item, Problem, Seconds, TokenCounts

__all__ = ["no_waiting_for_the_disk"]

FORMATS = {"jsonl": "jsonl", "csv": "csv", "llava": "jsonl", "openai-batch": "jsonl"}
FORMATS["vqav2"] = "json"
RUN: dict[str, Any] = {"model": "demo", "profile": {"name": "balanced"}, "input": "one"}


def item(number: int, question: str = "what?") -> Item:
    return Item(str(number), (f"{number}.png",), question, answers=("yes",), extra={"n": number})


def answer(one: Item, text: str | None = None) -> Answer:
    return Answer(
        one,
        "demo",
        "balanced",
        text=f'{one.id}: "é,\n\r\nお"' if text is None else text,
        tokens=TokenCounts(576, (96, 32), 64.0, 20, 3),
        seconds=Seconds(0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.5),
        finish="stop",
    )


def failed(one: Item) -> Answer:
    return Answer(one, "demo", "balanced", problem=Problem("image_missing", "No image."))


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> Format:
    return format_named(request.param)


def place(form: Format, folder: Path) -> Path:
    return folder / f"out.{FORMATS[form.name]}"


def run(
    form: Format, folder: Path, items: list[Item], stop: int | None = None, **options: Any
) -> list[str]:
    """A run over `items`; ends after `stop` answers. The ids that it answered."""
    journal = Journal(place(form, folder), form, RUN, **options)
    journal.confirm("float32, none")
    new = []
    for one in items:
        if not journal.take(one):
            if stop is not None and len(new) == stop:
                break
            journal.append(answer(one))
            new.append(one.id)
    else:
        journal.close(True, iter(items))
        return new
    journal.close(False, iter(items))
    return new


def whole(form: Format, folder: Path, items: list[Item]) -> bytes:
    """What one undisturbed run writes."""
    folder.mkdir()
    run(form, folder, items)
    return place(form, folder).read_bytes()


ROWS = [item(number) for number in range(5)]


def test_a_run_goes_on_where_the_one_before_ended(form: Format, tmp_path: Path):
    wanted = whole(form, tmp_path / "whole", ROWS)
    assert run(form, tmp_path, ROWS, stop=2) == ["0", "1"]
    assert run(form, tmp_path, ROWS, stop=2) == ["2", "3"]
    assert run(form, tmp_path, ROWS) == ["4"]
    assert place(form, tmp_path).read_bytes() == wanted
    assert run(form, tmp_path, ROWS) == []
    assert place(form, tmp_path).read_bytes() == wanted


def test_a_file_cut_off_anywhere_is_mended(form: Format, tmp_path: Path):
    rows = ROWS[:3]
    wanted = whole(form, tmp_path / "whole", rows)
    path = place(form, tmp_path)
    run(form, tmp_path, rows, stop=0)
    for cut in {*range(0, len(wanted), 37), *range(30), *range(len(wanted) - 9, len(wanted))}:
        path.write_bytes(wanted[:cut])
        run(form, tmp_path, rows)
        assert path.read_bytes() == wanted, f"cut at byte {cut} of {len(wanted)}"


def test_a_record_shorter_than_the_half_one_before_it_leaves_nothing_of_that(
    form: Format, tmp_path: Path
):
    long = form.record(answer(ROWS[1], "x" * 9000))
    run(form, tmp_path, ROWS, stop=1)
    before = place(form, tmp_path).read_bytes()
    with place(form, tmp_path).open("ab") as file:
        file.write(form.before(False) + long[:8000])
    assert run(form, tmp_path, ROWS, stop=1) == ["1"]
    wanted = before + form.before(False) + form.record(answer(ROWS[1]))
    assert place(form, tmp_path).read_bytes() == wanted


@pytest.mark.parametrize("name", ["jsonl", "csv", "llava", "openai-batch"])
def test_rows_that_differ_in_anything_they_ask_are_different(name: str, tmp_path: Path):
    form = format_named(name)
    asked = Item("1", ("1.png",), "what?")
    others = [
        Item("2", ("1.png",), "what?"),
        Item("1", ("2.png",), "what?"),
        Item("1", ("1.png", "2.png"), "what?"),
        Item("1", ("1.png",), "why?"),
    ]
    run(form, tmp_path, [asked], stop=1)
    journal = Journal(place(form, tmp_path), form, RUN)
    assert not any(journal.take(one) for one in others)
    assert journal.take(asked)
    journal.close(False)


def test_what_was_written_is_on_the_disk(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: set[tuple[int, int]] = set()

    def fsync(file: int) -> None:
        facts = os.fstat(file)
        synced.add((facts.st_ino, facts.st_size))

    def on_disk(path: Path) -> bool:
        return (path.stat().st_ino, path.stat().st_size) in synced

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("sts_cli.outputs.disk.SYNC_SECONDS", -1.0)
    path = place(form, tmp_path)
    journal = Journal(path, form, RUN)
    journal.confirm("float32, none")
    assert on_disk(path.with_name(path.name + ".run"))
    for one in ROWS:
        journal.append(answer(one))
        assert on_disk(path)
    monkeypatch.setattr("sts_cli.outputs.disk.SYNC_SECONDS", 1e9)
    synced.clear()
    journal.close(True, ROWS)
    assert on_disk(path) and on_disk(path.with_name(path.name + ".run"))
    run(form, tmp_path, ROWS[::-1])  # which puts them in another order
    assert on_disk(path)


def test_a_power_cut_may_leave_zeros(tmp_path: Path):
    form = format_named("jsonl")
    wanted = whole(form, tmp_path / "whole", ROWS)
    run(form, tmp_path, ROWS, stop=0)
    place(form, tmp_path).write_bytes(wanted[:-40] + bytes(40))
    run(form, tmp_path, ROWS)
    assert place(form, tmp_path).read_bytes() == wanted


def test_rows_that_ask_the_same_are_each_answered_once(form: Format, tmp_path: Path):
    twins = [item(1), item(1), item(2), item(1)]
    wanted = whole(form, tmp_path / "whole", twins)
    assert run(form, tmp_path, twins, stop=2) == ["1", "1"]
    assert run(form, tmp_path, twins) == ["2", "1"]
    assert place(form, tmp_path).read_bytes() == wanted


def test_answers_that_came_out_of_order_end_in_the_order_of_the_input(form: Format, tmp_path: Path):
    wanted = whole(form, tmp_path / "whole", ROWS)
    run(form, tmp_path, [ROWS[3], ROWS[1]], stop=9)
    run(form, tmp_path, ROWS)
    assert place(form, tmp_path).read_bytes() == wanted


@pytest.mark.parametrize("name", ["jsonl", "csv", "llava", "openai-batch"])
def test_retrying_replaces_errors_and_nothing_else(name: str, tmp_path: Path):
    form = format_named(name)
    wanted = whole(form, tmp_path / "whole", ROWS)
    journal = Journal(place(form, tmp_path), form, RUN)
    journal.confirm("float32, none")
    for one in ROWS:
        journal.append(failed(one) if one.id in "13" else answer(one))
    journal.close(True, iter(ROWS))
    again = Journal(place(form, tmp_path), form, RUN)
    assert (again.before, again.errors) == (5, 2)
    again.close(True)
    assert run(form, tmp_path, ROWS) == []
    assert run(form, tmp_path, ROWS, retry=True) == ["1", "3"]
    assert place(form, tmp_path).read_bytes() == wanted


def test_a_fresh_run_replaces_the_answers_only_when_it_is_complete(form: Format, tmp_path: Path):
    wanted = whole(form, tmp_path / "whole", ROWS)
    run(form, tmp_path, ROWS)
    path = place(form, tmp_path)
    path.write_bytes(wanted.replace(b"576", b"575"))
    old = path.read_bytes()
    assert run(form, tmp_path, ROWS, stop=2, fresh=True) == ["0", "1"]
    assert path.read_bytes() == old
    assert run(form, tmp_path, ROWS, fresh=True) == ["2", "3", "4"]
    assert path.read_bytes() == wanted
    assert not list(tmp_path.glob("*.part"))
    assert run(form, tmp_path, ROWS) == []


def test_an_unfinished_fresh_run_of_other_settings_is_thrown_away(tmp_path: Path):
    form = format_named("jsonl")
    run(form, tmp_path, ROWS, stop=2, fresh=True)
    journal = Journal(place(form, tmp_path), form, {**RUN, "model": "other"}, fresh=True)
    assert journal.before == 0


def test_a_run_that_differs_is_refused_and_the_difference_named(tmp_path: Path):
    form = format_named("jsonl")
    run(form, tmp_path, ROWS, stop=2)
    before = place(form, tmp_path).read_bytes()
    for name, value, message in (
        ("model", "llava", "model 'demo', not 'llava'"),
        ("profile", {"name": "off"}, "another profile: name 'balanced', not 'off'"),
        ("input", "two", "answers to another input"),
    ):
        with pytest.raises(OutputError, match=message):
            Journal(place(form, tmp_path), form, {**RUN, name: value})
    with pytest.raises(OutputError, match="precision 'float32, none', not 'bfloat16, none'"):
        Journal(place(form, tmp_path), form, RUN).confirm("bfloat16, none")
    assert place(form, tmp_path).read_bytes() == before
    assert run(form, tmp_path, ROWS) == ["2", "3", "4"]


def test_without_its_settings_a_file_still_names_its_model(tmp_path: Path):
    form = format_named("jsonl")
    run(form, tmp_path, ROWS, stop=2)
    (tmp_path / "out.jsonl.run").unlink()
    with pytest.raises(OutputError, match="model 'demo', not 'llava'"):
        Journal(place(form, tmp_path), form, {**RUN, "model": "llava"})
    assert run(form, tmp_path, ROWS) == ["2", "3", "4"]


def test_without_its_settings_a_whole_file_is_not_taken_for_this_runs(tmp_path: Path):
    form = format_named("jsonl")
    run(form, tmp_path, ROWS)
    (tmp_path / "out.jsonl.run").unlink()
    journal = Journal(place(form, tmp_path), form, RUN)
    assert not journal.covers(ROWS, "auto")
    journal.confirm("float32, none")
    journal.close(True, ROWS)
    assert Journal(place(form, tmp_path), form, RUN).covers(ROWS, "auto")


def test_a_run_that_cannot_begin_leaves_the_folder_as_it_was(tmp_path: Path):
    form = format_named("jsonl")
    Journal(place(form, tmp_path), form, RUN).discard()
    assert list(tmp_path.iterdir()) == []
    run(form, tmp_path, ROWS, stop=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    Journal(place(form, tmp_path), form, RUN).discard()
    Journal(place(form, tmp_path), form, RUN, fresh=True).discard()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


FOREIGN = [
    b'{"image": "a.png", "question": "?"}\n',
    b'{"image": "a.png", "question": "?"}',
    b"my notes",
    b"id,image,question\n1,a,b\n",
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_sts_did_not_write_is_left_alone(content: bytes, form: Format, tmp_path: Path):
    path = place(form, tmp_path)
    path.write_bytes(content)
    with pytest.raises(OutputError, match="Cannot continue"):
        Journal(path, form, RUN)
    assert path.read_bytes() == content


def test_a_damaged_row_in_the_middle_is_not_passed_over(tmp_path: Path):
    form = format_named("jsonl")
    lines = whole(form, tmp_path / "whole", ROWS).splitlines(keepends=True)
    place(form, tmp_path).write_bytes(lines[0] + b"{damaged\n" + lines[1])
    with pytest.raises(OutputError, match="record 2 was not written by sts"):
        Journal(place(form, tmp_path), form, RUN)


HOLD = """
import sys
from pathlib import Path
from sts_cli.outputs.formats import format_named
from sts_cli.outputs.journal import Journal
journal = Journal(Path(sys.argv[1]), format_named("jsonl"), {"model": "demo"})
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the output open."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out.jsonl")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_two_runs_on_one_file_are_refused_until_the_first_is_killed(
    holder: subprocess.Popen[str], tmp_path: Path
):
    form = format_named("jsonl")
    for fresh in (False, True):
        with pytest.raises(OutputError, match="Another run is writing"):
            Journal(tmp_path / "out.jsonl", form, RUN, fresh=fresh)
    holder.kill()
    holder.wait()
    assert run(form, tmp_path, ROWS, stop=1) == ["0"]


def test_a_disk_that_never_shows_the_same_file_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OutputError, match=r"Cannot lock .*out\.jsonl"):
        Journal(tmp_path / "out.jsonl", format_named("jsonl"), RUN)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_record_that_finds_no_room_leaves_no_half_of_it(form: Format, tmp_path: Path):
    """A limit on the size of files does what a full disk does, and needs no root."""
    path = place(form, tmp_path)
    journal = Journal(path, form, RUN)
    journal.confirm("float32, none")
    journal.append(answer(ROWS[0]))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="the file is larger than the system allows"):
            journal.append(answer(ROWS[1], "x" * 2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    journal.append(answer(ROWS[1], "short"))
    added = form.before(False) + form.record(answer(ROWS[1], "short"))
    assert path.read_bytes() == before + added
    journal.close(False)


def test_a_full_disk_is_one_message_and_the_file_stays_whole(form: Format, tmp_path: Path):
    """A real file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        rows = [item(number) for number in range(100)]
        path = place(form, disk)
        journal = Journal(path, form, RUN)
        journal.confirm("float32, none")
        done = 0
        with pytest.raises(OutputError, match="the disk is full"):
            for one in rows:
                journal.append(answer(one, "x" * 4000))
                done += 1
        journal.close(False)
        with path.open("rb") as file:
            kept = [record for record in form.read(file) if not isinstance(record, bytes)]
        assert len(kept) == done > 5
        moved = tmp_path / path.name
        for name in (path.name, f"{path.name}.run"):
            (tmp_path / name).write_bytes((disk / name).read_bytes())
        again = Journal(moved, form, RUN)
        assert [again.take(one) for one in rows] == [n < done for n in range(100)]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path):
    form = format_named("jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"):
        Journal(tmp_path / "file" / "out.jsonl", form, RUN)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Journal(tmp_path / "folder.jsonl", form, RUN)


@pytest.mark.parametrize(
    ("out", "name", "message"),
    [
        ("a.txt", None, "must end in .jsonl, .csv or .parquet"),
        ("a", None, "must end in .jsonl, .csv or .parquet"),
        ("a.csv", "llava", "writes JSON"),
        ("a.jsonl", "lava", "Did you mean 'llava'"),
        ("a.csv", "vqav2", "must end in .json or .jsonl"),
    ],
)
def test_an_output_that_no_format_fits_is_refused(out: str, name: str | None, message: str):
    with pytest.raises(OutputError, match=message):
        format_of(Path(out), name)


def test_csv_says_the_same_as_json(tmp_path: Path):
    one = answer(item(7, "one,\r\ntwo"))
    versus = Comparison(answer(item(7)), True, 0.5, 3.0, 2.0)
    both = Answer(one.item, "m", "p", "text", one.tokens, one.seconds, comparison=versus)
    table = format_named("csv")
    content = (table.before(True) + table.record(both) + table.record(failed(item(8)))).decode()
    first, second = csv.DictReader(io.StringIO(content, newline=""))
    assert first["question"] == "one,\ntwo" and first["answer"] == "text"
    assert float(first["tokens_average"]) == 64.0 and float(first["seconds_total"]) == 1.5
    assert json.loads(first["extra"]) == {"n": 7} and json.loads(first["expected"]) == ["yes"]
    assert (first["agree"], first["speedup_total"], first["error"]) == ("True", "2.0", "")
    assert (second["error"], second["message"], second["answer"]) == (
        "image_missing",
        "No image.",
        "",
    )


FORMULAS = ["=1+1", "+1-2", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x", '="a",b']
HARMLESS = ["-3", "+4.5", "a=b", "'quoted'", "", "(=1)", " =1"]


@pytest.mark.parametrize("text", FORMULAS + HARMLESS)
def test_no_cell_of_a_table_is_a_formula_and_rows_are_known_again(text: str, tmp_path: Path):
    form = format_named("csv")
    one = Item(text or "1", (f"{text}.png",), text)
    journal = Journal(tmp_path / "o.csv", form, RUN)
    journal.confirm("float32, none")
    journal.append(answer(one, text))
    journal.close(True, [one])
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    for cell in (row["id"], row["image"], row["question"], row["answer"]):
        assert re.fullmatch(r"[+-]?[0-9.]+|([^=+\-@\t\r\n].*)?", cell, re.DOTALL)
    assert (row["answer"] == text) is (text in HARMLESS)
    again = Journal(tmp_path / "o.csv", form, {**RUN, "model": "demo"})
    assert again.take(one) and again.before == 1
    again.close(True)


def test_texts_that_only_the_apostrophe_tells_apart_are_different_rows(tmp_path: Path):
    form = format_named("csv")
    keys = {form.key(Item("1", ("a.png",), text)) for text in ("=1", "'=1", "''=1")}
    twins = [Item("1", ("a.png",), text) for text in ("=1", "'=1", "''=1")]
    run(form, tmp_path, twins)
    journal = Journal(place(form, tmp_path), form, RUN)
    assert len(keys) == 3 and all(journal.take(one) for one in twins)
    journal.close(False)


def test_json_is_not_guarded_against_spreadsheets():
    for name in ("jsonl", "llava", "openai-batch", "vqav2"):
        assert "'=1" not in format_named(name).record(answer(item(1, "=1"), "=1")).decode()


def test_a_table_with_a_cell_of_any_length_goes_on(tmp_path: Path):
    form = format_named("csv")
    long = [item(1), Item("2", ("2.png",), "?", extra={"note": 'a "word", ' * 50_000}), item(3)]
    wanted = whole(form, tmp_path / "whole", long)
    run(form, tmp_path, long, stop=2)
    assert run(form, tmp_path, long) == ["3"]
    assert place(form, tmp_path).read_bytes() == wanted


def test_llava_scorers_find_what_they_read():
    row = json.loads(format_named("llava").record(answer(item(7), "yes")))
    assert (row["question_id"], row["prompt"], row["text"]) == (7, "what?", "yes")
    assert row["model_id"] == "demo" and row["metadata"]["tokens"]["average"] == 64.0


def test_batch_responses_are_openais():
    form = format_named("openai-batch")
    good, bad = (json.loads(form.record(one)) for one in (answer(item(7), "yes"), failed(item(8))))
    assert good["custom_id"] == "7" and good["error"] is None
    body = good["response"]["body"]
    assert good["response"]["status_code"] == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "yes"}
    assert body["usage"] == {"prompt_tokens": 596, "completion_tokens": 3, "total_tokens": 599}
    assert bad["response"] is None and bad["error"]["code"] == "image_missing"


def test_vqav2_results_are_one_list(tmp_path: Path):
    form = format_named("vqav2")
    run(form, tmp_path, ROWS)
    rows = json.loads(place(form, tmp_path).read_bytes())
    assert [row["question_id"] for row in rows] == [0, 1, 2, 3, 4]
    assert set(rows[0]) == {"question_id", "answer"}


def test_a_million_rows_are_remembered_in_a_few_megabytes():
    import tracemalloc

    keys = [key_of(item(number)) for number in range(1000)]
    tracemalloc.start()
    answered = Answered(key + step for step in range(100) for key in keys)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 100_000 * 12
    assert answered.take(keys[3]) and not answered.take(1)
