"""One row of a question file, in any of the spellings that users have, as an Item."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sts_cli.records import Item, Problem

ID = ("id", "question_id", "custom_id")
IMAGE = ("image", "images", "image_path", "file_name")
QUESTION = ("question", "prompt", "text")
ANSWER = ("answer", "answers")
EXAMPLE = '{"image": "a.jpg", "question": "..."}'
LONGEST_QUESTION = 100_000  # characters; more is a file pasted by mistake
SCHEMES = ("http://", "https://", "s3://", "gs://")


def item_of_line(line: bytes, number: int, folder: Path) -> Item:
    """The item of a JSON line; a line that cannot be read is an item with its problem."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return invalid(number, folder, f"not UTF-8 text (byte {error.start + 1})")
    if text.lstrip().startswith(("#", "//")):
        return invalid(number, folder, "comments are not JSON; remove the line")
    try:
        row = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return invalid(number, folder, f"not valid JSON ({reason})")
    if not isinstance(row, dict):
        return invalid(number, folder, f"not a JSON object; a line looks like {EXAMPLE}")
    return item_of(row, number, folder)


def item_of(row: Mapping[str, Any], number: int, folder: Path) -> Item:
    """The item of a row, the `number`-th of its file; images are relative to `folder`."""
    if isinstance(row.get("body"), dict):
        row = _openai(row)
    id_key, image_key, question_key, answer_key = (
        next((key for key in keys if row.get(key) is not None), keys[0])
        for keys in (ID, IMAGE, QUESTION, ANSWER)
    )
    used = {id_key, image_key, question_key, answer_key}
    extra = {key: value for key, value in row.items() if key not in used}
    id_ = row.get(id_key)
    name = str(number) if id_ is None else str(id_)
    images, answers = row.get(image_key), row.get(answer_key)
    question = row.get(question_key)

    def wrong(message: str) -> Item:
        said = question if isinstance(question, str) else ""
        return Item(
            id=name,
            images=tuple(images or ()) if _strings(images) else (),
            question=said[:LONGEST_QUESTION],
            folder=folder,
            extra=extra,
            problem=Problem("row_invalid", f"line {number}: {message}"),
        )

    if isinstance(id_, dict | list | bool | float):
        return wrong(f'"{id_key}" must be text or a whole number')
    if images is None:
        return wrong(f'no "image" key; a line looks like {EXAMPLE}')
    images = [images] if isinstance(images, str) else images
    if not _strings(images) or not images:
        return wrong(f'"{image_key}" must be a file name or a list of file names')
    for image in images:
        if image.lower().startswith(SCHEMES):
            return wrong(f"{image[:80]} is an address; sts reads local files, download it first")
        if "\0" in image or not image.strip():
            return wrong(f'"{image_key}" is not a file name')
    if question is None:
        return wrong(f'no "question" key; a line looks like {EXAMPLE}')
    if not isinstance(question, str):
        return wrong(f'"{question_key}" must be text')
    if not question.strip():
        return wrong("the question is empty")
    if len(question) > LONGEST_QUESTION:
        return wrong(f"the question has {len(question):,} characters; {LONGEST_QUESTION:,} at most")
    answers = [answers] if isinstance(answers, str | int) else answers
    if answers is not None and not isinstance(answers, list):
        return wrong(f'"{answer_key}" must be text or a list of texts')
    return Item(
        id=name,
        images=tuple(images),
        question=question,
        folder=folder,
        answers=tuple(str(answer) for answer in answers or ()),
        extra=extra,
    )


def invalid(number: int, folder: Path, message: str) -> Item:
    """An item for a line that gave nothing but trouble."""
    problem = Problem("row_invalid", f"line {number}: {message}")
    return Item(id=str(number), folder=folder, problem=problem)


def _openai(row: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAI batch request as a plain row: its last user message's text and images."""
    plain: dict[str, Any] = {"custom_id": row.get("custom_id")}
    messages = row["body"].get("messages")
    users = [
        message
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict) and message.get("role") == "user"
    ]
    content = users[-1].get("content") if users else None
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts, images = [], []
    for part in parts:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        if part.get("type") == "image_url":
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            images.append(url.removeprefix("file://") if isinstance(url, str) else url)
    plain["image"] = images or None
    plain["question"] = "\n".join(texts) or None
    return plain


def _strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
