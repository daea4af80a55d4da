"""Checks of single values, and of the keys beside them. Each raises ProfileError with the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sts_cli import pruning
from sts_cli.errors import ProfileError, did_you_mean
from sts_cli.profile_files.mistakes import Place


def check_keys(data: Mapping[Any, Any], known: Sequence[str], where: Place) -> None:
    """Raise ProfileError with a line for each key that is not known."""
    unknown = [str(key) for key in data if key not in known]
    if unknown:
        raise ProfileError(
            "\n".join(
                f"{where.on(key)}: unknown key '{key}'. Known: {', '.join(known)}."
                f"{did_you_mean(key, known)}"
                for key in unknown
            )
        )


def read_option(value: Any, known: pruning.Allowed, where: Place) -> float | str:
    """An option of a method, one of the values that are `known`."""
    if isinstance(known, pruning.Range):
        return read_number(value, known.low, known.high, where)
    if isinstance(known, pruning.File):
        return _file(value, known, where)
    return read_word(value, known, where)


def _file(value: Any, known: pruning.File, where: Place) -> str:
    """The path of a file, as seen from the profile's, or the word for one of ours."""
    if value == known.word:
        return known.word
    if not isinstance(value, str) or not value.endswith(known.ending):
        raise ProfileError(
            f"{where} is {value!r}. Give a {known.ending} file, as seen from this one, or "
            f"{known.word}."
        )
    return str(Path(where.file).parent / value)


def read_word(value: Any, words: Sequence[str], where: Place) -> str:
    """One of the words."""
    if value not in words:
        raise ProfileError(
            f"{where} is '{value}'. Known: {', '.join(words)}.{did_you_mean(str(value), words)}"
        )
    return str(value)


def read_number(value: Any, low: float, high: float, where: Place) -> float:
    """A number from `low` to `high`, both included."""
    if not is_number(value) or not low <= value <= high:
        given = "is missing" if value is None else f"is {value!r}"
        raise ProfileError(f"{where} {given}. Give a number from {low:g} to {high:g}.")
    return float(value)


def read_whole(value: Any, where: Place) -> int | None:
    """A whole number of at least 1, or None if there is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProfileError(f"{where} is {value!r}. Give a whole number, 1 or more.")
    return value


def is_number(value: Any) -> bool:
    """True for a number. Python counts True and False as such; a profile does not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
