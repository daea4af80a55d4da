"""Answers as Parquet: the same rows with types, and nothing lost whatever ends a run."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from running import Done, no_waiting_for_the_disk, read_rows, start, sts, without_times

from sts_cli.errors import OutputError
from sts_cli.machine.packages import to_install
from sts_cli.outputs.packed import Packed
from sts_cli.outputs.parquet import flat, nested, rows_in
from sts_cli.records import (
    Answer,
    Certainty,
    Comparison,
    Item,
    Problem,
    Seconds,
    TokenCounts,
    answer_row,
)

parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

__all__ = ["no_waiting_for_the_disk"]

RUN: dict[str, Any] = {"model": "demo", "profile": {"name": "balanced"}, "input": "one"}
COUNT = 24
ASKED = ("batch", "q.jsonl", "--max-new-tokens", "2", "--batch-size", "2")


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with questions, one of them about no image, where `sts` finds a small model."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        Image.new("RGB", (50, 40), (60 * number, 128, 0)).save(f"{number}.png")
    rows: list[dict[str, Any]] = [
        {"image": f"{n % 2}.png", "question": f"what is {n}?", "n": n} for n in range(COUNT)
    ]
    rows[1]["answer"] = ["yes", "no"]
    rows[2]["image"] = "gone.png"
    rows[3]["image"] = ["0.png", "1.png"]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def asked(out: str, *options: object) -> Done:
    return sts(*ASKED, "--out", out, "-q", *options)


def names() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"q.jsonl", "0.png", "1.png"}


def item(number: int) -> Item:
    return Item(str(number), (f"{number}.png",), "what?", answers=("yes",), extra={"n": number})


def answer(one: Item, **parts: Any) -> Answer:
    seconds = Seconds(0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.5)
    tokens = TokenCounts(576, (96, 32), 64.0, 20, 3)
    fields = {"text": "é", "tokens": tokens, "seconds": seconds, "finish": "stop", **parts}
    return Answer(one, "demo", "balanced", **fields)


def failed(one: Item) -> Answer:
    return Answer(one, "demo", "balanced", problem=Problem("image_missing", "No image."))


def run(path: Path, count: int, stop: int | None = None, **options: Any) -> list[str]:
    """A run over `count` items; ends after `stop` answers. The ids that it answered."""
    journal = Packed(path, RUN, **options)
    journal.confirm("float32, none")
    left = [one for one in map(item, range(count)) if not journal.take(one)]
    for one in left[:stop]:
        journal.append(answer(one))
    journal.close(stop is None or len(left) <= stop)
    return [one.id for one in left[:stop]]


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows_in(path)]


def test_flat_rows_are_the_rows_themselves():
    full = answer(item(1), text="no", certainty=Certainty(0.9, 0.5))
    several = Item("2", ("a.png", "b.png"), "which?")
    for one in (
        answer(item(1)),
        answer(item(1), text="", escalated="extreme"),
        answer(item(1), comparison=Comparison(full, False, 0.25, 2.0, 1.5)),
        answer(several, tokens=TokenCounts(576, (), 576.0, 20, 3)),
        failed(item(1)),
        failed(Item("3")),
    ):
        row = answer_row(one)
        assert json.dumps(nested(flat(row))) == json.dumps(row)


def test_a_table_has_the_rows_and_types_that_json_lines_have(place: Path):
    assert asked("a.jsonl", "--compare").code == asked("a.parquet", "--compare").code == 1
    assert names() == {"a.jsonl", "a.jsonl.run", "a.parquet"}
    rows = read_rows(Path("a.jsonl"))
    read = without_times(list(rows_in(Path("a.parquet"))))
    for row in (*read, *rows):  # measured
        row.pop("speedup", None), row.get("full", {}).pop("seconds", None)
    assert read == without_times(rows)
    table = parquet.read_table("a.parquet")
    columns = table.to_pydict()
    assert columns["id"] == [row["id"] for row in rows]
    assert columns["tokens_left"][0] == rows[0]["tokens"]["left"]
    assert columns["expected"][:2] == [None, ["yes", "no"]]
    assert (columns["error"][2], columns["answer"][2]) == ("image_missing", None)
    assert (columns["image"][3], columns["images"][3]) == (None, ["0.png", "1.png"])
    assert json.loads(columns["extra"][5]) == {"n": 5}
    assert columns["agree"][0] is rows[0]["agree"]
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["tokens_visual"] == "int64" and kinds["seconds_total"] == "double"
    assert kinds["agree"] == "bool" and kinds["full_tokens_visual"] == "int64"


def test_killed_again_and_again_no_row_is_lost_or_doubled(place: Path):
    for count in (1, 9):
        with start(*ASKED, "--out", "a.parquet") as killed:
            assert killed.stderr is not None
            told = [killed.stderr.readline() for _ in range(count)]
            assert all(told), told
            killed.kill()
    assert "a.parquet" not in names()
    assert Path("a.parquet.jsonl").read_bytes().count(b"\n") >= 10
    assert asked("a.parquet").code == 1
    assert asked("whole.jsonl").code == 1
    assert without_times(list(rows_in(Path("a.parquet")))) == without_times(
        read_rows(Path("whole.jsonl"))
    )
    assert "a.parquet.jsonl" not in names() and "a.parquet.jsonl.run" not in names()


def test_a_run_that_stops_says_where_its_rows_are(place: Path):
    done = sts(*ASKED, "--out", "a.parquet", "--on-error", "stop")
    assert done.code == 1
    told = "Wrote a.parquet.jsonl; it becomes a.parquet when every row is answered."
    assert told in done.err
    assert [row["id"] for row in read_rows(Path("a.parquet.jsonl"))][:3] == ["1", "2", "3"]
    done = sts(*ASKED, "--out", "a.parquet")
    assert "Wrote a.parquet." in done.err and len(ids(Path("a.parquet"))) == COUNT


def test_a_limited_run_goes_on_and_a_finished_one_does_nothing(place: Path):
    assert asked("a.parquet", "--limit", "2").code == 0
    assert ids(Path("a.parquet")) == ["1", "2"]
    assert asked("a.parquet").code == 1
    assert ids(Path("a.parquet")) == [str(number) for number in range(1, COUNT + 1)]
    before = Path("a.parquet").read_bytes()
    done = sts(*ASKED, "--out", "a.parquet", "--limit", "5")
    assert f"{COUNT} answered before" in done.err and done.code == 1
    assert Path("a.parquet").read_bytes() == before and names() == {"a.parquet"}
    assert "at the" in sts(*ASKED, "--out", "a.parquet", "--dry-run").out


def test_rows_with_an_error_are_answered_again(place: Path):
    assert asked("a.parquet").code == 1
    Image.new("RGB", (50, 40)).save("gone.png")
    assert asked("a.parquet", "--retry-errors").code == 0
    assert ids(Path("a.parquet")) == [str(number) for number in range(1, COUNT + 1)]


def test_another_run_is_refused_and_leaves_the_table_as_it_was(tmp_path: Path):
    path = tmp_path / "a.parquet"
    run(path, 3)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"a\.parquet holds answers with model 'demo', not 'ox'"):
        Packed(path, {**RUN, "model": "ox"})
    with pytest.raises(OutputError, match="precision 'float32, none', not 'int8'"):
        Packed(path, RUN).confirm("int8")
    Packed(path, RUN).discard()
    assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == before


@pytest.mark.parametrize("kind", ["table", "text"])
def test_a_table_of_others_is_left_alone(kind: str, place: Path):
    import pyarrow

    path = Path("a.parquet")
    parquet.write_table(pyarrow.table({"id": [1]}), path) if kind == "table" else (
        path.write_text("notes")
    )
    before = path.read_bytes()
    for options in ((), ("--fresh",)):
        done = asked("a.parquet", *options)
        assert done.code == 2 and "a.parquet was not written by sts" in done.err
        assert done.err.count("\n") == 1
    assert path.read_bytes() == before and names() == {"a.parquet"}


def test_a_fresh_run_keeps_the_old_answers_until_it_is_whole(tmp_path: Path):
    path = tmp_path / "a.parquet"
    run(path, 3)
    before = path.read_bytes()
    assert run(path, 5, stop=2, fresh=True) == ["0", "1"]
    assert path.read_bytes() == before
    assert run(path, 5, fresh=True) == ["2", "3", "4"]
    assert ids(path) == ["0", "1", "2", "3", "4"] and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_kill_before_the_table_was_written_costs_no_answer(
    fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.parquet"
    run(path, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Packed, "_pack", lambda self: None)  # a kill at this place
        assert run(path, 5, fresh=fresh) == (["0", "1", "2", "3", "4"] if fresh else ["3", "4"])
    assert ids(path) == ["0", "1", "2"]
    assert run(path, 5, fresh=fresh) == []
    assert ids(path) == ["0", "1", "2", "3", "4"] and [*tmp_path.iterdir()] == [path]


def test_a_kill_after_the_table_was_written_costs_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.parquet"
    for removed in ("nothing", "the rows"):
        with monkeypatch.context() as patched:
            patched.setattr("sts_cli.outputs.packed.remove", lambda journal: None)
            run(path, 3)
        if removed == "the rows":
            (tmp_path / "a.parquet.jsonl").unlink()
        assert run(path, 3) == []
        assert ids(path) == ["0", "1", "2"] and [*tmp_path.iterdir()] == [path]


def test_a_full_disk_under_the_table_keeps_the_rows(tmp_path: Path):
    path = tmp_path / "a.parquet"
    journal = Packed(path, RUN)
    journal.confirm("float32, none")
    for number in range(200):
        journal.append(answer(item(number), text=os.urandom(2000).hex()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, limits[1]))
    try:
        with pytest.raises(OutputError, match="the file is larger than the system allows"):
            journal.close(True, map(item, range(200)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {one.name for one in tmp_path.iterdir()} == {"a.parquet.jsonl", "a.parquet.jsonl.run"}
    assert run(path, 200) == [] and len(ids(path)) == 200


def test_two_runs_on_one_table_do_not_mix(tmp_path: Path):
    path = tmp_path / "a.parquet"
    first = Packed(path, RUN)
    with pytest.raises(OutputError, match=r"Another run is writing .*a\.parquet right now"):
        Packed(path, RUN)
    first.discard()
    assert [*tmp_path.iterdir()] == []


def test_shards_are_joined(place: Path):
    for number in (1, 2):
        assert asked(f"{number}.parquet", "--shard", f"{number}/2").code == number % 2
    assert sts("merge", "all.parquet", "2.parquet", "1.parquet").code == 0
    assert sts("merge", "all.parquet", "1.parquet", "2.parquet").code == 0
    assert names() == {"1.parquet", "2.parquet", "all.parquet"}
    assert asked("one.parquet").code == 1
    one, joined = (
        without_times(list(rows_in(Path(name)))) for name in ("one.parquet", "all.parquet")
    )
    assert one == joined
    done = sts(*ASKED, "--out", "all.parquet")
    assert f"{COUNT} answered before" in done.err
    assert without_times(list(rows_in(Path("all.parquet")))) == joined


def test_shards_that_cannot_be_joined_are_refused(place: Path):
    assert asked("1.parquet", "--shard", "1/2").code == 1
    assert asked("2.parquet", "--shard", "2/2", "--on-error", "stop", "--limit", "1").code == 0
    with start(*ASKED, "--shard", "2/2", "--out", "3.parquet") as killed:
        assert killed.stderr is not None and all(killed.stderr.readline() for _ in range(3))
        killed.kill()
    for out, second, because in (
        ("all.parquet", "2.parquet", "2.parquet is not finished"),
        ("all.parquet", "3.parquet", "3.parquet is not finished"),
        ("all.parquet", "q.jsonl", "q.jsonl is not the output of sts batch --shard"),
        ("all.jsonl", "2.parquet", "is not finished"),
    ):
        done = sts("merge", out, "1.parquet", second)
        assert done.code == 2 and because in done.err and done.err.count("\n") == 1
    assert sts("batch", "q.jsonl", *ASKED[2:], "--shard", "2/2", "--out", "2.parquet").code == 0
    done = sts("merge", "all.jsonl", "1.parquet", "2.parquet")
    assert done.code == 2 and "the rows are parquet, so the name must end in .parquet" in done.err
    Path("all.parquet").write_text("notes")
    done = sts("merge", "all.parquet", "1.parquet", "2.parquet")
    assert done.code == 2 and "all.parquet exists and is no merge of this run" in done.err
    assert Path("all.parquet").read_text() == "notes"


def test_a_table_of_answers_is_asked_as_its_questions_were(place: Path):
    assert asked("a.parquet", "--compare").code == 1
    assert sts("batch", "a.parquet", *ASKED[2:], "--out", "again.jsonl", "-q").code == 1
    assert asked("b.jsonl").code == 1
    again, first = (read_rows(Path(name)) for name in ("again.jsonl", "b.jsonl"))
    again[2]["error"] = first[2]["error"]  # which names the file and the line
    assert without_times(again) == without_times(first)
    done = sts("eval", "a.parquet", "--profiles", "off", "--limit", "2", "--json", "-q")
    assert json.loads(done.out)["profiles"]["off"]["all"]["questions"] == 2


def test_a_report_has_the_rows_of_an_earlier_run(place: Path):
    pytest.importorskip("pygal", reason="needs pygal")
    assert asked("a.parquet").code == 1
    assert asked("a.parquet", "--html", "a.html").code == 1
    assert f"{COUNT - 1} rows were answered by an earlier run" in Path("a.html").read_text()


def test_without_pyarrow_nothing_begins(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as Python has it where it is not installed
    done = asked("a.parquet")
    assert (done.code, names()) == (2, set())
    assert done.err == f"sts: a.parquet needs pyarrow; run: {to_install('pyarrow>=17')}\n"


def test_only_our_own_rows_are_parquet(place: Path):
    done = asked("a.parquet", "--format", "llava")
    assert done.code == 2 and "--out must end in .jsonl" in done.err
    assert sts("batch", "q.jsonl", "--out", "a.xlsx").err.endswith(
        "--out a.xlsx: the name must end in .jsonl, .csv or .parquet.\n"
    )
