"""Which tokens should know which places, half-way through the language model.

A token of a question that ends a name knows where the things are that it names; a letter of a
text in a question knows where that letter is; a token of an answer knows where the thing or the
letter is that comes next. Each is a dense hint at what an answer alone says too rarely: which
patches to look at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sts_cli.scenes.canvas import Thing
from sts_cli.scenes.questions import described, from_left
from sts_cli.scenes.words import COLORS, SHAPES

Point = tuple[float, float]  # shares of the picture
Things = Mapping[Thing, tuple[Point, ...]]  # things, each with the centers of its letters
Encode = Callable[[str], list[int]]

CELLS = 8  # the picture in 8 x 8 of them
SINGULAR = {many: one for one, many in SHAPES.items()} | {one: one for one in (*SHAPES, "sign")}
NAME = re.compile(rf"\b(?:({'|'.join(COLORS)}) )?({'|'.join(SINGULAR)}|shapes)\b")
QUOTED = re.compile(r"\bsays ([A-Z0-9]+)\b")


@dataclass(frozen=True)
class Hints:
    """Places by token, of [*question, <|assistant|>, *answer, <eos>]."""

    points: tuple[tuple[int, Point], ...] = ()  # the one thing or letter
    cells: tuple[tuple[int, frozenset[int]], ...] = ()  # all that it may be: cells of centers


def hints(kind: str, question: str, answer: str, things: Things, encode: Encode) -> Hints:
    """What the tokens of a question and of its answer should know about `things`."""
    points: list[tuple[int, Point]] = []
    cells: list[tuple[int, frozenset[int]]] = []
    for match in NAME.finditer(question[0].lower() + question[1:]):
        meant = [one for one in things if means(match, one)]
        token = len(encode(question[: match.end()])) - 1
        cells.append((token, frozenset(cell(one.center) for one in meant)))
        if len(meant) == 1:
            points.append((token, meant[0].center))
    for match in QUOTED.finditer(question):
        for end, spots in spelled(match[1], things):
            token = len(encode(question[: match.start(1) + end])) - 1
            cells.append((token, frozenset(cell(at) for at in spots)))
        meant = [one for one in things if one.text == match[1]]
        if len(meant) == 1:
            points.append((len(encode(question[: match.end()])) - 1, meant[0].center))
    first = len(encode(question))  # the token before the answer
    points += [(first + len(encode(said)), at) for said, at in coming(kind, answer, things)]
    return Hints(tuple(points), tuple(cells))


def means(match: re.Match[str], one: Thing) -> bool:
    color, called = match.groups()
    shape = one.shape != "sign" if called == "shapes" else one.shape == SINGULAR[called]
    return shape and color in (None, one.color)


def spelled(text: str, things: Things) -> Iterator[tuple[int, list[Point]]]:
    """For each beginning of `text`, its length and where its last letter is, on all signs whose
    texts begin so."""
    for end in range(1, len(text) + 1):
        yield end, [at[end - 1] for one, at in things.items() if one.text[:end] == text[:end]]


def coming(kind: str, answer: str, things: Things) -> Iterator[tuple[str, Point]]:
    """Beginnings of an answer, and the place of what comes next."""
    if kind == "text":
        for one, letters in things.items():
            if one.text == answer:
                yield from ((answer[:i], at) for i, at in enumerate(letters))
    elif kind == "sign_color":
        yield from (
            ("", one.center) for one in things if (one.shape, one.color) == ("sign", answer)
        )
    elif kind == "caption":
        start = 0
        for one in from_left(things):
            words = described(one)
            start = answer.index(words, start)
            yield answer[:start].rstrip(), one.center
            yield answer[: start + words.index(" ")], one.center
            start += len(words)
            text = start - len(one.text)
            yield from ((answer[: text + i], at) for i, at in enumerate(things[one]))


def cell(at: Point) -> int:
    x, y = (min(CELLS - 1, int(part * CELLS)) for part in at)
    return y * CELLS + x
