"""Multiple choice as benchmarks ship it: a question, its options, and perhaps a hint."""

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


def lettered(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with a list of `choices` or `options` as one with A, B, ...; any other as it stands.

    Its answer, which may be the number of an option from 0 or its text, becomes a letter.
    """
    key = next((key for key in ("choices", "options") if isinstance(row.get(key), list)), None)
    options = row[key] if key else []
    if not 2 <= len(options) <= len(LETTERS) or not all(is_given(one) for one in options):
        return row
    texts = [str(option) for option in options]
    given = dict(zip(LETTERS, texts, strict=False))
    rest = {name: value for name, value in row.items() if name != key}
    return {**rest, **given, "answer": letter_of(row.get("answer"), texts)}


def letter_of(answer: object, options: list[str]) -> object:
    """The letter of the option that an answer means; an answer that means none as it stands."""
    text = str(answer)
    if text in options and not isinstance(answer, int):
        return LETTERS[options.index(text)]
    if text.isascii() and text.isdigit() and int(text) < len(options):
        return LETTERS[int(text)]
    return answer
