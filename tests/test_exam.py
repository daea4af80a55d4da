"""The benchmarks' exam: several processes find what one would."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from benchmarks.exam import Exam
from benchmarks.sweep import table
from sts_cli.answering.request import OFF
from sts_cli.evaluation.conditions import Condition
from sts_cli.profile import Cut
from sts_cli.scenes.questions import KINDS
from sts_cli.scenes.suite import DEVELOPMENT


def test_the_parts_of_an_exam_are_the_exam() -> None:
    exam = Exam("demo", per_kind=18, level=0.5, seed=DEVELOPMENT, dtype="float32")
    conditions = [
        Condition(replace(OFF, name="random", cuts=(Cut("random", 8),))),
        Condition(replace(OFF, name="downsampled", cuts=(Cut("grid", 8),)), "downsampled", 144),
    ]
    whole = exam.part(conditions, 0, 1)
    parts = [mark for number in range(2) for mark in exam.part(conditions, number, 2)]
    assert {mark.group for mark in whole} == {0, 1}
    assert sorted(parts, key=lambda mark: mark.group) == whole
    asked = Counter((mark.condition, mark.kind) for mark in whole)
    assert asked == {(one.name, kind): 18 for one in conditions for kind in KINDS}
    assert all(mark.tokens == 8 for mark in whole)


def test_an_exam_may_be_of_a_crowded_set() -> None:
    exam = Exam("demo", per_kind=3, level=0.0, seed=DEVELOPMENT, dtype="float32", of="signs")
    marks = exam.part([Condition(OFF)], 0, 1)
    assert [mark.kind for mark in marks] == ["text"] * 3
    assert "| tokens | text | all | kept |" in table(marks)
