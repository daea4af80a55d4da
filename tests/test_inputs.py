"""Question files as users have them: every row becomes exactly one item, or one problem."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sts_cli.errors import InputError
from sts_cli.inputs.folder import read_folder
from sts_cli.inputs.items import open_input
from sts_cli.inputs.jsonl import read_jsonl, read_line
from sts_cli.inputs.lines import read_lines
from sts_cli.inputs.piped import read_piped
from sts_cli.inputs.rows import CAPTION, Origin
from sts_cli.records import Answer, Item, answer_row

HERE = Origin("questions.jsonl", Path())


def row(**fields: Any) -> Item:
    return read_line(json.dumps(fields).encode(), 7, HERE)


def problem(item: Item) -> str:
    assert item.problem is not None and item.problem.kind == "row_invalid"
    return item.problem.message


def items(content: str | bytes, folder: Path, name: str = "q.jsonl", **options: Any) -> list[Item]:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return list(open_input(str(folder / name), **options).items())


SPELLINGS = [
    {"id": "a", "image": "x.png", "question": "why?"},
    {"question_id": "a", "image": "x.png", "text": "why?"},
    {"id": "a", "image_path": "x.png", "prompt": "why?"},
    {"id": "a", "file_name": "x.png", "question": "why?"},
    {"id": "a", "images": ["x.png"], "question": "why?"},
    {"custom_id": "a", "image": ["x.png"], "prompt": "why?"},
]


@pytest.mark.parametrize("fields", SPELLINGS, ids=json.dumps)
def test_every_spelling_asks_the_same(fields: dict[str, Any]):
    assert row(**fields) == Item("a", ("x.png",), "why?", extra={})


def test_unknown_keys_are_carried_along():
    item = row(image="x.png", question="?", category="text", source={"page": 3})
    assert item.extra == {"category": "text", "source": {"page": 3}}
    assert answer_row(Answer(item, "m", "p"))["extra"] == item.extra


def test_a_row_without_an_id_is_called_by_its_line():
    assert row(image="x.png", question="?").id == "7"
    assert row(id=12, image="x.png", question="?").id == "12"


def test_accepted_answers_are_one_text_or_several():
    assert row(image="x.png", question="?", answer="yes").answers == ("yes",)
    assert row(image="x.png", question="?", answer=["2", 2]).answers == ("2", "2")


def test_several_images_make_one_question():
    assert row(image=["a.png", "b.png"], question="?").images == ("a.png", "b.png")


BAD = [
    ("[1, 2]", "not a JSON object"),
    ('"text"', "not a JSON object"),
    ("{", "not valid JSON"),
    ('{"image": "x.png", "question": "?"} trailing', "not valid JSON"),
    ("# a comment", "a comment"),
    ("// a comment", "a comment"),
    ("[" * 100_000, "nested too deeply"),
    ('{"question": "?"}', 'no "image" key'),
    ('{"image": null, "question": "?"}', 'no "image" in this row, and sts asks about images only'),
    ('{"image": 5, "question": "?"}', "must be a file name or a list of them, not a number"),
    ('{"image": [], "question": "?"}', "lists no image"),
    ('{"image": [["x"]], "question": "?"}', "not a list"),
    ('{"image": " ", "question": "?"}', '"image" is empty'),
    ('{"image": "a\\u0000b", "question": "?"}', "null byte"),
    ('{"image": "https://x.org/a.png", "question": "?"}', "works offline"),
    ('{"image": "x.png"}', 'no "question". Add'),
    ('{"image": "x.png", "question": 5}', '"question" must be text, not a number'),
    ('{"image": "x.png", "question": ["?"]}', '"question" must be text, not a list'),
    ('{"image": "x.png", "question": "\\n"}', '"question" is empty'),
    ('{"image": "x.png", "question": "a\\u0000b"}', "null byte"),
    ('{"image": "x.png", "question": "\\ud83d"}', "half of a surrogate pair"),
    ('{"image": "x.png", "question": "?", "id": [1]}', '"id" must be text'),
    ('{"image": "x.png", "question": "?", "id": true}', "not true or false"),
    ('{"image": "x.png", "question": "?", "answer": {"a": 1}}', '"answer" must be text'),
    ('{"image": "x.png", "question": "?", "deep": ' + "[" * 50 + "]" * 50 + "}", "nested deeper"),
    ('{"image": "x.png", "question": "?", "n": ' + "9" * 5000 + "}", "not valid JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line[:40] for line, _ in BAD])
def test_a_bad_row_says_what_is_wrong_and_where(line: str, message: str):
    said = problem(read_line(line.encode(), 7, HERE))
    assert said.startswith("questions.jsonl:7: ") and message in said


def test_a_question_of_ten_megabytes_is_one_short_problem():
    item = row(image="x.png", question="?" * 10_000_000)
    assert "10,000,000 characters" in problem(item)
    assert len(json.dumps(answer_row(Answer(item, "m", "p")))) < 1000


def test_text_that_is_not_utf8_is_a_problem_of_its_line(tmp_path: Path):
    found = items(b'{"image": "\xff.png"}\n{"image": "x.png", "question": "?"}\n', tmp_path)
    assert "not UTF-8" in problem(found[0]) and found[1].problem is None


def test_numbers_that_json_does_not_have_become_null():
    item = read_line(
        b'{"image": "x", "question": "?", "a": NaN, "b": [1e999], "c": -Infinity}', 1, HERE
    )
    assert item.extra == {"a": None, "b": [None], "c": None}


def test_byte_order_mark_line_ends_and_blank_lines_do_not_matter(tmp_path: Path):
    content = '\ufeff{"image": "a", "question": "?"}\r\n\r\n  \n{"image": "b", "question": "?"}'
    assert [(one.id, one.images) for one in items(content, tmp_path)] == [
        ("1", ("a",)),
        ("4", ("b",)),
    ]


def test_a_line_that_is_too_long_is_passed_over_without_being_kept():
    file = io.BytesIO(b"short\n" + b"x" * 50 + b"\nnext\n" + b"y" * 9 + b"\n" + b"z" * 10)
    assert list(read_lines(file, 10)) == [
        (1, b"short"),
        (2, None),
        (3, b"next"),
        (4, b"y" * 9),
        (5, None),
    ]


def test_the_default_question_is_for_rows_without_one(tmp_path: Path):
    content = '{"image": "a"}\n{"image": "b", "question": "mine?"}\n'
    found = items(content, tmp_path, question="all?")
    assert [one.question for one in found] == ["all?", "mine?"]


def test_an_image_folders_metadata_asks_for_captions(tmp_path: Path):
    (tmp_path / "a.png").touch()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}\n')
    found = open_input(str(tmp_path))
    (item,) = found.items()
    assert (item.question, item.answers, item.folder) == (CAPTION, ("a cat",), tmp_path)
    assert found.one_each


REQUEST = {
    "custom_id": "r1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {
        "model": "any",
        "max_tokens": 5,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": "file:///a%20b.png"}},
                    {"type": "file", "file": {"file_data": "data:image/png;base64,AAAA"}},
                ],
            },
        ],
    },
}


def test_a_batch_request_is_a_row():
    item = row(**REQUEST)
    assert item.id == "r1" and item.question == "Be brief.\nwhat?"
    assert item.images == ("/a b.png", "data:image/png;base64,AAAA")
    assert item.max_new_tokens == 5 and item.image_at == (15, 15)
    assert item.extra == {
        "body": {"model": "any", "max_tokens": 5},
        "max_new_tokens": 5,
        "image_at": [15, 15],
    }


@pytest.mark.parametrize(
    ("kinds", "question", "places"),
    [
        ("itt", "0\n1", ()),
        ("tit", "0\n1", (2,)),
        ("tti", "0\n1", (3,)),
        ("itit", "0\n1", (0, 2)),
        ("ii", "", ()),
    ],
)
def test_images_of_a_request_stand_where_it_has_them(
    kinds: str, question: str, places: tuple[int, ...]
):
    image = {"type": "image_url", "image_url": {"url": "a.png"}}
    texts = iter("01")
    content = [image if kind == "i" else {"type": "text", "text": next(texts)} for kind in kinds]
    item = row(custom_id="r", body={"messages": [{"role": "user", "content": content}]})
    assert (item.question, item.image_at) == (question, places)


@pytest.mark.parametrize("settings", [{"n": 2}, {"tools": [{"type": "function"}]}], ids=str)
def test_a_request_for_what_sts_does_not_do_is_refused(settings: dict[str, Any]):
    body = {**REQUEST["body"], **settings}  # type: ignore[dict-item]
    assert "leave it out" in problem(row(**{**REQUEST, "body": body}))


@pytest.mark.parametrize("limit", [0, -1, 1.5, "many", True, 10**9])
def test_a_limit_of_new_tokens_that_is_none_is_refused(limit: Any):
    assert "whole number of 1 to" in problem(row(image="a", question="?", max_new_tokens=limit))


@pytest.mark.parametrize("places", [3, [9], [1, 1], [True], ["1"]], ids=str)
def test_places_of_images_that_are_none_are_refused(places: Any):
    assert "for each image" in problem(row(image="a", question="four", image_at=places))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, '"messages"'),
        (["hello"], "role None"),
        ([{"role": "assistant", "content": "x"}], "role 'assistant'"),
        ([{"role": "user", "content": 5}], '"content" must be text'),
        ([{"role": "user", "content": [{"type": "audio"}]}], "type 'audio'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "without an address"),
        ([{"role": "user", "content": "no image"}], 'no "image" in this row'),
    ],
)
def test_a_request_that_is_no_question_about_images_is_a_problem(messages: Any, reason: str):
    assert reason in problem(row(custom_id="r", body={"messages": messages}))


def test_vqav2_questions_name_their_coco_images(tmp_path: Path):
    data = {
        "data_subtype": "val2014",
        "questions": [{"image_id": 42, "question": "how many?", "question_id": 42000}],
    }
    (item,) = items(json.dumps(data), tmp_path, "v2.json", images=Path("coco"))
    assert item.id == "42000" and item.paths == (Path("coco/COCO_val2014_000000000042.jpg"),)


def test_a_csv_table_has_the_same_columns(tmp_path: Path):
    content = (
        '\ufeffid,image,question,topic\r\n1,a.png,"one,\ntwo?",x\r\n\r\n2,b.png\r\n3,,why?,\r\n'
    )
    first, short, missing = items(content, tmp_path, "q.csv")
    assert first == Item("1", ("a.png",), "one,\ntwo?", tmp_path, extra={"topic": "x"})
    assert "2 cells, but the header has 4" in problem(short)
    assert 'no "image" key' in problem(missing)


def test_a_csv_file_without_a_header_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no column 'image'"):
        items("a.png,what?\n", tmp_path, "q.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", b"", "is empty"),
        ("q.jsonl", b"\n \n", "is empty"),
        ("q.jsonl", '{"image": "a"}'.encode("utf-16"), "UTF-16"),
        ("q.json", b"{", "not valid JSON"),
        ("q.json", b"{}", "neither a list of rows"),
        ("notes.md", b"# Notes", "neither an image nor a question file"),
    ],
)
def test_a_file_that_asks_nothing_is_refused_in_one_sentence(
    name: str, content: bytes, message: str, tmp_path: Path
):
    with pytest.raises(InputError, match=message) as caught:
        items(content, tmp_path, name)
    assert "\n" not in str(caught.value)


def test_a_missing_input_suggests_what_is_there(tmp_path: Path):
    (tmp_path / "questions.jsonl").touch()
    with pytest.raises(InputError, match="Did you mean 'questions.jsonl'"):
        open_input(str(tmp_path / "question.jsonl"))


def test_json_lines_are_known_by_their_content_too(tmp_path: Path):
    assert items('{"image": "a", "question": "?"}\n', tmp_path, "rows.txt")[0].images == ("a",)


def test_shards_deal_the_rows_out(tmp_path: Path):
    lines = "".join(f'{{"image": "{n}", "question": "?"}}\n' for n in range(7))
    (tmp_path / "q.jsonl").write_text(lines)
    rows = open_input(str(tmp_path / "q.jsonl"))
    parts = [[one.images[0] for one in rows.items(shard=(i, 3))] for i in (1, 2, 3)]
    assert parts == [["0", "3", "6"], ["1", "4"], ["2", "5"]]
    assert [one.images[0] for one in rows.items(limit=2, shard=(1, 3))] == ["0", "3"]
    assert rows.count() == 7


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", b'\xef\xbb\xbf{"image": "a", "question": "?"}\n\n' + b"[]\n" * 9999),
        ("q.json", b'{"questions": [' + b"{},\n" * 9999 + b"{}]}"),
        ("q.csv", b"image,question\n" + b"a,?\n\n" * 10_000),
        ("q.tsv", ("image\tquestion\n" + "a\t?\r\n" * 10_000).encode("utf-16")),
    ],
)
def test_one_reading_counts_the_rows_and_hashes_the_bytes(
    name: str, content: bytes, tmp_path: Path
):
    (tmp_path / name).write_bytes(content)
    rows = open_input(str(tmp_path / name))
    assert rows.identity() == f"a file of SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"
    (tmp_path / name).write_bytes(b"")
    assert rows.count() == 10_000


def test_a_folder_gives_its_images_and_counts_the_rest(tmp_path: Path):
    for name in ("b.JPG", "a b \U0001f600.png", "deep/er/c.webp", ".hidden.png", "x.txt", "y.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep/loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    rows = open_input(str(tmp_path))
    names = ["a b \U0001f600.png", "b.JPG", "deep/er/c.webp", "gone.png"]
    assert [one.id for one in rows.items()] == names
    assert rows.skipped == {"hidden": 1, "of another kind": 2, "folders seen before": 1}
    assert {one.question for one in rows.items()} == {CAPTION}


def test_folders_may_lie_in_each_other_however_deep_and_stay_sorted(tmp_path: Path):
    folder = str(tmp_path)
    for _ in range(1200):
        folder = os.path.join(folder, "m")
        os.mkdir(folder)
    for name in (
        f"{tmp_path}/a.png",
        f"{tmp_path}/z.png",
        f"{tmp_path}/m/n.png",
        f"{folder}/x.png",
    ):
        open(name, "xb").close()
    try:
        names = [one.id for one in read_folder(tmp_path, "?", Counter())]
        assert names == ["a.png", "m/" * 1200 + "x.png", "m/n.png", "z.png"]
    finally:  # rmtree cannot
        os.remove(f"{folder}/x.png")
        while folder != f"{tmp_path}/m":
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def test_a_folder_without_images_says_what_it_held(tmp_path: Path):
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match=r"holds no images \(passed over: 1 of another kind\)"):
        open_input(str(tmp_path))


def test_a_name_that_is_not_utf8_is_read_and_can_be_written(tmp_path: Path):
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))).touch()
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    (item,) = open_input(str(tmp_path)).items()
    assert item.id == "caf\\udce9.png" and item.paths[0].exists()
    line = json.dumps(answer_row(Answer(item, "m", "p")), ensure_ascii=False).encode("utf-8")
    assert json.loads(line)["image"] == "caf\\udce9.png"


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["id", "image", "images", "question", "text", "answer", "body", "x"])
LINES = st.binary() | st.dictionaries(KEYS, VALUES).map(lambda row: json.dumps(row).encode())


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES.map(lambda line: line.replace(b"\n", b" ")), max_size=5))
def test_whatever_stands_in_a_file_each_line_is_one_item_that_can_be_written(lines: list[bytes]):
    data = b"\n".join(lines)
    found = list(read_jsonl(io.BytesIO(data), HERE))
    wanted = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    assert len(found) == len(wanted)
    for item in found:
        written = json.dumps(
            answer_row(Answer(item, "m", "p")), ensure_ascii=False, allow_nan=False
        ).encode("utf-8")
        assert json.loads(written)["id"] == item.id


class Pieces(io.RawIOBase):
    """A pipe whose writer writes so many bytes at a time."""

    def __init__(self, data: bytes, size: int):
        self._parts = iter([data[at : at + size] for at in range(0, len(data), size)])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = next(self._parts, b"")
        buffer[: len(part)] = part
        return len(part)


def test_a_pipe_without_a_row_is_refused():
    for data in (b"", b"\n\n"):
        with pytest.raises(InputError, match="standard input is empty"):
            list(read_piped(io.BufferedReader(Pieces(data, 1)), HERE, lambda form: None))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("data", "images"),
    [
        (b"a.png\0b c.png\0d.png", ["a.png", "b c.png", "d.png"]),
        (b"a.png\0\0b.png\0", ["a.png", "b.png"]),
        (b"a.png\n\nb c.png\nd.png", ["a.png", "b c.png", "d.png"]),
        (b'{"image": "a.png", "question": "?"}\nb.png\n', ["a.png", "b.png"]),
    ],
)
def test_a_pipe_is_read_the_same_in_any_pieces(data: bytes, images: list[str], size: int):
    stream = io.BufferedReader(Pieces(data, size))
    items = list(read_piped(stream, HERE, lambda form: None))
    assert [item.images[0] for item in items] == images
    assert all(item.problem is None for item in items)
