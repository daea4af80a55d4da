"""Rows of benchmarks and caption files as they ship, told by their keys, as rows of ours.

A benchmark is its name, the keys that tell it, and the row of ours that asks the same. What it
calls a kind of question becomes `kind`, by which `sts eval` groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sts_cli.inputs.choices import fields_of_choice, is_choice, lettered
from sts_cli.inputs.mmmu import fields_of_mmmu, is_mmmu

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """A form of rows: its name, the test for a row, and its row of ours.

    `fields` raises ValueError.
    """

    name: str
    fits: Callable[[Row], bool]
    fields: Callable[[Row], dict[str, Any]]


def has(*keys: str, one_of: tuple[str, ...] = ()) -> Callable[[Row], bool]:
    """A test for a row with all of `keys`, and one of some others."""
    return lambda row: (
        all(key in row for key in keys) and (not one_of or any(key in row for key in one_of))
    )


def with_kind(row: Row, kind: object) -> dict[str, Any]:
    """The row with its kind, unless it has one or there is none."""
    known = isinstance(kind, str) and kind.strip() not in ("", "nan")
    return {**({"kind": kind} if known else {}), **row}


def pope(row: Row) -> dict[str, Any]:
    return with_kind(row, row.get("category"))


def image_from(row: Row, key: str) -> dict[str, Any]:
    """The row with the image that `key` names, unless it has one."""
    rest = {name: value for name, value in row.items() if name != key}
    return {"image": row[key], **rest} if key in row else rest


def docvqa(row: Row) -> dict[str, Any]:
    kinds = row.get("question_types")
    kinds = kinds if isinstance(kinds, list) else []
    return with_kind(image_from(row, "image_local_name"), ", ".join(map(str, kinds)))


def chartqa(row: Row) -> dict[str, Any]:
    rest = {key: value for key, value in row.items() if key != "label"}
    made = {"0": "human", "1": "augmented"}.get(str(row.get("human_or_machine")))
    return with_kind({**image_from(rest, "imgname"), "answer": row["label"]}, made)


def by_image_id(row: Row) -> dict[str, Any]:
    """The row with the image's name, which the benchmark makes of its id."""
    key = next(key for key in ("imageId", "image_id") if key in row)
    return {**row, "image": row.get("image") or f"{row[key]}.jpg"}


def gqa(row: Row) -> dict[str, Any]:
    types = row.get("types")
    return with_kind(by_image_id(row), types.get("structural") if isinstance(types, dict) else None)


def vqa(row: Row) -> dict[str, Any]:
    """VQAv2 and VizWiz: the answers of ten people; the one that most gave is left to the scorer."""
    rest = {key: value for key, value in row.items() if key != "multiple_choice_answer"}
    rest = rest if "image" in rest or "image_id" not in rest else by_image_id(rest)
    return with_kind(rest, row.get("answer_type"))


def scienceqa(row: Row) -> dict[str, Any]:
    return fields_of_choice(lettered(with_kind(row, row.get("subject"))))


def mmbench(row: Row) -> dict[str, Any]:
    return fields_of_choice(with_kind(row, row.get("category")))


def is_pope(row: Row) -> bool:
    yes_no = str(row.get("label")).strip().lower() in ("yes", "no") and "text" in row
    return yes_no and "image" in row or has("image_source", "question", "category")(row)


def has_choices(row: Row) -> bool:
    return isinstance(row.get("question"), str) and lettered(row) is not row


BENCHMARKS = (
    Form("MMMU", is_mmmu, fields_of_mmmu),
    Form("MMBench", lambda row: is_choice(row) and has("index", "category")(row), mmbench),
    Form("multiple choice", is_choice, fields_of_choice),
    Form(
        "ScienceQA",
        lambda row: has_choices(row) and has(one_of=("lecture", "skill", "solution"))(row),
        scienceqa,
    ),
    Form("multiple choice", has_choices, lambda row: fields_of_choice(lettered(row))),
    Form("POPE", is_pope, pope),
    Form("DocVQA", has("questionId", "question"), docvqa),
    Form("ChartQA", has("query", "label", one_of=("imgname", "image")), chartqa),
    Form("GQA", has("imageId", "question"), gqa),
    Form(
        "TextVQA",
        has("image_id", "question", one_of=("image_classes", "ocr_tokens", "question_tokens")),
        by_image_id,
    ),
    Form("VQA", has("question", "answers", "answer_type"), vqa),
)
