"""Multiple choice as benchmarks ship it: a question, columns A, B, ... and perhaps a hint."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase as LETTERS
from typing import Any

BY_LETTER = "Answer with the option's letter from the given choices directly."


def is_choice(row: Mapping[str, Any]) -> bool:
    """True if a row has a question and at least the options A and B."""
    return (
        isinstance(row.get("question"), str) and is_given(row.get("A")) and is_given(row.get("B"))
    )


def fields_of_choice(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with hint and options asked as part of the question, in LLaVA's words for MMBench."""
    hint = [str(row["hint"])] if is_given(row.get("hint")) else []
    options = [f"{letter}. {row[letter]}" for letter in LETTERS if is_given(row.get(letter))]
    asked = [*hint, row["question"], *options, BY_LETTER]
    rest = {key: row[key] for key in row if key not in LETTERS and key != "hint"}
    return {**rest, "question": "\n".join(asked)}


def is_given(value: object) -> bool:
    """True if a cell holds something; pandas writes `nan` where nothing was."""
    return isinstance(value, str | int | float) and str(value).strip() not in ("", "nan")
