"""Accuracy, agreement, tokens and speed of several profiles, by kind of question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from sts_cli.answering.agreement import exact_match, same, token_f1
from sts_cli.records import Answer, Problem
from sts_cli.report.intervals import median_interval, wilson


@dataclass
class Tally:
    """Measurements of one profile on one kind of question, one entry per question.

    `right` and `f1` only have questions with accepted answers.
    """

    right: list[bool] = field(default_factory=list)
    f1: list[float] = field(default_factory=list)
    agree: list[bool] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)  # speed-ups, of each batch
    total: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float | int | None]:
        """The figures: shares in 0..1, with Wilson's 95% interval. None if there are no data."""
        known = bool(self.right)
        low, high = wilson(sum(self.right), len(self.right))
        return {
            "questions": len(self.agree),
            "n": len(self.right),
            "exact": round(mean(self.right), 4) if known else None,
            "low": round(low, 4) if known else None,
            "high": round(high, 4) if known else None,
            "f1": round(mean(self.f1), 4) if known else None,
            "agreement": round(mean(self.agree), 4),
            "tokens": round(mean(self.tokens), 1),
            **spread("prefill", self.prefill),
            **spread("speedup", self.total),
        }


class Results:
    """Answers to the same questions under several profiles; the first one is the reference."""

    def __init__(self) -> None:
        self.tallies: dict[str, dict[str, Tally]] = {}  # profile -> kind -> tally
        self.failed = 0
        self.problem: Problem | None = None  # the first

    def add(self, answers: Sequence[Answer]) -> None:
        """Add the answers to one question, one per profile. Questions without truth count too."""
        problem = next((answer.problem for answer in answers if answer.problem is not None), None)
        if problem is not None:
            self.failed += 1
            self.problem = self.problem or problem
            return
        item, reference = answers[0].item, answers[0]
        for answer in answers:
            kinds = self.tallies.setdefault(answer.profile, {})
            for kind in {str(item.extra.get("kind", "all")), "all"}:
                self._count(kinds.setdefault(kind, Tally()), answer, reference)

    @staticmethod
    def _count(tally: Tally, answer: Answer, reference: Answer) -> None:
        assert answer.text is not None and reference.text is not None
        assert answer.tokens is not None and answer.seconds is not None
        assert reference.seconds is not None
        if answer.item.answers:
            tally.right.append(exact_match(answer.text, answer.item.answers))
            tally.f1.append(max(token_f1(answer.text, truth) for truth in answer.item.answers))
        tally.agree.append(same(answer.text, reference.text))
        tally.tokens.append(answer.tokens.average)
        before, now = reference.seconds, answer.seconds
        prefill = (before.select + before.prefill) / (now.select + now.prefill)
        if not tally.prefill or tally.prefill[-1] != prefill:  # else of the same batch
            tally.prefill.append(prefill)
            tally.total.append(before.total / now.total)

    def rows(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """Figures by profile and by kind of question; the kind "all" has all questions."""
        return {
            profile: {kind: tally.row() for kind, tally in kinds.items()}
            for profile, kinds in self.tallies.items()
        }


def spread(name: str, speedups: Sequence[float]) -> dict[str, float]:
    """The median of speed-ups with its 95% interval, or with their range if they are few."""
    low, high = median_interval(speedups)
    figures = {name: median(speedups), f"{name}_low": low, f"{name}_high": high}
    return {key: round(value, 3) for key, value in figures.items()}


def mean(values: Sequence[float]) -> float:
    """The mean, or 0 if there are no values."""
    return sum(values) / len(values) if values else 0.0
