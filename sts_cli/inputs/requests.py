"""Requests of OpenAI's batch format: one chat completion with image parts a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
ONE_ANSWER: dict[str, tuple[Any, ...]] = {"n": (None, 1), "tools": (None, [])}


def is_request(row: Mapping[str, Any]) -> bool:
    """True if a row is a batch request rather than a question of ours."""
    return "body" in row and ("custom_id" in row or "url" in row)


def fields_of_request(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ours that asks the same: custom_id, image, question, and settings as extras.

    Raises ValueError for what one question about images cannot say, such as a dialogue.
    """
    body = row["body"]
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError('"body" has no list of "messages".')
    asked: list[tuple[str, str]] = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user"):
            raise ValueError(
                f"a message of role {role!r}; a request asks one question, as system and user."
            )
        asked += parts(message.get("content"))
    for key, fine in ONE_ANSWER.items():
        if body.get(key) not in fine:
            raise ValueError(f'"{key}" in "body" asks for what sts does not do; leave it out.')
    limit = next((body[key] for key in LIMITS if body.get(key) is not None), None)
    settings = {key: value for key, value in body.items() if key != "messages"}
    return {
        "custom_id": row.get("custom_id"),
        **in_order(asked),
        **({"max_new_tokens": limit} if limit is not None else {}),
        **({"body": settings} if settings else {}),
    }


def in_order(asked: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Texts and images as `image`, `question` and, where a text precedes an image, `image_at`.

    `image_at` is the character of the question that each image stands before.
    """
    question, images, places = "", [], []
    for kind, value in asked:
        if kind == "image":
            images.append(value)
            places.append(len(question) + bool(question))
        else:
            question += f"\n{value}" if question else value
    places = [min(place, len(question)) for place in places]
    return {
        "image": images or None,
        "question": question,
        **({"image_at": places} if any(places) else {}),
    }


def parts(content: object) -> Iterator[tuple[str, str]]:
    """The texts and images of a message's content, in order."""
    if isinstance(content, str):
        yield "text", content
        return
    if not isinstance(content, list):
        raise ValueError('a message\'s "content" must be text or a list of parts.')
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            yield "text", part["text"]
        elif kind in ("image_url", "input_image"):
            url = part.get("image_url")
            yield "image", address(url.get("url") if isinstance(url, dict) else url)
        elif kind == "image" and isinstance(part.get("image"), str):  # as Qwen's authors write it
            yield "image", part["image"]
        elif kind in ("file", "input_file"):
            file = part.get("file", part)
            yield "image", address(file.get("file_data") if isinstance(file, dict) else None)
        else:
            raise ValueError(f"a part of type {kind!r}; known: text, image_url, file.")


def address(url: object) -> str:
    if not isinstance(url, str):
        raise ValueError("an image part without an address.")
    return url
