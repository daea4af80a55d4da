"""Requests of OpenAI's batch format: one chat completion with image parts a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit


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
    texts: list[str] = []
    images: list[str] = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user"):
            raise ValueError(
                f"a message of role {role!r}; a request asks one question, as system and user."
            )
        for kind, value in parts(message.get("content")):
            (images if kind == "image" else texts).append(value)
    settings = {key: value for key, value in body.items() if key != "messages"}
    return {
        "custom_id": row.get("custom_id"),
        "image": images or None,
        "question": "\n".join(texts),
        **({"body": settings} if settings else {}),
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
            yield "image", location(url.get("url") if isinstance(url, dict) else url)
        elif kind in ("file", "input_file"):
            file = part.get("file", part)
            yield "image", location(file.get("file_data") if isinstance(file, dict) else None)
        else:
            raise ValueError(f"a part of type {kind!r}; known: text, image_url, file.")


def location(url: object) -> str:
    """An image's place: the path of a file: address, anything else as it stands."""
    if not isinstance(url, str):
        raise ValueError("an image part without an address.")
    if url.startswith("file:"):
        return unquote(urlsplit(url).path)
    return url
