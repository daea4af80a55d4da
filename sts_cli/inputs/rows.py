"""One row of a question file, in any of the spellings that users have, as an Item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sts_cli.inputs.requests import fields_of_request, is_request
from sts_cli.records import Item, Problem, printable

# Known keys, the first that a row has counts.
ID = ("id", "question_id", "custom_id")
IMAGE = ("image", "images", "image_path", "file_name")
QUESTION = ("question", "prompt", "text")
ANSWER = ("answer",)

CAPTION = "What is in the image?"  # what is asked where nothing else is
LONGEST_QUESTION = 100_000  # characters
DEEPEST = 32  # levels of a row's unknown keys
EXAMPLE = '{"image": "a.jpg", "question": "..."}'


class RowInvalid(ValueError):
    """Why a row asks nothing that can be answered."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows come from, and what they leave out."""

    name: str  # as messages call it
    folder: Path  # what image names are relative to
    question: str | None = None  # for rows without one


def item_of(row: object, line: int, origin: Origin) -> Item:
    """The item that a row asks for; a row that cannot be answered keeps its `problem`."""
    identity, question = str(line), ""
    images: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    extra: dict[str, Any] = {}
    problem = None
    try:
        if not isinstance(row, dict):
            raise RowInvalid(f"not a JSON object. A line looks like {EXAMPLE}")
        fields = fields_of_request(row) if is_request(row) else row
        identity = read_id(fields, line)
        images = read_images(fields)
        answers = read_answers(fields)
        extra = {printable(key): clean(fields[key]) for key in fields if key not in known(fields)}
        question = read_question(fields, origin.question)
    except ValueError as error:
        problem = Problem("row_invalid", f"{origin.name}:{line}: {error}")
    return Item(identity, images, question, origin.folder, answers, extra, problem)


def invalid(line: int, origin: Origin, reason: str) -> Item:
    """The item of a line that is not even a row."""
    problem = Problem("row_invalid", f"{origin.name}:{line}: {reason}")
    return Item(str(line), folder=origin.folder, problem=problem)


def known(row: Mapping[str, Any]) -> set[str]:
    """The keys of a row that have a meaning here; all others go to `extra`."""
    keys = {first(row, names) for names in (ID, IMAGE, QUESTION, ANSWER)}
    if is_image_folder(row):
        keys.add("text")
    return {key for key in keys if key is not None}


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of `names` that a row gives a value for."""
    return next((name for name in names if row.get(name) is not None), None)


def is_image_folder(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of an ImageFolder's metadata, where `text` is the caption."""
    return "file_name" in row and not any(key in row for key in ("question", "prompt", *ID))


def read_id(row: Mapping[str, Any], line: int) -> str:
    key = first(row, ID)
    if key is None:
        return str(line)
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RowInvalid(f'"{key}" must be text or a whole number, not {kind(value)}.')
    return printable(str(value))


def read_images(row: Mapping[str, Any]) -> tuple[str, ...]:
    key = first(row, IMAGE)
    if key is None:
        raise RowInvalid(f'no "image" key. A line looks like {EXAMPLE}')
    names = row[key] if isinstance(row[key], list) else [row[key]]
    if not names:
        raise RowInvalid(f'"{key}" lists no image.')
    for name in names:
        if not isinstance(name, str):
            raise RowInvalid(f'"{key}" must be a file name or a list of them, not {kind(name)}.')
        if not name.strip():
            raise RowInvalid(f'"{key}" is empty.')
        if "\0" in name:
            raise RowInvalid(f'"{key}" has a null byte in it.')
        if name.lower().startswith(("http://", "https://", "ftp://", "s3://", "gs://")):
            raise RowInvalid(
                f"{name[:80]} is a web address; sts works offline. Download the image first."
            )
    return tuple(names)


def read_question(row: Mapping[str, Any], default: str | None) -> str:
    key = first(row, QUESTION)
    if key is None or (key == "text" and is_image_folder(row)):
        if default is None and is_image_folder(row):
            default = CAPTION
        if default is None:
            raise RowInvalid('no "question" key. Add one, or ask all rows the same: --question')
        return default
    value = row[key]
    if not isinstance(value, str):
        raise RowInvalid(f'"{key}" must be text, not {kind(value)}.')
    if not value.strip():
        raise RowInvalid(f'"{key}" is empty.')
    if len(value) > LONGEST_QUESTION:
        raise RowInvalid(
            f'"{key}" has {len(value):,} characters; the limit is {LONGEST_QUESTION:,}.'
        )
    if "\0" in value:
        raise RowInvalid(f'"{key}" has a null byte in it.')
    if printable(value) != value:
        raise RowInvalid(f'"{key}" is not valid text: it has half of a surrogate pair in it.')
    return value


def read_answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    key = "text" if is_image_folder(row) and "text" in row else first(row, ANSWER)
    if key is None:
        return ()
    value = row[key]
    values = value if isinstance(value, list) else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise RowInvalid(f'"{key}" must be text or a list of texts, not {kind(one)}.')
    return tuple(printable(str(one)) for one in values)


def clean(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can carry it: no NaN, no half characters, not too deep."""
    if depth > DEEPEST:
        raise RowInvalid(f"nested deeper than {DEEPEST} levels.")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [clean(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {printable(key): clean(one, depth + 1) for key, one in value.items()}
    return value


def kind(value: object) -> str:
    """What a JSON value is called."""
    names = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "text")
