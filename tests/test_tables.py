"""Tables as people and programs save them: read, or refused with the line; nothing is lost."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import no_waiting_for_the_disk

from sts_cli.errors import InputError
from sts_cli.inputs.cells import StrayQuote, cells_of, records_of
from sts_cli.inputs.items import open_input
from sts_cli.outputs.formats import format_named
from sts_cli.outputs.journal import Journal
from sts_cli.records import Answer, Item

__all__ = ["no_waiting_for_the_disk"]

TWO = "id,image,question\n1,a.png,why?\n2,b.png,où?\n"


def read(content: str | bytes, folder: Path, name: str = "q.csv") -> list[Item]:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return list(open_input(str(folder / name)).items())


def asked(items: list[Item]) -> list[tuple[str, tuple[str, ...], str]]:
    assert [one.problem for one in items] == [None] * len(items)
    return [(one.id, one.images, one.question) for one in items]


WANTED = [("1", ("a.png",), "why?"), ("2", ("b.png",), "où?")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.csv", TWO.encode()),
        ("q.csv", TWO.encode("utf-8-sig")),
        ("q.csv", TWO.encode("utf-16")),
        ("q.csv", TWO.replace("\n", "\r").encode()),
        ("q.csv", TWO.replace("\n", "\r\n").encode()),
        ("q.csv", TWO.replace("\n", "\n\n").encode()),
        ("q.csv", TWO.replace(",", ";").encode()),
        ("q.csv", TWO.replace("id,image,question", '"id","image","question"').encode()),
        ("q.csv", TWO.replace(",", ";").replace("image", '"image"').encode()),
        ("q.csv", TWO.replace(",", "\t").encode()),
        ("q.csv", TWO.replace("id,image,question", " ID, Image ,QUESTION").encode()),
        ("q.csv", TWO.replace("image", "Image Path").encode()),
        ("q.tsv", TWO.replace(",", "\t").encode()),
        ("q.tsv", TWO.replace(",", "\t").encode("utf-16")),
    ],
)
def test_tables_of_every_system_are_read(name: str, content: bytes, tmp_path: Path):
    assert asked(read(content, tmp_path, name)) == WANTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TWO.encode("cp1252"), r"q\.csv:3 is not UTF-8 text .*save the file as UTF-8"),
        (TWO.encode("utf-16-le"), "is UTF-16 text.*save it as UTF-8"),
        (TWO.encode("utf-16")[:-1], "not whole UTF-16 text .*save the file as UTF-8"),
        (TWO.replace("id", "image").encode(), "the header names 'image' twice"),
        (TWO.replace("id,image", "Image, image").encode(), "the header names 'image' twice"),
        (TWO.replace("id", "topic").replace("question", "topic").encode(), "'topic' twice"),
        (b"id|image|question\n1|a.png|why?\n", "names no column 'image'.*id,image,question"),
        (b"", "is empty"),
        (b"id,image,question\n", "is empty"),
    ],
)
def test_a_table_that_is_not_certain_is_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path
):
    with pytest.raises(InputError, match=message) as caught:
        read(content, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('3,s.png,"what is\n4,t.png,how many?\n5,t.png,how many?\n', 2),
        ('3,s.png,fine\n4,t.png,"how many\n', 3),
        ('3,s.png,"two\nlines"\n4,t.png,"how many\n5,u.png,"why"\n', 4),
        ('3,s.png,"inch" sign?\n', 2),
        ('3,s.png,5" nails?\n', 2),
        ('3,s.png, "one, two"\n', 2),
        ('3,s.png,"a ""b"" c"d"\n', 2),
        ('"3\n3",s.png,x"y"\n', 3),
    ],
)
def test_a_stray_quote_is_refused_with_the_line_that_it_opens_in(
    rows: str, line: int, tmp_path: Path
):
    with pytest.raises(InputError, match=rf"^q\.csv:{line}: the quote at .*\.tsv"):
        read("id,image,question\n" + rows, tmp_path)


def test_a_stray_quote_stops_a_batch_before_its_first_answer(tmp_path: Path):
    rows = "".join(f"{n},a.png,why?\n" for n in range(50))
    (tmp_path / "q.csv").write_text(f'id,image,question\n{rows}51,b.png,"why?\n52,c.png,why?\n')
    done = subprocess.run(
        [sys.executable, "-m", "sts_cli", "batch", "q.csv", "--out", "a.jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("sts: q.csv:52: the quote at")
    assert not (tmp_path / "a.jsonl").exists()


def test_quotes_of_a_tsv_are_text_and_each_line_is_a_row(tmp_path: Path):
    rows = ['"inch" sign?', '"what is', "how many?", 'a "b" c', '""', 'it is 5"']
    content = "image\tquestion\n" + "".join(f"a.png\t{text}\n" for text in rows)
    assert [one.question for one in read(content, tmp_path, "q.tsv")] == rows


def test_a_tsv_with_cells_that_quotes_hold_together_says_what_to_do(tmp_path: Path):
    content = 'id\timage\tquestion\n1\t"a\nb.png"\twhy?\n2\tc.png\twhy?\n'
    first, second, third = read(content, tmp_path, "q.tsv")
    assert first.problem and "name the file .csv" in first.problem.message
    assert second.problem and asked([third]) == [("2", ("c.png",), "why?")]
    assert [one.images for one in read(content, tmp_path, "q.csv")] == [("a\nb.png",), ("c.png",)]


def test_a_row_of_several_lines_is_called_by_its_first(tmp_path: Path):
    content = 'image,question\na.png,"one\r\ntwo"\r\nb.png,why?\r\nc.png\r\n'
    first, second, short = read(content, tmp_path)
    assert asked([first, second]) == [("2", ("a.png",), "one\ntwo"), ("4", ("b.png",), "why?")]
    assert short.problem and short.problem.message.startswith("q.csv:5: 1 cells")


def test_columns_without_a_name_are_kept(tmp_path: Path):
    (item,) = read(",image,question,,\n0,a.png,why?,x,y\n", tmp_path)
    assert item.extra == {"column 1": "0", "column 4": "x", "column 5": "y"}


def test_a_list_in_a_cell_names_several_images(tmp_path: Path):
    content = 'image,question\n"[""a.png"", ""b.png""]",?\n[c].png,?\n"[\'d.png\']",?\n'
    found = [one.images for one in read(content, tmp_path)]
    assert found == [("a.png", "b.png"), ("[c].png",), ("d.png",)]


CELLS = st.text(st.sampled_from(list('ab",;\t \né')), max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=4))
def test_what_a_writer_of_csv_writes_is_read_back(rows: list[list[str]]):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    lines = enumerate(text.getvalue().splitlines(keepends=True), 1)
    assert [cells_of(record[:-1], ",") for _, record in records_of(lines)] == rows


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(list('a",\n')), max_size=12))
def test_no_line_is_lost_without_an_error(content: str):
    lines = [*enumerate(content.splitlines(keepends=True), 1)]
    found = list(records_of(lines))
    assert "".join(record for _, record in found) == content
    for _, record in found[:-1]:
        assert record.count('"') % 2 == 0
    odd = [record for _, record in found if record.count('"') % 2]
    for record in odd:
        with pytest.raises(StrayQuote):
            cells_of(record, ",")


def test_a_quote_that_is_never_closed_is_not_read_to_the_end_of_a_large_file():
    taken = []

    def lines():
        for number in range(1, 1000):
            taken.append(number)
            yield number, 'a,"b\n' if number == 3 else "a,b\n"

    records = records_of(lines(), longest=40)
    with pytest.raises(StrayQuote):
        for _, record in records:
            cells_of(record.rstrip("\n"), ",")
    assert len(taken) < 20


def test_a_large_table_is_a_stream(tmp_path: Path):
    row = '"a.png","what is the ""thing"" here, really?",' + "x" * 200 + "\n"
    (tmp_path / "q.csv").write_text("image,question,topic\n" + row * 5_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_input(str(tmp_path / "q.csv")).items())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 5_000 and peak < 1 << 18


LONG = "x" * 200_000  # more than the csv module's 131,072


@pytest.mark.parametrize(("name", "delimiter"), [("q.csv", ","), ("q.tsv", "\t")])
def test_long_cells_are_read_whole_and_no_limit_of_the_process_is_changed(
    name: str, delimiter: str, tmp_path: Path
):
    limit = csv.field_size_limit()
    content = f"image,question,note\na.png,why?,{LONG}\n".replace(",", delimiter)
    (item,) = read(content, tmp_path, name)
    assert item.problem is None and item.extra == {"note": LONG}
    assert csv.field_size_limit() == limit


def test_an_answer_with_a_long_cell_does_not_stop_a_resume(tmp_path: Path):
    form = format_named("csv")
    items = [Item(str(n), ("a.png",), "why?", extra={"note": LONG}) for n in range(2)]
    for one in items:
        journal = Journal(tmp_path / "a.csv", form, {"model": "demo"})
        assert journal.take(items[0]) is (one is items[1])
        journal.confirm("float32, none")
        journal.append(Answer(one, "demo", "balanced", text=LONG))
        journal.close(False)
    assert Journal(tmp_path / "a.csv", form, {"model": "demo"}).before == 2
