"""Benchmark and caption files as their authors ship them, without a conversion by hand."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sts_cli.errors import InputError
from sts_cli.inputs.images import prepare
from sts_cli.inputs.items import Input, open_input
from sts_cli.inputs.rows import CAPTION, Origin, item_of
from sts_cli.inputs.several import open_inputs
from sts_cli.machine.packages import to_install
from sts_cli.records import Answer, Item, answer_row

parquet = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
BY_LETTER = "Answer with the option's letter from the given choices directly."


def picture(form: str = "png", shade: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, 0, 0)).save(file, form)
    return file.getvalue()


def save(content: object, path: Path) -> Input:
    """The input of a file: a document as JSON, several rows as lines, text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return open_input(str(path))


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def only(found: Input) -> Item:
    (item,) = found.items()
    assert item.problem is None, item.problem
    assert found.count() == 1
    return item


def brief(item: Item) -> tuple[object, ...]:
    return item.id, item.images, item.question, item.answers, item.extra.get("kind")


# Documents. Each is drawn after the file that the benchmark's authors publish.

TEXTVQA = {
    "dataset_type": "val",
    "dataset_name": "textvqa",
    "data": [
        {
            "question_id": 34602,
            "question": "what is the brand of this camera?",
            "image_id": "003a8ae2ef43b901",
            "image_classes": ["Camera"],
            "flickr_original_url": "https://farm4.staticflickr.com/a.jpg",
            "image_width": 1024,
            "answers": ["nous les gosses", "dakota", "dakota", "clos culombu"],
            "set_name": "val",
        }
    ],
}
DOCVQA = {
    "dataset_name": "SP-DocVQA",
    "dataset_version": "1.0",
    "dataset_split": "val",
    "data": [
        {
            "questionId": 49153,
            "question": "What is the 'actual' value per 1000?",
            "question_types": ["figure/diagram", "layout"],
            "image": "documents/pybv0228_81.png",
            "docId": 14465,
            "ucsf_document_id": "pybv0228",
            "answers": ["0.28", ".28"],
            "data_split": "val",
        }
    ],
}
INFOGRAPHICS = {
    "dataset_name": "infographicsVQA",
    "data": [
        {
            "questionId": 98313,
            "question": "Which platform?",
            "image_local_name": "20471.jpeg",
            "image_url": "https://x.org/20471.jpeg",
            "answers": ["pinterest"],
        }
    ],
}
CHARTQA = [{"imgname": "41699051005347.png", "query": "How many bars?", "label": "14"}]
GQA = {
    "201307251": {
        "semantic": [{"operation": "select", "argument": "shirt (2317538)"}],
        "entailed": ["201307250"],
        "question": "Is the shirt red?",
        "imageId": "2354786",
        "isBalanced": True,
        "answer": "no",
        "fullAnswer": "No, the shirt is blue.",
        "types": {"detailed": "verifyColor", "semantic": "attr", "structural": "verify"},
    }
}
SCIENCEQA = {
    "5": {
        "question": "Which is the capital?",
        "choices": ["Austin", "Boise"],
        "answer": 1,
        "hint": "Look at the map.",
        "image": "image.png",
        "task": "closed choice",
        "subject": "social science",
        "lecture": "Maps",
        "solution": "It is Boise.",
        "split": "val",
    }
}
VIZWIZ = [
    {
        "image": "VizWiz_val_00000000.jpg",
        "question": "Ok. What is this?",
        "answers": [
            {"answer": "beef", "answer_confidence": "yes"},
            {"answer": "meat", "answer_confidence": "maybe"},
        ],
        "answer_type": "other",
        "answerable": 1,
    }
]
COCO = {
    "info": {},
    "images": [{"id": 9, "file_name": "COCO_val2014_000000000009.jpg", "height": 2}],
    "annotations": [
        {"image_id": 9, "id": 1, "caption": "A plate of food. "},
        {"image_id": 9, "id": 2, "caption": "Lunch."},
    ],
}
POPE = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"}
SHIPPED = [
    (
        "TextVQA",
        TEXTVQA,
        (
            "34602",
            ("003a8ae2ef43b901.jpg",),
            "what is the brand of this camera?",
            ("nous les gosses", "dakota", "dakota", "clos culombu"),
            None,
        ),
    ),
    (
        "DocVQA",
        DOCVQA,
        (
            "49153",
            ("documents/pybv0228_81.png",),
            "What is the 'actual' value per 1000?",
            ("0.28", ".28"),
            "figure/diagram, layout",
        ),
    ),
    ("DocVQA", INFOGRAPHICS, ("98313", ("20471.jpeg",), "Which platform?", ("pinterest",), None)),
    ("ChartQA", CHARTQA, ("1", ("41699051005347.png",), "How many bars?", ("14",), None)),
    ("GQA", GQA, ("201307251", ("2354786.jpg",), "Is the shirt red?", ("no",), "verify")),
    (
        "ScienceQA",
        SCIENCEQA,
        (
            "5",
            ("val/5/image.png",),
            f"Look at the map.\nWhich is the capital?\nA. Austin\nB. Boise\n{BY_LETTER}",
            ("B",),
            "social science",
        ),
    ),
    (
        "VQA",
        VIZWIZ,
        ("1", ("VizWiz_val_00000000.jpg",), "Ok. What is this?", ("beef", "meat"), "other"),
    ),
    (
        None,
        COCO,
        (
            "9",
            ("COCO_val2014_000000000009.jpg",),
            CAPTION,
            ("A plate of food.", "Lunch."),
            None,
        ),
    ),
    ("POPE", lines(POPE), ("1", ("a.jpg",), "Is there a dog in the image?", ("no",), None)),
]


@pytest.mark.parametrize(
    ("form", "document", "asked"), SHIPPED, ids=[str(form) for form, _, _ in SHIPPED]
)
def test_a_document_of_a_benchmark_is_read_as_it_ships(
    form: str | None, document: object, asked: tuple[object, ...], tmp_path: Path
):
    found = save(document, tmp_path / "benchmark.json")
    assert brief(only(found)) == asked and found.form == form


@pytest.mark.parametrize(
    ("form", "document", "asked"), SHIPPED, ids=[str(form) for form, _, _ in SHIPPED]
)
def test_answers_to_a_benchmark_ask_the_same_again(
    form: str | None, document: object, asked: tuple[object, ...], tmp_path: Path
):
    item = only(save(document, tmp_path / "benchmark.json"))
    again = save(lines(answer_row(Answer(item, "m", "off", "x"))), tmp_path / "answers.jsonl")
    assert only(again) == item


def test_questions_without_an_image_are_errors_that_keep_them(tmp_path: Path):
    """ScienceQA asks most of its questions about texts alone."""
    alone = {**SCIENCEQA["5"], "image": None}
    found = save({"1": alone, **SCIENCEQA, "9": alone}, tmp_path / "problems.json")
    first, second, third = found.items()
    assert found.form == "ScienceQA" and found.count() == 3 and second.problem is None
    for item, number in ((first, 1), (third, 3)):
        assert item.problem is not None and item.problem.kind == "row_invalid"
        assert item.problem.message == (
            f'problems.json:{number}: no "image" in this row, and sts asks about images only.'
        )
        assert (item.question, item.answers) == (second.question, ("B",))
        assert item.extra == second.extra


@pytest.mark.parametrize(
    ("document", "folder"),
    [(CHARTQA, "png"), (GQA, "images"), (TEXTVQA, "train_images"), (SCIENCEQA, "images")],
)
def test_images_are_found_where_a_benchmark_keeps_them(
    document: object, folder: str, tmp_path: Path
):
    (item,) = save(document, tmp_path / "q.json").items()
    assert item.folder == tmp_path
    place = tmp_path / folder / item.images[0]
    place.parent.mkdir(parents=True)
    place.write_bytes(picture())
    found = open_input(str(tmp_path / "q.json"))
    assert only(found).folder == tmp_path / folder == found.start
    assert prepare(only(found)).images[0].size == (30, 20)


VQA = {
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 42, "question": "how many?", "question_id": 42000},
        {"image_id": 42, "question": "what color?", "question_id": 42001},
    ],
}


def annotations(**more: Any) -> dict[str, Any]:
    answers = [{"answer": text, "answer_id": n} for n, text in enumerate(("2", "two", "2"), 1)]
    note = {
        "question_id": 42000,
        "image_id": 42,
        "answer_type": "number",
        "question_type": "one",
        "multiple_choice_answer": "2",
        "answers": answers,
    }
    return {"annotations": [note], **more}


def test_the_answers_of_vqav2_are_those_of_the_file_beside_its_questions(tmp_path: Path):
    place = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    alone = save(VQA, place)
    assert alone.form == "VQAv2 (no annotations beside it)"
    beside = tmp_path / "v2_mscoco_val2014_annotations.json"
    beside.write_text(json.dumps(annotations()))
    found = open_input(str(place))
    first, second = found.items()
    image = ("COCO_val2014_000000000042.jpg",)
    assert brief(first) == ("42000", image, "how many?", ("2", "two", "2"), "number")
    assert brief(second) == ("42001", image, "what color?", (), None)
    assert found.form == f"VQAv2 with {beside.name}"
    assert found.identity() != alone.identity()  # other truths are another input


def test_the_kinds_of_ok_vqa_are_those_that_it_names(tmp_path: Path):
    beside = tmp_path / "mscoco_val2014_annotations.json"
    beside.write_text(json.dumps(annotations(question_types={"one": "Vehicles"})))
    found = save(VQA, tmp_path / "OpenEnded_mscoco_val2014_questions.json")
    first, _ = found.items()
    assert first.extra["kind"] == "Vehicles" and found.form == f"OK-VQA with {beside.name}"


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        (annotations(), "annotations without questions"),
        ({"images": [], "annotations": [{"bbox": [1, 2, 3, 4]}]}, "no captions"),
        ({"a": 1, "b": 2}, "has the keys a, b"),
        ({}, r"\(none\)"),
        ({"1": {"question": "?"}, "2": {"text": "?"}}, "neither a list of rows"),
    ],
)
def test_a_document_that_asks_nothing_says_what_is_missing(
    document: object, missing: str, tmp_path: Path
):
    with pytest.raises(InputError, match=missing):
        save(document, tmp_path / "notes.json")


def test_an_index_in_an_image_cell_of_mmbench_is_the_image_of_that_row(tmp_path: Path):
    one, two = (base64.b64encode(picture(shade=shade)).decode() for shade in (10, 200))
    table = (
        "index\tquestion\tA\tB\tanswer\tcategory\timage\n"
        f"1000001\tlater?\tX\tY\tA\tocr\t7\n"
        f"7\twhich?\tX\tY\tB\tocr\t{two}\n"
        f"8\tother?\tX\tY\tB\tlogic\t{one}\n"
        f"9\tgone?\tX\tY\tB\tlogic\t77\n"
    )
    found = save(table, tmp_path / "mmbench_dev.tsv")
    borrowed, lender, other, gone = found.items()
    assert found.form == "MMBench" and found.count() == 4
    assert borrowed.images == lender.images != other.images
    assert (borrowed.id, borrowed.extra["kind"]) == ("1000001", "ocr")
    assert prepare(borrowed).images[0].getpixel((0, 0)) == (200, 0, 0)
    problem = prepare(gone).item.problem
    assert problem is not None and problem.kind == "image_missing"


@pytest.mark.parametrize(
    ("answer", "letter"), [(1, "B"), ("1", "B"), ("Boise", "B"), ("A", "A"), (7, "7")]
)
def test_a_list_of_options_is_asked_by_letters(answer: object, letter: str, tmp_path: Path):
    row = {"image": "a.png", "question": "?", "options": ["Austin", "Boise"], "answer": answer}
    found = save(lines(row), tmp_path / "q.jsonl")
    assert only(found).question == f"?\nA. Austin\nB. Boise\n{BY_LETTER}"
    assert only(found).answers == (letter,) and found.form == "multiple choice"


def test_an_option_that_is_a_number_is_meant_before_its_place(tmp_path: Path):
    row = {"image": "a.png", "question": "?", "options": ["2", "1", "0"], "answer": "0"}
    assert only(save(lines(row), tmp_path / "q.jsonl")).answers == ("C",)


# Conversations


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


CONVERSATIONS = [
    ({"image": "a.jpg", "conversations": turns("<image>\nWhy?", "TRUTH", "And?", "LATER")}, "Why?"),
    ({"image": "a.jpg", "conversations": turns("Why?\n<image>", "TRUTH", "And?", "LATER")}, "Why?"),
    ({"images": ["a.jpg"], "messages": messages("<image>Why?", "TRUTH", "x", "LATER")}, "Why?"),
    ({"image": "a.jpg", "conversations": turns("Why?", "TRUTH")}, "Why?"),
    (
        {
            "image": "a.jpg",
            "conversations": [{"from": "system", "value": "Be brief."}, *turns("Why?", "TRUTH")],
        },
        "Be brief.\nWhy?",
    ),
    (
        {
            "images": ["a.jpg"],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]},
                *messages("Why?", "TRUTH")[1:],
            ],
        },
        "Why?",
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "a.jpg"},
                        {"type": "text", "text": "Why?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "TRUTH"}]},
            ],
        },
        "Why?",
    ),
    (
        {
            "image": "a.jpg",
            "conversations": [{"from": "gpt", "value": "LATER"}, *turns("<image>\nWhy?", "TRUTH")],
        },
        "Why?",
    ),
]


@pytest.mark.parametrize(("row", "question"), CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_the_first_turn_of_a_conversation_is_asked_and_nothing_else_comes_into_the_prompt(
    row: dict[str, Any], question: str, tmp_path: Path
):
    found = save([{"id": "c1", **row}], tmp_path / "llava.json")
    item = only(found)
    assert brief(item) == ("c1", ("a.jpg",), question, ("TRUTH",), None)
    assert "LATER" not in json.dumps(dict(item.extra)) and found.form == "conversations"


def test_several_images_of_a_conversation_stay_in_their_places(tmp_path: Path):
    said = turns("Compare\n<image>\nwith\n<image>\nnow", "TRUTH", "And <image>?", "LATER")
    row = {"images": ["a.jpg", "b.jpg", "c.jpg"], "conversations": said}
    item = only(save(lines(row), tmp_path / "q.jsonl"))
    assert item.images == ("a.jpg", "b.jpg") and item.question == "Compare\nwith\nnow"
    assert [item.question[place:] for place in item.image_at] == ["with\nnow", "now"]


@pytest.mark.parametrize(
    ("said", "images", "reason"),
    [
        (turns("<image><image>?", "x"), ["a.jpg"], "names 2 images, but the row has 1"),
        ([{"from": "gpt", "value": "x"}], ["a.jpg"], "no turn of a human"),
        ([{"from": "human", "value": 5}], ["a.jpg"], "must be text"),
        (turns("<image>\n", "x"), ["a.jpg"], "is empty"),
        (turns("Why?", "x"), [], "lists no image"),
    ],
)
def test_a_conversation_that_asks_nothing_is_a_problem_of_its_row(
    said: object, images: list[str], reason: str, tmp_path: Path
):
    row = {"id": "c", "images": images, "conversations": said}
    (item,) = save(lines(row), tmp_path / "q.jsonl").items()
    assert item.problem and reason in item.problem.message


# Label Studio


def task(*results: dict[str, Any], **data: Any) -> dict[str, Any]:
    marked = [{"id": 5, "was_cancelled": False, "result": list(results)}]
    cancelled = {"id": 6, "was_cancelled": True, "result": [{"value": {"text": ["CANCELLED"]}}]}
    image = "/data/upload/3/8f-a%20b.jpg"
    return {
        "id": 11,
        "annotations": [*marked, cancelled],
        "data": {"image": image, **data},
        "project": 3,
    }


CAPTIONED = {"from_name": "caption", "type": "textarea", "value": {"text": ["A cat", "A pet"]}}
CHOSEN = {"from_name": "kind", "type": "choices", "value": {"choices": ["Cat"]}}
BOXED = {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["Car"]}}


def test_a_task_of_label_studio_asks_what_its_annotators_answered(tmp_path: Path):
    found = save([task(CAPTIONED, BOXED)], tmp_path / "export.json")
    assert brief(only(found)) == ("11", ("3/8f-a b.jpg",), CAPTION, ("A cat", "A pet"), None)
    assert found.form == "Label Studio"
    asked = only(save([task(CHOSEN, question="Which?")], tmp_path / "vqa.json"))
    assert (asked.question, asked.answers) == ("Which?", ("Cat",))


def test_classes_of_label_studio_need_a_question(tmp_path: Path):
    (tmp_path / "x.json").write_text(json.dumps([task(CHOSEN)]))
    (item,) = open_input(str(tmp_path / "x.json")).items()
    assert item.problem and "--question" in item.problem.message
    asked = only(open_input(str(tmp_path / "x.json"), "Which animal?"))
    assert (asked.question, asked.answers) == ("Which animal?", ("Cat",))


def test_the_small_export_of_label_studio_is_read(tmp_path: Path):
    row = {
        "image": "/data/local-files/?d=photos/a.jpg",
        "id": 1,
        "caption": "A cat",
        "annotator": 1,
        "annotation_id": 4,
        "created_at": "2026-01-01",
        "lead_time": 3.5,
    }
    item = only(save([row], tmp_path / "min.json"))
    assert brief(item) == ("1", ("photos/a.jpg",), CAPTION, ("A cat",), None)


# Whatever stands in a row, it is an item, with a problem or not

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.just([]),
    st.just({}),
    st.just([[{}]]),
    st.just({"a": [None]}),
    st.just([None, 1]),
)
MMBENCH = {"index": 1, "question": "?", "A": "x", "B": "y", "category": "ocr", "image": "a.png"}
REQUEST = {
    "custom_id": "r",
    "body": {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "text"}]}]},
}
ROWS = [
    *TEXTVQA["data"],
    *DOCVQA["data"],
    *INFOGRAPHICS["data"],
    *CHARTQA,
    *GQA.values(),
    *SCIENCEQA.values(),
    *VIZWIZ,
    POPE,
    MMBENCH,
    REQUEST,
    *(row for row, _ in CONVERSATIONS),
    task(CAPTIONED, BOXED),
    task(CHOSEN, question="Which?"),
    {"image": {"bytes": "x", "path": "y"}, "caption": "z", "image_at": [0], "max_new_tokens": 2},
]
DOCUMENTS = [TEXTVQA, GQA, SCIENCEQA, COCO, VQA, annotations()]


def replaced(value: Any, draw: st.DrawFn) -> Any:
    """The value with junk in one place of it."""
    if isinstance(value, dict | list) and value and draw(st.booleans()):
        places = list(value) if isinstance(value, dict) else range(len(value))
        place = draw(st.sampled_from(places))
        copied = value.copy()
        copied[place] = replaced(value[place], draw)
        return copied
    return draw(JUNK)


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_junk_in_a_row_of_any_form_is_at_most_a_problem(data: st.DataObject):
    row = replaced(data.draw(st.sampled_from(ROWS)), data.draw)
    item = item_of(row, 1, Origin("q", Path(), "?"))
    json.dumps(answer_row(Answer(item, "m", "off", problem=item.problem)))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_junk_in_a_document_is_refused_or_a_problem_of_a_row(data: st.DataObject):
    document = replaced(data.draw(st.sampled_from(DOCUMENTS)), data.draw)
    with TemporaryDirectory() as folder:
        beside = replaced(annotations(question_types={"one": "x"}), data.draw)
        Path(folder, "annotations.json").write_text(json.dumps(beside))
        place = Path(folder, "OpenEnded_questions.json")
        place.write_text(json.dumps(document))
        with contextlib.suppress(InputError):
            for item in open_input(str(place)).items():
                json.dumps(answer_row(Answer(item, "m", "off", problem=item.problem)))


# Images in the row

PNG = base64.b64encode(picture()).decode()
WRAPPED = "\n".join(PNG[n : n + 60] for n in range(0, len(PNG), 60))
SPELLINGS = [
    f"data:image/png;base64,{PNG}",
    f"DATA:IMAGE/PNG;BASE64, {PNG}",
    f"data:;base64,{PNG}",
    f"data:image/png;charset=utf-8;base64,{PNG}",
    f"data:image/png;base64,{WRAPPED}",
    f" data:image/png;base64,{PNG.rstrip('=')}",
    "data:image/png;base64," + PNG.replace("+", "-").replace("/", "_"),
    "data:image/png;base64," + PNG.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    PNG,
    f"\n{WRAPPED}\n",
    {"bytes": PNG, "path": "a.png"},
    {"bytes": None, "path": f"data:image/png;base64,{PNG}"},
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=range(len(SPELLINGS)))
def test_an_image_in_a_row_may_be_spelled_in_any_way(spelling: object, tmp_path: Path):
    item = only(save(lines({"image": spelling, "question": "?"}), tmp_path / "q.jsonl"))
    ready = prepare(item)
    assert ready.item.problem is None and ready.images[0].getpixel((0, 0)) == (90, 0, 0)
    assert len(item.labels[0]) < 60


def test_base64_of_addresses_that_is_longer_than_any_path_is_an_image(tmp_path: Path):
    file = io.BytesIO()
    Image.effect_noise((90, 90), 90).save(file, "png")
    text = base64.urlsafe_b64encode(file.getvalue()).decode()
    assert len(text) > 4096 and "_" in text and "-" in text
    item = only(save(lines({"image": text, "question": "?"}), tmp_path / "q.jsonl"))
    assert prepare(item).images[0].size == (90, 90)


@pytest.mark.parametrize("address", ["file://{}", "file://localhost{}", "FILE:{}"])
def test_a_file_address_is_a_path(address: str, tmp_path: Path):
    (tmp_path / "a b.png").write_bytes(picture())
    name = address.format(f"{tmp_path}/a%20b.png")
    item = only(save(lines({"image": name, "question": "?"}), tmp_path / "q.jsonl"))
    assert prepare(item).images[0].size == (30, 20)


def test_a_file_of_another_computer_is_refused(tmp_path: Path):
    row = {"image": "file://server/share/a.png", "question": "?"}
    (item,) = save(lines(row), tmp_path / "q.jsonl").items()
    assert item.problem and "another computer" in item.problem.message


# Captions


def test_captions_of_a_file_are_the_truth(tmp_path: Path):
    rows = ({"image": "a.jpg", "caption": "a cat"}, {"image": "a.jpg", "caption": ["x", "y"]})
    found = list(save(lines(*rows), tmp_path / "q.jsonl").items())
    assert [(one.question, one.answers) for one in found] == [
        (CAPTION, ("a cat",)),
        (CAPTION, ("x", "y")),
    ]


def test_an_image_folder_may_have_its_metadata_as_a_table(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a red card\n")
    found = open_input(str(tmp_path))
    assert (only(found).question, only(found).answers) == (CAPTION, ("a red card",))
    assert found.one_each and prepare(only(found)).images[0].size == (30, 20)


# Parquet and Arrow


@pytest.fixture
def table() -> Any:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    return pyarrow.table(
        {
            "questionId": ["7", "8", "9"],
            "question": ["a?", "b?", "c?"],
            "image": [
                {"bytes": picture(shade=10), "path": "a.png"},
                {"bytes": None, "path": "there.png"},
                None,
            ],
            "answers": [["x", "y"], ["z"], []],
            "docId": [1, 2, 3],
        }
    )


def written(table: Any, path: Path) -> Input:
    import pyarrow
    from pyarrow import ipc, parquet

    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=2)
    else:
        kind = ipc.new_file if path.suffix == ".feather" else ipc.new_stream
        with pyarrow.OSFile(str(path), "wb") as file, kind(file, table.schema) as writer:
            writer.write_table(table)
    return open_input(str(path))


@parquet
@pytest.mark.parametrize("name", ["q.parquet", "q.arrow", "q.feather"])
def test_rows_of_datasets_are_read_with_their_images(name: str, table: Any, tmp_path: Path):
    (tmp_path / "there.png").write_bytes(picture(shade=200))
    found = written(table, tmp_path / name)
    first, second, third = found.items()
    assert found.form == "DocVQA" and found.count() == 3
    assert (first.id, first.question, first.answers) == ("7", "a?", ("x", "y"))
    assert prepare(first).images[0].getpixel((0, 0)) == (10, 0, 0)
    assert prepare(second).images[0].getpixel((0, 0)) == (200, 0, 0)
    assert third.id == "9" and third.problem and 'no "image"' in third.problem.message


@parquet
def test_columns_that_json_does_not_have_are_carried_as_text(tmp_path: Path):
    import datetime

    import pyarrow

    found = written(
        pyarrow.table(
            {
                "photo": [{"bytes": picture(), "path": None}],
                "question": ["?"],
                "when": [datetime.date(2026, 1, 2)],
                "raw": [b"12345"],
                "few": pyarrow.array([1], pyarrow.uint8()),
            }
        ),
        tmp_path / "q.parquet",
    )
    item = only(found)
    assert item.extra == {"when": "2026-01-02", "raw": "(5 bytes)", "few": 1}
    assert prepare(item).images[0].size == (30, 20)
    json.dumps(answer_row(Answer(item, "m", "off", "x")))


@parquet
def test_an_image_folder_may_have_its_metadata_as_parquet(tmp_path: Path):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.png").write_bytes(picture())
    rows = pyarrow.table({"file_name": ["a.png"], "text": ["a red card"]})
    parquet.write_table(rows, tmp_path / "metadata.parquet")
    item = only(open_input(str(tmp_path)))
    assert (item.images, item.answers) == (("a.png",), ("a red card",))


@parquet
def test_parquet_without_images_or_damaged_is_refused(table: Any, tmp_path: Path):
    with pytest.raises(InputError, match="no column of images; its columns are questionId, quest"):
        written(table.drop_columns(["image"]), tmp_path / "q.parquet")
    written(table, tmp_path / "good.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="or damaged"):
        open_input(str(tmp_path / "bad.parquet"))


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as Python has it where it is not installed
    (tmp_path / "q.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=re.escape(to_install("pyarrow>=17"))):
        open_input(str(tmp_path / "q.parquet"))


# MMMU

MMMU: dict[str, Any] = {
    "id": "validation_Art_Theory_3",
    "question": "<image 1> Which of these is like <image 1> and <image 2>?",
    "options": "['Sully\\'s', '<image 3>']",
    "explanation": "",
    **{f"image_{number}": None for number in range(1, 8)},
    "img_type": "['Paintings']",
    "answer": "B",
    "topic_difficulty": "Medium",
    "question_type": "multiple-choice",
    "subfield": "Art Theory",
}
THREE = {"image_1": "1.png", "image_2": "2.png", "image_3": "3.png"}


def test_mmmu_has_its_images_where_it_names_them(tmp_path: Path):
    found = save(lines({**MMMU, **THREE}), tmp_path / "q.jsonl")
    item = only(found)
    assert found.form == "MMMU" and item.images == ("1.png", "2.png", "3.png")
    question = f"Which of these is like <image 1> and\n?\nA. Sully's\nB.\n{BY_LETTER}"
    assert item.question == question
    places = [question[place:].split("\n")[0] for place in item.image_at]
    assert places == ["Which of these is like <image 1> and", "?", BY_LETTER]
    assert (item.id, item.answers) == ("validation_Art_Theory_3", ("B",))
    assert item.extra["kind"] == "Art Theory" and "image_4" not in item.extra


@pytest.mark.parametrize(
    ("changes", "question", "answers"),
    [
        ({"options": "[]", "answer": "['7', 'seven']"}, "How many?", ("7", "seven")),
        ({"options": "[]", "answer": "7"}, "How many?", ("7",)),
        ({"options": ["6", "7"], "answer": "B"}, f"How many?\nA. 6\nB. 7\n{BY_LETTER}", ("B",)),
    ],
)
def test_mmmu_also_asks_open_questions(
    changes: dict[str, Any], question: str, answers: tuple[str, ...], tmp_path: Path
):
    row = {**MMMU, "image_1": "1.png", "question": "<image 1> How many?", **changes}
    item = only(save(lines(row), tmp_path / "q.jsonl"))
    assert (item.question, item.answers, item.image_at) == (question, answers, ())


def test_mmmu_names_images_that_it_lacks_and_has_some_that_it_does_not_name(tmp_path: Path):
    rows = [
        {**MMMU, "image_1": "1.png"},
        {**MMMU, **THREE, "question": "Which?", "options": ["a", "b"]},
    ]
    lacking, unnamed = save(lines(*rows), tmp_path / "q.jsonl").items()
    assert lacking.problem and '"image_2" is empty, but the question' in lacking.problem.message
    assert (unnamed.images, unnamed.image_at) == (("1.png", "2.png", "3.png"), ())


@parquet
def test_mmmu_is_read_as_datasets_keeps_it(tmp_path: Path):
    import pyarrow

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    shown = {"bytes": picture(shade=10), "path": "validation_Art_Theory_3_1.png"}
    row = {**MMMU, "question": "What is <image 1>?", "options": "[]", "answer": "ten"}
    columns = {key: [value] for key, value in row.items() if not key.startswith("image_")}
    images = {
        f"image_{number}": pyarrow.array([shown if number == 1 else None], kind)
        for number in range(1, 8)
    }
    found = written(pyarrow.table({**columns, **images}), tmp_path / "q.parquet")
    item = only(found)
    assert (found.form, item.question) == ("MMMU", "What is\n?")
    assert prepare(item).images[0].getpixel((0, 0)) == (10, 0, 0)


# WebDataset


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


SAMPLES = {
    "000/a.jpg": picture("jpeg"),
    "000/a.txt": b"a red card",
    "000/a.json": b'{"width": 30, "url": "https://x.org"}',
    "._hidden.jpg": b"x",
    "b.left.png": picture(shade=10),
    "b.right.png": picture(shade=200),
    "b.json": b'{"question": "which?", "answers": ["left", "the left"]}',
    "c.txt": b"no image",
    "d.png": picture(),
    "d.json": b"{broken",
}


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz")]
)
def test_neighbours_of_one_name_in_a_tar_are_a_row(name: str, mode: str, tmp_path: Path):
    found = open_input(str(tar(tmp_path / name, SAMPLES, mode)))
    captioned, asked, bare, broken = found.items()
    assert found.count() == 4 and found.form == "WebDataset"
    assert (captioned.id, captioned.question) == ("000/a", CAPTION)
    assert captioned.answers == ("a red card",) and captioned.extra["width"] == 30
    assert prepare(captioned).images[0].size == (30, 20)
    assert (asked.id, asked.question, asked.answers) == ("b", "which?", ("left", "the left"))
    shades = [image.getpixel((0, 0))[0] for image in prepare(asked).images]  # type: ignore[index]
    assert shades == [10, 200]
    assert bare.problem and 'no "image"' in bare.problem.message
    assert broken.problem and "d.json cannot be read" in broken.problem.message
    assert sorted(one.name for one in tmp_path.iterdir()) == [name]  # nothing was extracted


def test_members_that_are_no_files_or_lead_outside_write_nothing(tmp_path: Path):
    path = tmp_path / "in" / "s.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        outside = tarfile.TarInfo("../outside.png")
        outside.size = len(picture())
        archive.addfile(outside, io.BytesIO(picture()))
    item = only(open_input(str(path)))
    assert item.id == "../outside" and prepare(item).images[0].size == (30, 20)
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_a_tar_that_is_cut_off_is_refused(tmp_path: Path):
    path = tar(tmp_path / "s.tar", {"a.png": picture() * 50})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="no tar file, or damaged"):
        open_input(str(path))


def test_files_of_a_tar_that_are_too_large_are_not_read(tmp_path: Path):
    """As a .tar.gz it is small: 70 MB of blanks before a row that is fine."""
    blanks = b" " * ((64 << 20) + 1)
    files = {"a.png": picture(), "a.json": blanks, "b.png": picture()}
    path = tar(tmp_path / "s.tar.gz", files, "w:gz")
    assert path.stat().st_size < 1 << 20
    large, fine = open_input(str(path)).items()
    assert large.problem and "67,108,865 bytes, too many to read" in large.problem.message
    assert prepare(fine).images[0].size == (30, 20)


def test_a_name_in_a_tar_does_not_steer_a_terminal(tmp_path: Path):
    path = tar(tmp_path / "s.tar", {"a\x1b[2J.json": b"{", "b.png": picture()})
    done = subprocess.run(
        [sys.executable, "-m", "sts_cli", "batch", str(path), "--dry-run"],
        capture_output=True,
        text=True,
    )
    assert "cannot be read" in done.stdout and "\x1b" not in done.stdout + done.stderr


# Several inputs


def test_patterns_and_several_names_are_one_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x/1.png", "x/2.png", "y/1.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(picture())
    Path("y/q.jsonl").write_text(lines({"id": "q", "image": "1.png", "question": "why?"}))
    found = open_inputs(["x/*.png", "y", "y/q.jsonl"])
    assert [(one.id, one.images, one.question) for one in found.items()] == [
        ("x/1.png", ("x/1.png",), CAPTION),
        ("x/2.png", ("x/2.png",), CAPTION),
        ("y/1.png", ("y/1.png",), CAPTION),
        ("q", ("y/1.png",), "why?"),
    ]
    assert found.count() == 4 and not found.one_each
    assert open_inputs(["x/*.png"]).one_each
    assert all(prepare(one).images for one in found.items())
    assert found.identity() != open_inputs(["x/*.png", "y"]).identity()
    assert [one.images for one in found.items(2, (2, 2))] == [("x/2.png",), ("y/1.png",)]


def test_a_name_with_brackets_is_itself_before_it_is_a_pattern(tmp_path: Path):
    for name in ("a[1].png", "a1.png"):
        (tmp_path / name).write_bytes(picture())
    assert only(open_inputs([str(tmp_path / "a[1].png")])).id == "a[1].png"


def test_a_pattern_that_matches_nothing_and_stdin_among_others_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="Nothing matches"):
        open_inputs([str(tmp_path / "*.png")])
    with pytest.raises(InputError, match="goes with no other"):
        open_inputs(["-", str(tmp_path)])


def test_a_file_with_a_path_a_line_is_a_list_of_images(tmp_path: Path):
    (tmp_path / "a b.png").write_bytes(picture())
    found = save("a b.png\n\ngone.jpg\n", tmp_path / "list.txt")
    first, second = found.items()
    assert (first.id, first.question) == ("a b.png", CAPTION) and found.count() == 2
    assert prepare(first).images[0].size == (30, 20)
    problem = prepare(second).item.problem
    assert problem is not None and problem.kind == "image_missing"
    with pytest.raises(InputError, match="neither an image nor a question file"):
        save("Dear reader,\n", tmp_path / "letter.txt")
