"""The demo model's exam: nothing pruned, held-out scenes and pictures by other drawing programs.

The harness of `sts eval` asks and marks; as controls, also with another picture, and with none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from demo_model.elsewhere import flat, room
from sts_cli.answering.agreement import problem_among
from sts_cli.answering.request import OFF, Request
from sts_cli.checkpoints.sources import find
from sts_cli.evaluation.conditions import Condition, controls
from sts_cli.evaluation.exam import answers
from sts_cli.evaluation.metrics import exact, f1
from sts_cli.evaluation.table import mean
from sts_cli.inputs.images import Prepared
from sts_cli.library import load_model
from sts_cli.records import Answer, Item
from sts_cli.report.intervals import wilson
from sts_cli.scenes.drawing import HELD_OUT_FONTS, Scene, draw
from sts_cli.scenes.questions import Question, questions
from sts_cli.scenes.words import WORDS

SEED = 910_000_000  # training and validation use other seeds
SETS: dict[str, Callable[[int], Scene]] = {
    "easy": lambda seed: draw(seed, 0.0),
    "hard": lambda seed: draw(seed, 1.0),
    "other-fonts": lambda seed: draw(seed, 0.0, fonts=HELD_OUT_FONTS),
    "flat": flat,
    "room": room,
}
WIDE = 0.25  # of the picture's width: signs that anyone can read
BATCH = 8  # scenes

Part = tuple[int, int]  # (i, n): every n-th batch from i, so that processes can share a set


@dataclass(frozen=True)
class Score:
    """The results of one question."""

    set: str
    groups: tuple[str, ...]  # its kind, and parts of it
    right: bool
    f1: float
    another: bool  # right with another picture
    blind: bool  # right without a picture


@dataclass(frozen=True)
class Row:
    """A line of the table; shares are in 0..1."""

    set: str
    kind: str
    n: int
    exact: float
    low: float  # 95% interval of `exact`
    high: float
    f1: float
    another: float
    blind: float


def scores(folder: Path, dtype: str, scenes: dict[str, int], part: Part = (0, 1)) -> list[Score]:
    """The scores of a checkpoint on the first scenes of each set, a part of them."""
    vlm = load_model(find(str(folder)), OFF, device="cpu", dtype=dtype)
    conditions = [Condition(OFF), *controls([OFF], [])]
    request = Request(tuple(one.profile for one in conditions), max_new_tokens=64)
    return [
        scored(row)
        for name, count in scenes.items()
        for row in answers(vlm, asked(name, count, part), conditions, request)
    ]


def scored(row: tuple[Answer, ...]) -> Score:
    """The score of the answers to one question. Raises RuntimeError if there is none."""
    problem = problem_among(row)
    if problem is not None:
        raise RuntimeError(f"{row[0].item.id}: {problem.message}")
    item = row[0].item
    texts = [answer.text or "" for answer in row]
    right, another, blind = (bool(exact(text, item.answers)) for text in texts)
    return Score(
        set=item.extra["set"],
        groups=item.extra["groups"],
        right=right,
        f1=f1(texts[0], item.answers),
        another=another,
        blind=blind,
    )


def asked(name: str, scenes: int, part: Part = (0, 1)) -> Iterator[Prepared]:
    """A question of each kind that each of the held-out scenes of a set allows, for a part."""
    for number, scene in drawn(name, scenes, part):
        for question in questions(scene, random.Random(number)):
            item = Item(
                id=f"{name}-{number}-{question.kind}",
                images=(f"{name}-{number}",),
                question=question.question,
                answers=(question.answer,),
                extra={"set": name, "groups": groups(scene, question)},
            )
            yield Prepared(item, (scene.image,), (f"{name}-{number}",), 0.0)


def drawn(name: str, scenes: int, part: Part = (0, 1)) -> Iterator[tuple[int, Scene]]:
    """The held-out scenes of a part of a set, each with its number."""
    offset = SEED + 1_000_000 * list(SETS).index(name)
    first, step = part
    for start in range(BATCH * first, scenes, BATCH * step):
        for number in range(start, min(start + BATCH, scenes)):
            yield number, SETS[name](offset + number)


def groups(scene: Scene, question: Question) -> tuple[str, ...]:
    """The groups of a question: its kind, and for a sign's text its characters and width."""
    sign = next((thing for thing in scene.things if thing.text == question.answer), None)
    if question.kind != "text":
        return (question.kind,)
    if sign is None:
        return "text", "text: no sign"
    sort = "word" if sign.text in WORDS else "number" if sign.text.isdigit() else "letters"
    wide = sign.box[2] - sign.box[0] >= WIDE
    return "text", f"text: {sort}", *((f"text: {sort}, wide sign",) if wide else ())


def rows(found: list[Score]) -> list[Row]:
    """The lines of all sets: one for each kind."""
    by_line: dict[tuple[str, str], list[Score]] = {}
    for one in found:
        for group in one.groups:
            by_line.setdefault((one.set, group), []).append(one)
    order = list(SETS)
    lines = sorted(by_line.items(), key=lambda line: (order.index(line[0][0]), line[0][1]))
    return [row(*line, marks) for line, marks in lines]


def row(name: str, kind: str, marks: list[Score]) -> Row:
    """The line of one kind: shares with Wilson's interval."""
    right = sum(mark.right for mark in marks)
    return Row(
        name,
        kind,
        len(marks),
        right / len(marks),
        *wilson(right, len(marks)),
        mean([mark.f1 for mark in marks]),
        mean([mark.another for mark in marks]),
        mean([mark.blind for mark in marks]),
    )


def table(lines: list[Row]) -> str:
    """The Markdown table, in per cent."""
    head = [
        "| scenes | kind | n | exact match | 95% | token F1 | another picture | no picture |",
        "|---|---|---:|---:|---|---:|---:|---:|",
    ]
    return "\n".join(
        head
        + [
            f"| {row.set} | {row.kind} | {row.n} | {100 * row.exact:.1f} "
            f"| {100 * row.low:.0f}-{100 * row.high:.0f} | {100 * row.f1:.0f} "
            f"| {100 * row.another:.1f} | {100 * row.blind:.1f} |"
            for row in lines
        ]
    )
