"""Tasks of Label Studio, as it exports them: JSON with annotations, and JSON-MIN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

IMAGES = ("image", "img", "image_url", "captioning", "ocr")  # variables of its own templates
ANSWERS = ("answer", "caption", "transcription", "choice")
STORED, LOCAL = "/data/upload/", "/data/local-files/"


def is_task(row: Mapping[str, Any]) -> bool:
    """True if a row is a task with its data, or one of JSON-MIN."""
    if isinstance(row.get("data"), dict):
        return "annotations" in row or "completions" in row or "predictions" in row
    return {"annotation_id", "lead_time"} <= row.keys()


def fields_of_task(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ours that asks what the annotators answered; each of them gives an answer."""
    data = row["data"] if isinstance(row.get("data"), dict) else row
    image = next((key for key in IMAGES if isinstance(data.get(key), str)), None)
    truth = next((key for key in ANSWERS if key in data), None)  # named so by its own templates
    own = {key: value for key, value in data.items() if key not in (image, truth)}
    if data is not row:
        found = [pair for one in finished(row) for pair in answers_in(one.get("result"))]
    else:
        found = list(answers_in([{"value": {"text": data[truth]}}])) if truth else []
    asks = isinstance(data.get("question"), str) or any(kind == "choices" for kind, _ in found)
    return {
        **own,
        **({"id": row["id"]} if row.get("id") is not None else {}),
        "image": None if image is None else stored(data[image]),
        **({"answers" if asks else "caption": [text for _, text in found]} if found else {}),
    }


def finished(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The annotations of a task that were not cancelled."""
    every = row.get("annotations") or row.get("completions")
    for one in every if isinstance(every, list) else []:
        if isinstance(one, dict) and not one.get("was_cancelled"):
            yield one


def answers_in(results: object) -> Iterator[tuple[str, str]]:
    """The texts and choices among the results of an annotation, each with its kind."""
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        for kind in ("text", "choices"):
            found = value.get(kind)
            found = found.get("choices") if isinstance(found, dict) else found
            for text in found if isinstance(found, list) else [found]:
                if isinstance(text, str):
                    yield kind, text


def stored(address: str) -> str:
    """A path below Label Studio's media/upload, or below its root of local files."""
    parts = urlsplit(address)
    if parts.path.startswith(LOCAL):
        return parse_qs(parts.query).get("d", [""])[0]
    if address.startswith(STORED):
        return unquote(address[len(STORED) :])
    return address
