"""Accuracy, agreement, tokens and speed under several conditions, by kind of question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from sts_cli.answering.agreement import problem_among, same
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.metrics import METRICS
from sts_cli.records import Answer, Problem
from sts_cli.report.intervals import median_interval, sign_test, wilson

Figures = dict[str, float | int | list[float] | None]


@dataclass
class Tally:
    """Measurements under one condition on one kind of question, one entry per question.

    `scores` only have questions with accepted answers: one list for each metric.
    """

    scores: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METRICS})
    agree: list[bool] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    left: list[tuple[int, ...]] = field(default_factory=list)  # after each cut
    prefill: list[float] = field(default_factory=list)  # speed-ups, of each batch
    total: list[float] = field(default_factory=list)

    def add(self, answer: Answer, reference: Answer) -> None:
        """Count the answer to one question, and how it compares to the reference."""
        assert answer.text is not None and reference.text is not None
        assert answer.tokens is not None and answer.seconds is not None
        assert reference.seconds is not None
        if answer.item.answers:
            for name, metric in METRICS.items():
                self.scores[name].append(metric(answer.text, answer.item.answers))
        self.agree.append(same(answer.text, reference.text))
        self.tokens.append(answer.tokens.average)
        self.left.append(answer.tokens.left)
        before, now = reference.seconds, answer.seconds
        prefill = (before.select + before.prefill) / (now.select + now.prefill)
        if not self.prefill or self.prefill[-1] != prefill:  # else of the same batch
            self.prefill.append(prefill)
            self.total.append(before.total / now.total)

    def figures(self, metric: str, reference: Tally, timed: bool) -> Figures:
        """The figures, shares in 0..1; None for those that there are no data for.

        `low` and `high` are the 95% interval of `metric`, `p` is that of a paired sign test against
        the reference (on exact match, McNemar's exact test). Speed is only given if `timed`.
        """
        scores, others = self.scores[metric], reference.scores[metric]
        low, high = wilson(sum(scores), len(scores))
        levels = zip(*self.left, strict=False)
        return {
            "questions": len(self.agree),
            "n": len(scores),
            **{name: share(values) for name, values in self.scores.items()},
            "low": round(low, 4) if scores else None,
            "high": round(high, 4) if scores else None,
            "p": round(sign_test(scores, others), 4) if scores else None,
            "agreement": share(self.agree),
            "tokens": round(mean(self.tokens), 1),
            "left": [round(mean(level), 1) for level in levels],
            **spread("prefill", self.prefill, timed),
            **spread("speedup", self.total, timed),
        }


class Results:
    """Answers to the same questions under several conditions; the first is the reference."""

    def __init__(self, conditions: Sequence[Condition], metric: str = "exact"):
        self.conditions, self.metric = conditions, metric
        self.tallies: list[dict[str, Tally]] = [{} for _ in conditions]  # by kind
        self.failed = 0
        self.problem: Problem | None = None  # the first

    def add(self, answers: Sequence[Answer]) -> bool:
        """Add the answers to one question, one per condition. Questions without truth count too.

        A question that fails under one condition counts under none; then the result is False.
        """
        problem = problem_among(answers)
        if problem is not None:
            self.failed += 1
            self.problem = self.problem or problem
            return False
        for answer, kinds in zip(answers, self.tallies, strict=True):
            for kind in {str(answer.item.extra.get("kind", "all")), "all"}:
                kinds.setdefault(kind, Tally()).add(answer, answers[0])
        return True

    def figures(self) -> dict[str, dict[str, Figures]]:
        """Figures by condition and by kind of question; the kind "all" has all questions."""
        return {
            condition.name: {
                kind: tally.figures(self.metric, self.tallies[0][kind], timed(condition))
                for kind, tally in kinds.items()
            }
            for condition, kinds in zip(self.conditions, self.tallies, strict=True)
            if kinds
        }


def timed(condition: Condition) -> bool:
    """True if it is answered in one batch with the reference, so that their times compare."""
    return condition.view == "whole"


def spread(name: str, speedups: Sequence[float], told: bool) -> Figures:
    """The median of speed-ups with its 95% interval, or with their range if they are few."""
    if not told:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = median_interval(speedups)
    figures = {name: median(speedups), f"{name}_low": low, f"{name}_high": high}
    return {key: round(value, 3) for key, value in figures.items()}


def share(values: Sequence[float]) -> float | None:
    """The mean, rounded; None if there are no values."""
    return round(mean(values), 4) if values else None


def mean(values: Sequence[float]) -> float:
    """The mean, or 0 if there are no values."""
    return sum(values) / len(values) if values else 0.0
