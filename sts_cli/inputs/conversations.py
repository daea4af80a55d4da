"""Conversations that models are trained on: LLaVA's, ShareGPT's, and lists of chat messages.

The first turn of a human is asked, and the next answer is its truth. Later turns are left out, so
that no answer comes into a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sts_cli.inputs.requests import in_order, parts

LISTS = ("conversations", "messages", "conversation")
HUMAN, MODEL, SYSTEM = {"human", "user"}, {"gpt", "assistant", "chatgpt", "bot"}, {"system"}
PLACE = "<image>"


def is_conversation(row: Mapping[str, Any]) -> bool:
    """True if a row has a list of turns, each with somebody who speaks."""
    key = key_of(row)
    return key is not None and all(
        isinstance(turn, dict) and ("from" in turn or "role" in turn) for turn in row[key]
    )


def key_of(row: Mapping[str, Any]) -> str | None:
    return next((key for key in LISTS if isinstance(row.get(key), list) and row[key]), None)


def fields_of_conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ours that asks the first question of a conversation. Raises ValueError."""
    key = key_of(row)
    assert key is not None
    turns = [(str(turn.get("from", turn.get("role"))).lower(), turn) for turn in row[key]]
    asked = next((n for n, (who, _) in enumerate(turns) if who in HUMAN), None)
    if asked is None:
        raise ValueError(f'"{key}" has no turn of a human or user.')
    before = [turn for who, turn in turns[:asked] if who in SYSTEM]
    told = [part for turn in [*before, turns[asked][1]] for part in parts(said(turn))]
    after = turns[asked + 1 : asked + 2]
    truth = [text for who, turn in after if who in MODEL for _, text in parts(said(turn))]
    images = images_of(row)
    used = (key, "images") if images else (key,)
    rest = {name: value for name, value in row.items() if name not in used}
    return {**rest, **placed(told, images), **({"answer": truth[0]} if truth else {})}


def said(turn: Mapping[str, Any]) -> object:
    """A turn's text or parts; a part that is an image of the row becomes its name in texts."""
    content = turn.get("value", turn.get("content"))
    if not isinstance(content, list):
        return content
    return [{"type": "text", "text": PLACE} if is_place(part) else part for part in content]


def is_place(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type") == "image"
        and not isinstance(part.get("image"), str)
    )


def images_of(row: Mapping[str, Any]) -> list[Any]:
    value = row.get("image") or row.get("images") or []
    return value if isinstance(value, list) else [value]


def placed(told: list[tuple[str, str]], images: list[Any]) -> dict[str, Any]:
    """Question and images: in the turn's parts, or of the row and named in the text as <image>.

    One image comes first, as LLaVA trains with it wherever it stands; several stay in their places.
    """
    if any(kind == "image" for kind, _ in told):
        return in_order(told)
    text = "\n".join(value for _, value in told)
    named = text.count(PLACE)
    if named > len(images) and images:
        raise ValueError(f"the first turn names {named} images, but the row has {len(images)}.")
    if named < 2:
        return {
            "image": images[: named or None] or None,
            "question": text.replace(f"{PLACE}\n", "").replace(PLACE, "").strip(),
        }
    pieces = [piece.strip() for piece in text.split(PLACE)]
    asked: list[tuple[str, Any]] = [("text", pieces[0])] if pieces[0] else []
    for image, piece in zip(images, pieces[1:], strict=False):
        asked += [("image", image), *([("text", piece)] if piece else [])]
    return in_order(asked)
