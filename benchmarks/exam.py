"""The harness of `sts eval` on drawn scenes, in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

import yaml

from benchmarks.processes import split
from sts_cli.answering.agreement import problem_among
from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import find
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.exam import answers
from sts_cli.evaluation.metrics import exact, f1
from sts_cli.inputs.images import Prepared
from sts_cli.library import load_model
from sts_cli.profile import Profile
from sts_cli.profile_files import parse
from sts_cli.records import Answer, Certainty
from sts_cli.scenes.suite import suite

SCENES = 24  # of a group, which is one process's work

T = TypeVar("T")


@dataclass(frozen=True)
class Mark:
    """The result of one question under one condition."""

    group: int  # of scenes
    condition: str
    kind: str
    right: bool
    f1: float
    text: str
    tokens: float  # visual tokens, averaged over the layers
    certainty: Certainty = field(compare=False)
    seconds: float = field(compare=False)  # its part of its batch's, after encoding
    encode: float = field(compare=False)  # of the new images of its batch, if it brought one


@dataclass(frozen=True)
class Exam:
    """The questions of `suite` for one model."""

    model: str
    per_kind: int
    level: float  # share of hard scenes
    seed: int
    dtype: str = "auto"
    of: str = "sparse"  # one of SETS
    kinds: tuple[str, ...] = ()  # of questions; () stands for all of the set

    def marks(self, conditions: Sequence[Condition], processes: int) -> list[Mark]:
        """The marks of all questions under all conditions.

        The number of processes changes none, but for which picture `another` is.
        """
        parts = split(partial(self.part, conditions), processes)
        return sorted((mark for part in parts for mark in part), key=lambda mark: mark.group)

    def part(self, conditions: Sequence[Condition], number: int, of: int) -> list[Mark]:
        """The marks of every `of`-th group of scenes from `number`."""
        group_of: dict[str, int] = {}

        def asked() -> Iterator[Prepared]:
            for group, questions in islice(enumerate(self.groups()), number, None, of):
                for question in questions:
                    group_of[question.item.id] = group
                    yield question

        found = examined(self.model, asked(), conditions, self.dtype)
        return [mark_of(group_of[answer.item.id], answer) for row in found for answer in row]

    def groups(self) -> Iterator[list[Prepared]]:
        """The questions about SCENES scenes at a time."""
        questions = suite(self.per_kind, self.level, self.seed, self.of, self.kinds)
        scenes = (list(rows) for _, rows in groupby(questions, key=lambda one: one.digests[0]))
        while group := list(islice(scenes, SCENES)):
            yield [question for rows in group for question in rows]


def examined(
    model: str, ready: Iterable[Prepared], conditions: Sequence[Condition], dtype: str = "auto"
) -> Iterator[tuple[Answer, ...]]:
    """Answers under each condition; raises RuntimeError for a question that has none."""
    plans = [condition.profile for condition in conditions]
    vlm = load_model(find(model), plans[0], device="cpu", dtype=dtype, others=tuple(plans[1:]))
    request = Request(tuple(plans), max_new_tokens=64)
    for row in answers(vlm, ready, conditions, request):
        problem = problem_among(row)
        if problem is not None:
            raise RuntimeError(f"{row[0].item.id}: {problem.message}")
        yield row


def mark_of(group: int, answer: Answer) -> Mark:
    assert answer.text is not None and answer.tokens is not None
    assert answer.certainty is not None and answer.seconds is not None
    spent = answer.seconds
    return Mark(
        group=group,
        condition=answer.escalated or answer.profile,
        kind=str(answer.item.extra["kind"]),
        right=bool(exact(answer.text, answer.item.answers)),
        f1=f1(answer.text, answer.item.answers),
        text=answer.text,
        tokens=answer.tokens.average,
        certainty=answer.certainty,
        seconds=(spent.select + spent.prefill + spent.decode) / answer.rows,
        encode=spent.encode,
    )


def variants(file: Path) -> list[Profile]:
    """The profiles of a file of variants, each under its name there."""
    named = yaml.safe_load(file.read_text("utf-8"))
    return [parse(yaml.safe_dump(cuts), name, str(file)) for name, cuts in named.items()]


def grouped(marks: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """The marks grouped by `key`, in the order of each group's first mark."""
    groups: dict[str, list[T]] = {}
    for mark in marks:
        groups.setdefault(key(mark), []).append(mark)
    return groups
