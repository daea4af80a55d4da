"""Rows in forms that others ship, and our own answers asked again: the truth is never mistaken."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sts_cli.errors import InputError
from sts_cli.inputs.images import prepare
from sts_cli.inputs.items import open_input
from sts_cli.inputs.rows import CAPTION
from sts_cli.outputs.formats import format_named
from sts_cli.records import Answer, Item, Problem, answer_row

QUESTIONS = [
    {"id": "a", "image": "s.png", "question": "what?", "answer": "TRUTH", "kind": "text"},
    {"id": "b", "image": ["s.png", "t.png"], "question": "=how many?", "answer": ["7", "seven"]},
    {"id": "c", "image": "s.png", "question": "no truth?"},
    {"id": "d", "question": "no image?", "answer": "x"},
]
SUFFIX = {"jsonl": "jsonl", "csv": "csv", "llava": "jsonl", "openai-batch": "jsonl"}


def read(name: str, content: str | list[dict[str, Any]], folder: Path) -> list[Item]:
    lines = content if isinstance(content, str) else "".join(json.dumps(r) + "\n" for r in content)
    (folder / name).write_text(lines, encoding="utf-8")
    return list(open_input(str(folder / name)).items())


def answered(form: str, folder: Path) -> tuple[list[Item], list[Item]]:
    """The items of QUESTIONS, and those of a file of answers to them in a format."""
    items = read("q.jsonl", QUESTIONS, folder)
    wrote = format_named(form)
    place = folder / f"answers.{SUFFIX[form]}"
    answers = [Answer(one, "demo", "off", "MODEL", problem=one.problem) for one in items]
    records = (wrote.before(n == 0) + wrote.record(one) for n, one in enumerate(answers))
    place.write_bytes(b"".join(records))
    return items, list(open_input(str(place)).items())


@pytest.mark.parametrize("form", ["jsonl", "csv", "openai-batch", "llava"])
def test_answers_of_ours_ask_the_same_and_only_expected_is_their_truth(form: str, tmp_path: Path):
    before, again = answered(form, tmp_path)
    assert again[:3] == before[:3]
    assert again[0].answers == ("TRUTH",) and again[0].extra == {"kind": "text"}
    assert again[3].id == "d" and again[3].problem and 'no "image"' in again[3].problem.message


@pytest.mark.parametrize(
    "gone",
    [
        ("expected",),
        ("tokens", "seconds", "rows", "error"),
        ("profile", "model", "finish", "extra"),
        ("tokens", "seconds", "profile", "model", "finish", "rows", "error"),
    ],
)
def test_an_answer_is_no_truth_when_some_keys_were_taken_out(gone: tuple[str, ...], tmp_path: Path):
    item = Item("a", ("s.png",), "what?", answers=("TRUTH",))
    row = {k: v for k, v in answer_row(Answer(item, "m", "off", "MODEL")).items() if k not in gone}
    (again,) = read("a.jsonl", [row], tmp_path)
    assert again.answers == (() if "expected" in gone else ("TRUTH",))


def test_expected_of_nothing_does_not_make_an_answer_the_truth(tmp_path: Path):
    row = {"image": "s.png", "question": "what?", "answer": "MODEL", "expected": None}
    assert read("a.jsonl", [row], tmp_path)[0].answers == ()


def test_a_question_about_a_model_is_a_question(tmp_path: Path):
    row = {"image": "s.png", "question": "which car?", "answer": "yes", "model": "T"}
    (item,) = read("q.jsonl", [row], tmp_path)
    assert item.answers == ("yes",) and item.extra == {"model": "T"}


def test_an_answer_whose_image_was_in_the_question_file_says_so(tmp_path: Path):
    address = "data:image/png;base64,AAAA"
    answer = Answer(Item("a", (address,), "what?"), "m", "off", "x")
    (again,) = read("a.jsonl", [answer_row(answer)], tmp_path)
    assert again.problem and "only the digest of an image" in again.problem.message


# What others ship.


def test_pope_is_lines_under_json_and_its_label_is_the_truth(tmp_path: Path):
    rows = [
        {"question_id": n, "image": "s.png", "text": "Is there a dog?", "label": label}
        for n, label in enumerate(("yes", "no"), 1)
    ]
    found = read("coco_pope.json", rows, tmp_path)
    assert [(one.id, one.question, one.answers) for one in found] == [
        ("1", "Is there a dog?", ("yes",)),
        ("2", "Is there a dog?", ("no",)),
    ]
    assert read("one.json", rows[:1], tmp_path)[0] == found[0]
    assert open_input(str(tmp_path / "coco_pope.json")).kind == "jsonl"


def test_a_label_that_is_a_class_is_no_truth(tmp_path: Path):
    (item,) = read("q.jsonl", [{"image": "s.png", "text": "what?", "label": "cat"}], tmp_path)
    assert item.answers == () and item.extra == {"label": "cat"}


@pytest.mark.parametrize(
    "content",
    [
        '{"questions": [{"image": "a.png", "question": "?"}]}',
        '[{"image": "a.png", "question": "?"}]',
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_documents_stay_documents(content: str, indent: int | None, tmp_path: Path):
    text = json.dumps(json.loads(content), indent=indent) + "\n"
    (item,) = read("q.json", text, tmp_path)
    assert item.images == ("a.png",) and item.problem is None
    assert open_input(str(tmp_path / "q.json")).kind == "document"


def test_a_document_followed_by_another_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="not valid JSON"):
        read("q.json", '{"questions": []}\n{"questions": []}\n', tmp_path)


def embedded(form: str) -> str:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def test_mmbench_is_asked_with_its_options_and_its_image(tmp_path: Path):
    header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n"
    rows = (
        f"241\twhat is it?\tnan\tCAKE\tDOG\tnan\t\tA\tocr\t{embedded('png')}\n"
        f"7\twhich?\tLook twice.\t1\t2\t3\t4\tD\tcount\t{embedded('jpeg')}\n"
    )
    first, second = read("mmbench.tsv", header + rows, tmp_path)
    by_letter = "Answer with the option's letter from the given choices directly."
    assert (first.id, first.answers, first.extra) == (
        "241",
        ("A",),
        {"category": "ocr", "kind": "ocr"},
    )
    assert first.question == f"what is it?\nA. CAKE\nB. DOG\n{by_letter}"
    assert second.question == f"Look twice.\nwhich?\nA. 1\nB. 2\nC. 3\nD. 4\n{by_letter}"
    for item, kind in ((first, "png"), (second, "jpeg")):
        assert prepare(item).images[0].size == (40, 30)
        assert item.labels[0].startswith(f"data:image/{kind};") and len(item.labels[0]) < 40


@pytest.mark.parametrize("form", ["png", "jpeg", "gif", "webp", "bmp", "tiff"])
def test_base64_without_an_address_is_an_image_wherever_it_stands(form: str, tmp_path: Path):
    (item,) = read("q.jsonl", [{"image": embedded(form), "question": "?"}], tmp_path)
    ready = prepare(item)
    assert ready.item.problem is None and ready.images[0].size == (40, 30)


def test_what_is_neither_a_path_nor_an_image_does_not_fill_the_answers(tmp_path: Path):
    (item,) = read("q.jsonl", [{"image": "QUJD" * 5000, "question": "?"}], tmp_path)
    assert item.problem and "neither a path nor a whole image" in item.problem.message
    row = answer_row(Answer(item, "m", "off", problem=item.problem))
    assert isinstance(item.problem, Problem) and len(json.dumps(row)) < 1000


def test_a_path_that_begins_like_base64_is_a_path(tmp_path: Path):
    names = ["/9j/a", "Qk", "/9j/" + "a" * 80 + ".png", "iVBORw0KGgo" + "a-" * 40]
    rows = [{"image": name, "question": "?"} for name in names]
    assert [one.images[0] for one in read("q.jsonl", rows, tmp_path)] == names


CAPTIONED = [
    {"file_name": "s.png", "prompt": "a yellow sign", "id": "x"},
    {"file_name": "s.png", "prompt": "a sign"},
    {"file_name": "s.png", "caption": "a sign"},
    {"file_name": "s.png", "text": "a sign", "id": "y"},
]


@pytest.mark.parametrize("row", CAPTIONED, ids=json.dumps)
def test_a_caption_of_an_image_folder_is_the_truth_and_is_not_asked(
    row: dict[str, Any], tmp_path: Path
):
    read("metadata.jsonl", [row], tmp_path)
    (item,) = open_input(str(tmp_path)).items()
    caption = row.get("prompt") or row.get("caption") or row["text"]
    assert (item.question, item.answers, item.problem) == (CAPTION, (caption,), None)
    assert item.id == row.get("id", "1") and item.extra == {}


def test_a_question_of_an_image_folder_is_asked(tmp_path: Path):
    rows = [
        {"file_name": "s.png", "question": "why?", "text": "a sign"},
        {"file_name": "s.png", "prompt": "why?", "answer": "so"},
    ]
    first, second = read("metadata.jsonl", rows, tmp_path)
    assert (first.question, first.answers, first.extra) == ("why?", (), {"text": "a sign"})
    assert (second.question, second.answers) == ("why?", ("so",))


def test_a_prompt_of_a_question_file_is_asked(tmp_path: Path):
    (item,) = read("q.jsonl", [{"file_name": "s.png", "prompt": "why?"}], tmp_path)
    assert (item.question, item.answers) == ("why?", ())


def test_json_lines_that_end_in_cr_alone_say_what_to_do(tmp_path: Path):
    (item,) = read("q.jsonl", '{"image": "a", "question": "?"}\r' * 2, tmp_path)
    assert item.problem and "CR alone" in item.problem.message
