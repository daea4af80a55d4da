"""Hints for tokens half-way through the language model: the places that they are about.

The last token of a name in a question should predict the places of the things with this name; a
letter of a text in a question the place of that letter; a token of an answer the place of the thing
or letter that comes next. These hints teach the model which patches to attend to; answers alone
teach it too slowly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sts_cli.scenes.canvas import Thing
from sts_cli.scenes.questions import described, from_left
from sts_cli.scenes.words import COLORS, SHAPES

Point = tuple[float, float]  # x and y as shares of the picture
Things = Mapping[Thing, tuple[Point, ...]]  # things, each with the centers of its letters
Encode = Callable[[str], list[int]]

CELLS = 8  # cells per side of the picture
SINGULAR = {many: name for name, many in SHAPES.items()} | {n: n for n in (*SHAPES, "sign")}
NAME = re.compile(rf"\b(?:({'|'.join(COLORS)}) )?({'|'.join(SINGULAR)}|shapes)\b")
QUOTED = re.compile(r"\bsays ([A-Z0-9]+)\b")


@dataclass(frozen=True)
class Hints:
    """Places by the index of a token in [*question, <|assistant|>, *answer, <eos>]."""

    points: tuple[tuple[int, Point], ...] = ()  # the place, if only one thing or letter fits
    cells: tuple[tuple[int, frozenset[int]], ...] = ()  # the cells of all that fit


def hints(kind: str, question: str, answer: str, things: Things, encode: Encode) -> Hints:
    """The hints about `things` for the tokens of a question and its answer."""
    points: list[tuple[int, Point]] = []
    cells: list[tuple[int, frozenset[int]]] = []
    for match in NAME.finditer(question[0].lower() + question[1:]):
        named = [thing for thing in things if means(match, thing)]
        token = len(encode(question[: match.end()])) - 1
        cells.append((token, frozenset(cell(thing.center) for thing in named)))
        if len(named) == 1:
            points.append((token, named[0].center))
    for match in QUOTED.finditer(question):
        for end, spots in spelled(match[1], things):
            token = len(encode(question[: match.start(1) + end])) - 1
            cells.append((token, frozenset(cell(at) for at in spots)))
        named = [thing for thing in things if thing.text == match[1]]
        if len(named) == 1:
            points.append((len(encode(question[: match.end()])) - 1, named[0].center))
    first = len(encode(question))  # the token before the answer
    points += [(first + len(encode(start)), at) for start, at in coming(kind, answer, things)]
    return Hints(tuple(points), tuple(cells))


def means(match: re.Match[str], thing: Thing) -> bool:
    color, called = match.groups()
    shape = thing.shape != "sign" if called == "shapes" else thing.shape == SINGULAR[called]
    return shape and color in (None, thing.color)


def spelled(text: str, things: Things) -> Iterator[tuple[int, list[Point]]]:
    """The length of each beginning of `text`, and the places of its last letter on signs whose
    texts begin with it."""
    for end in range(1, len(text) + 1):
        yield end, [at[end - 1] for thing, at in things.items() if thing.text[:end] == text[:end]]


def coming(kind: str, answer: str, things: Things) -> Iterator[tuple[str, Point]]:
    """Beginnings of an answer, with the place of the thing or letter that comes next."""
    if kind == "text":
        for thing, letters in things.items():
            if thing.text == answer:
                yield from ((answer[:i], at) for i, at in enumerate(letters))
    elif kind == "sign_color":
        yield from (
            ("", thing.center) for thing in things if (thing.shape, thing.color) == ("sign", answer)
        )
    elif kind == "caption":
        start = 0
        for thing in from_left(things):
            words = described(thing)
            start = answer.index(words, start)
            yield answer[:start].rstrip(), thing.center
            yield answer[: start + words.index(" ")], thing.center
            start += len(words)
            text = start - len(thing.text)
            yield from ((answer[: text + i], at) for i, at in enumerate(things[thing]))


def cell(at: Point) -> int:
    x, y = (min(CELLS - 1, int(part * CELLS)) for part in at)
    return y * CELLS + x
