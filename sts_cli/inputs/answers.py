"""Rows of our own answer files, read as the questions that they answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MARKS = ("tokens", "seconds", "profile", "finish", "model")
MEASURED = {
    *MARKS,
    *("answer", "rows", "error", "message", "full", "full_answer", "agree", "similarity"),
    *("certainty", "escalated"),
    *("speedup", "speedup_prefill", "speedup_total"),
}
FLAT = ("certainty_", "tokens_", "seconds_", "full_")  # how a table's columns of figures begin


def is_answer(keys: Iterable[str]) -> bool:
    """True if sts wrote a row, or a table, of these keys; some may have been taken out."""
    plain = {key.split("_")[0] if key.startswith(FLAT) else key for key in keys}
    return sum(mark in plain for mark in MARKS) >= 2 and {"image", "question"} <= plain


def answer_in(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Our row in a row of an answer file: itself, LLaVA's `metadata`, or OpenAI's `sts`."""
    for place in (row, row.get("metadata"), row.get("sts")):
        if isinstance(place, dict) and is_answer(place):
            return place
    return None


def fields_of_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """The question that a row of ours answers: all but the model's answer and measurements.

    Asking it gives the same id, image, question, `expected` and `extra` as asking the question
    file.
    """
    extra = row["extra"] if isinstance(row.get("extra"), dict) else {}
    own = {key: value for key, value in row.items() if key != "extra" and not is_measured(key)}
    for key in ("image", "images"):  # one of them is null
        if own.get(key, key) is None:
            del own[key]
    return {**extra, **own}


def is_measured(key: str) -> bool:
    return key in MEASURED or key.startswith(FLAT)
