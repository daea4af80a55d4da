"""MMMU as it ships: up to seven images a row, named in the question or its options as <image 1>."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from sts_cli.inputs.choices import fields_of_choice, lettered
from sts_cli.inputs.requests import in_order

NUMBERED = tuple(f"image_{number}" for number in range(1, 8))
PLACE = re.compile(r"<image ([1-7])>")
SUBJECT = re.compile(r"(?:dev|validation|test)_(.+)_\d+")  # in an id such as test_Art_1


def is_mmmu(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("question"), str) and NUMBERED[0] in row


def fields_of_mmmu(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ours that asks the same, each image where it is named first. Raises ValueError."""
    rest = {key: value for key, value in row.items() if key not in (*NUMBERED, "options")}
    options, truth = listed(row.get("options")), listed(row.get("answer"))
    rest = {**rest, **({"answer": truth} if truth and not options else {})}
    asked = fields_of_choice(lettered({**rest, "options": options})) if options else rest
    subject = SUBJECT.fullmatch(str(row.get("id")))
    kind = subject[1].replace("_", " ") if subject else row.get("subfield")
    return {
        **({"kind": kind} if kind else {}),
        **asked,
        **in_order(pieces(asked["question"], row)),
    }


def pieces(question: str, row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The question in texts and images; images that it does not name come first."""
    given = [key for key in NUMBERED if row.get(key) is not None]
    first = {f"image_{place[1]}": place for place in reversed([*PLACE.finditer(question)])}
    missing = next((key for key in NUMBERED if key in first and key not in given), None)
    if missing is not None:
        raise ValueError(f'"{missing}" is empty, but the question names that image.')
    asked = [("image", row[key]) for key in given if key not in first]
    start = 0
    for key, place in sorted(first.items(), key=lambda pair: pair[1].start()):
        asked += [("text", question[start : place.start()].strip()), ("image", row[key])]
        start = place.end()
    asked.append(("text", question[start:].strip()))
    return [(kind, value) for kind, value in asked if value not in ("", None)]


def listed(value: object) -> list[Any]:
    """A list, also as Python writes it; empty for anything else."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return []
    return value if isinstance(value, list) else []
