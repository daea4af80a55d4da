"""One row of a question file, in any of the spellings that users have, as an Item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sts_cli.inputs.embedded import LONGEST_PATH, address_of
from sts_cli.inputs.forms import IMAGE, plain
from sts_cli.inputs.remote import Remote, is_remote
from sts_cli.records import Item, Problem, printable

# Known keys, the first that a row has counts.
ID = ("id", "question_id", "questionId", "custom_id", "index")
QUESTION = ("question", "prompt", "text", "query")
ANSWER = ("expected", "answers", "answer")
LABEL = "label"  # an accepted answer where it is yes or no
CAPTIONS = ("caption", "text", "prompt")  # of an ImageFolder's metadata
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
LIMIT, PLACES = "max_new_tokens", "image_at"  # settings of a row; they stay among the others

CAPTION = "What is in the image?"  # what is asked where nothing else is
LONGEST_QUESTION = 100_000  # characters
MOST_TOKENS = 100_000  # new ones that a row may ask for
DEEPEST = 32  # levels of a row's unknown keys
EXAMPLE = '{"image": "a.jpg", "question": "..."}'


class RowInvalid(ValueError):
    """The reason why a row asks nothing that can be answered."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The place that rows come from, and a question for those without one."""

    name: str  # as messages call it
    folder: Path  # what image names are relative to
    question: str | None = None  # for rows without one
    remote: bool = False  # True if rows may name images on object stores


@dataclass(frozen=True, slots=True)
class Roles:
    """The keys of a row that are its id, image, question and answer; all others are extra."""

    id: str | None
    image: str | None
    question: str | None
    answer: str | None


def item_of(row: object, line: int, origin: Origin) -> Item:
    """The item that a row asks for; a row that cannot be answered keeps its `problem`."""
    identity, question = str(line), ""
    images: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    extra: dict[str, Any] = {}
    problem = limit = None
    places: tuple[int, ...] = ()
    try:
        if not isinstance(row, dict):
            raise RowInvalid(f"not a JSON object. A line looks like {EXAMPLE}")
        fields = plain(row)
        roles = roles_of(fields, origin)
        identity = read_id(fields, roles.id, line)
        answers = read_answers(fields, roles.answer)
        empty = {key for key in IMAGE if fields.get(key, key) is None}
        used = {roles.id, roles.image, roles.question, roles.answer, *empty}
        extra = {printable(key): clean(fields[key]) for key in fields if key not in used}
        default = CAPTION if is_captioned(fields, origin) else None
        question = read_question(fields, roles.question, origin.question or default)
        images = read_images(fields, roles.image, origin.remote)
        limit = read_limit(fields)
        places = read_places(fields, len(images), len(question))
    except ValueError as error:
        problem = Problem("row_invalid", f"{origin.name}:{line}: {error}")
    return Item(identity, images, question, origin.folder, answers, extra, problem, places, limit)


def invalid(line: int, origin: Origin, reason: str) -> Item:
    """The item of a line that is not even a row."""
    problem = Problem("row_invalid", f"{origin.name}:{line}: {reason}")
    return Item(str(line), folder=origin.folder, problem=problem)


def roles_of(row: Mapping[str, Any], origin: Origin) -> Roles:
    """The roles of a row's keys, told by which of them it has.

    Beside `expected`, an `answer` is somebody's and not the truth.
    """
    image, question = first(row, IMAGE), first(row, QUESTION)
    answer = "expected" if "expected" in row else first(row, ANSWER)
    if answer is None and is_captioned(row, origin):
        return Roles(first(row, ID), image, None, first(row, CAPTIONS))
    if answer is None and str(row.get(LABEL)).strip().lower() in ("yes", "no"):
        answer = LABEL
    return Roles(first(row, ID), image, question, answer)


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of `names` that a row gives a value for."""
    return next((name for name in names if row.get(name) is not None), None)


def is_captioned(row: Mapping[str, Any], origin: Origin) -> bool:
    """True if the texts of a row say what its image shows, as an ImageFolder's do."""
    if row.get("question") is not None:
        return False
    if row.get("caption") is not None and first(row, QUESTION) is None:
        return True
    if "file_name" not in row:
        return False
    return origin.name in METADATA or not any(key in row for key in ("prompt", *ID))


def read_id(row: Mapping[str, Any], key: str | None, line: int) -> str:
    if key is None:
        return str(line)
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RowInvalid(f'"{key}" must be text or a whole number, not {kind(value)}.')
    return printable(str(value))


def read_images(row: Mapping[str, Any], key: str | None, remote: bool) -> tuple[str, ...]:
    if key is None and any(name in row for name in IMAGE):
        raise RowInvalid('no "image" in this row, and sts asks about images only.')
    if key is None:
        raise RowInvalid(f'no "image" key. A line looks like {EXAMPLE}')
    values = row[key] if isinstance(row[key], list) else [row[key]]
    names: list[Any] = [address_of(value) for value in values]
    if not names:
        raise RowInvalid(f'"{key}" lists no image.')
    for name in names:
        if not isinstance(name, str):
            raise RowInvalid(f'"{key}" must be a file name or a list of them, not {kind(name)}.')
        if not name.strip():
            raise RowInvalid(f'"{key}" is empty.')
        if "\0" in name:
            raise RowInvalid(f'"{key}" has a null byte in it.')
        if remote and is_remote(name):
            continue
        if name.lower().startswith(("http://", "https://", "ftp://", "s3://", "gs://")):
            raise RowInvalid(
                f"{name[:80]} is a web address; sts works offline. Download the image first."
            )
        if name.startswith("data:") and "," not in name:
            raise RowInvalid(
                f"{name[:80]} is only the digest of an image, from an answer file; take the image "
                "itself from the question file."
            )
        if len(name) > LONGEST_PATH and not name.startswith("data:"):
            raise RowInvalid(
                f'"{key}" has {len(name):,} characters, and is neither a path nor a whole image '
                "in base64."
            )
    return tuple(Remote(name) if remote and is_remote(name) else name for name in names)


def read_question(row: Mapping[str, Any], key: str | None, default: str | None) -> str:
    if key is None:
        if default is None:
            raise RowInvalid('no "question". Add one, or ask all rows the same: --question')
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


def read_answers(row: Mapping[str, Any], key: str | None) -> tuple[str, ...]:
    value = None if key is None else row[key]
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    values = [one["answer"] if isinstance(one, dict) and "answer" in one else one for one in values]
    for answer in values:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise RowInvalid(f'"{key}" must be text or a list of texts, not {kind(answer)}.')
    return tuple(printable(str(answer)) for answer in values)


def read_limit(row: Mapping[str, Any]) -> int | None:
    """The most new tokens that a row asks for."""
    value = row.get(LIMIT)
    if value is None:
        return None
    number = int(value) if str(value).isascii() and str(value).isdigit() else 0
    if isinstance(value, bool) or not 1 <= number <= MOST_TOKENS:
        raise RowInvalid(f'"{LIMIT}" must be a whole number of 1 to {MOST_TOKENS:,}.')
    return number


def read_places(row: Mapping[str, Any], images: int, length: int) -> tuple[int, ...]:
    """The character of the question that each image stands before."""
    value = row.get(PLACES)
    if value is None:
        return ()
    whole = isinstance(value, list) and all(type(place) is int for place in value)
    if not whole or len(value) != images or sorted([0, *value, length]) != [0, *value, length]:
        raise RowInvalid(f'"{PLACES}" must list a place in the question for each image, in order.')
    return tuple(value)


def clean(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can carry it: no NaN, no half characters, not too deep."""
    if depth > DEEPEST:
        raise RowInvalid(f"nested deeper than {DEEPEST} levels.")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [clean(element, depth + 1) for element in value]
    if isinstance(value, dict):
        return {printable(key): clean(inner, depth + 1) for key, inner in value.items()}
    return value


def kind(value: object) -> str:
    """The name of a JSON value's type in messages."""
    names = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "text")
