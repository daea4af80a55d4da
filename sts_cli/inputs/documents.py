"""Question files that are one JSON document: a list of rows, or what a benchmark puts around it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sts_cli.errors import InputError
from sts_cli.inputs.forms import IMAGE
from sts_cli.inputs.lines import read_lines
from sts_cli.inputs.requests import is_request
from sts_cli.inputs.rows import EXAMPLE, Origin, item_of
from sts_cli.inputs.survey import Contents, Survey
from sts_cli.records import Item, printable

LARGEST_DOCUMENT = 1 << 30  # bytes; it is read as a whole, unlike JSON lines
AROUND = ("questions", "data", "rows")  # keys of a document that hold its rows


def is_json_lines(path: Path) -> bool:
    """True if a file named .json holds one row a line, as POPE's do."""
    with path.open("rb") as file:
        _, line = next(read_lines(file), (0, None))
        more = bool(file.read(1))
    try:
        row = json.loads(line or b"null")
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and not is_document(row) and (more or is_row(row))


def is_document(data: dict[str, Any]) -> bool:
    lists = {key for key, value in data.items() if isinstance(value, list)}
    return "questions" in data or bool(lists & {*AROUND}) or {"images", "annotations"} <= lists


def is_row(row: dict[str, Any]) -> bool:
    return is_request(row) or any(key in row for key in IMAGE)


def open_document(path: Path, name: str) -> Contents:
    """Read a document as a whole. Raises InputError for one without rows."""
    content, data = load(path, name)
    survey = Survey(0, hashlib.sha256(content).hexdigest())
    form = None
    if isinstance(data, dict) and isinstance(data.get("questions"), list):
        rows = with_coco_names(data["questions"], coco_name(data))
        form = "OK-VQA" if "question_types" in data else None
        if is_vqav2(rows):
            form, rows, survey = with_annotations(path, form, rows, survey)
    elif isinstance(data, dict):
        rows = rows_in(data, name)
    else:
        rows = data
    if not isinstance(rows, list):
        raise InputError(
            f"{name} is neither a list of rows nor VQAv2's {{'questions': [...]}}. "
            f"A row looks like {EXAMPLE}"
        )
    survey = Survey(len(rows), survey.sha256)

    def items(origin: Origin) -> Iterator[Item]:
        return (item_of(row, number, origin) for number, row in enumerate(rows, 1))

    return Contents(items, lambda: survey, rows[0] if rows else None, form)


def load(path: Path, name: str) -> tuple[bytes, Any]:
    """The bytes of a JSON file, and what they say. Raises InputError."""
    if path.stat().st_size > LARGEST_DOCUMENT:
        raise InputError(f"{name} is larger than 1 GiB; use JSON lines such as {EXAMPLE}")
    try:
        content = path.read_bytes()
        return content, json.loads(content, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {str(error)[:200]}.") from error


def rows_in(data: dict[str, Any], name: str) -> list[Any]:
    """The rows of a document of other benchmarks. Raises InputError, which says what is missing."""
    around = next((key for key in AROUND if isinstance(data.get(key), list)), None)
    if around:
        return list(data[around])
    images, notes = data.get("images"), data.get("annotations")
    if isinstance(images, list) and isinstance(notes, list):
        if not any(isinstance(note, dict) and "caption" in note for note in notes):
            raise InputError(f"{name}: its annotations have no captions; boxes are not asked.")
        return captions(images, notes)
    if isinstance(notes, list):
        raise InputError(
            f"{name} holds annotations without questions. Give the file of the questions; "
            "annotations beside it are read with it."
        )
    rows = [{"id": key, **row} for key, row in data.items() if isinstance(row, dict)]
    if rows and len(rows) == len(data) and all("question" in row for row in rows):
        return [by_split(row) for row in rows]
    keys = ", ".join(printable(key)[:20] for key in list(data)[:5])
    raise InputError(
        f"{name} has the keys {keys or '(none)'}, and neither a list of rows ({', '.join(AROUND)}) "
        f"nor GQA's rows by id. A row looks like {EXAMPLE}"
    )


def by_split(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose image is where ScienceQA keeps it: in a folder of its split and id."""
    if isinstance(row.get("image"), str) and {"split", "choices"} <= row.keys():
        return {**row, "image": f"{row['split']}/{row['id']}/{row['image']}"}
    return row


def captions(images: list[Any], notes: list[Any]) -> list[Any]:
    """A row for each image of COCO's captions, with all captions of it."""
    said: dict[object, list[Any]] = {}
    for note in notes:
        if isinstance(note, dict) and isinstance(note.get("caption"), str):
            said.setdefault(str(note.get("image_id")), []).append(note["caption"].strip())
    return [
        {
            "id": image.get("id"),
            "image": image.get("file_name"),
            "caption": said.get(str(image.get("id")), []),
        }
        if isinstance(image, dict)
        else image
        for image in images
    ]


# VQAv2 and OK-VQA: questions in one file, answers in another


def is_vqav2(rows: list[Any]) -> bool:
    return bool(rows) and all(
        isinstance(row, dict) and {"question_id", "image_id"} <= row.keys() for row in rows
    )


def with_annotations(
    path: Path, form: str | None, rows: list[Any], survey: Survey
) -> tuple[str, list[Any], Survey]:
    """The rows with the answers of the annotations beside their file, if there are any."""
    beside = annotations_of(path)
    if beside is None:
        return form or "VQAv2 (no annotations beside it)", rows, survey
    content, data = load(beside, printable(beside.name))
    notes = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(notes, list):
        raise InputError(f"{printable(beside.name)} has no list of annotations; move it away.")
    kinds = data.get("question_types")
    kinds = kinds if isinstance(kinds, dict) else {}
    known = {
        str(note["question_id"]): note
        for note in notes
        if isinstance(note, dict) and "question_id" in note
    }
    rows = [{**row, **truth(known.get(str(row["question_id"])), kinds)} for row in rows]
    both = hashlib.sha256(f"{survey.sha256} {hashlib.sha256(content).hexdigest()}".encode())
    name = "OK-VQA" if form or kinds else "VQAv2"
    return f"{name} with {printable(beside.name)}", rows, Survey(0, both.hexdigest())


def annotations_of(path: Path) -> Path | None:
    """The file of the answers to a file of questions, as VQAv2 and OK-VQA name them."""
    if "questions" not in path.name:
        return None
    name = path.name.replace("questions", "annotations")
    places = [path.with_name(name.replace(part, "")) for part in ("OpenEnded_", "MultipleChoice_")]
    return next((place for place in places if place.is_file()), None)


def truth(note: Mapping[str, Any] | None, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """What an annotation adds to a row."""
    if note is None:
        return {}
    kept = ("answers", "answer_type", "question_type")
    kind = kinds.get(str(note.get("question_type")))
    return {**{key: note[key] for key in kept if key in note}, **({"kind": kind} if kind else {})}


def with_coco_names(rows: list[Any], template: str) -> list[Any]:
    """The rows, with the image of each that has none named as COCO names it."""
    return [
        {**row, "image": coco_image(row.get("image_id"), template)}
        if isinstance(row, dict) and "image_id" in row and not any(key in row for key in IMAGE)
        else row
        for row in rows
    ]


def coco_image(number: object, template: str) -> str:
    return template.format(f"{number:012d}" if isinstance(number, int) else number)


def coco_name(data: dict[str, Any]) -> str:
    """The pattern of image names in a VQAv2 file, such as COCO_val2014_000000000042.jpg."""
    subtype = data.get("data_subtype")
    if isinstance(subtype, str) and subtype:
        return f"COCO_{subtype.replace('{', '').replace('}', '')}_{{}}.jpg"
    return "{}.jpg"
