"""Cascades beside fixed budgets, on scenes: python -m benchmarks.cascade

All questions are answered under every fixed profile. A cascade is then put together from the
answers: below its limit of certainty a question takes the answer of the next profile, and pays for
both. Limits are chosen on development scenes, for a target of agreement with `off`; the figures are
of held-out scenes. Prints Markdown. Seconds are shares of batches that all profiles take in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

from benchmarks.exam import Exam, Mark, grouped  # noqa: E402  (after the CPU's settings)
from benchmarks.processes import CORES  # noqa: E402
from sts_cli.answering.agreement import same  # noqa: E402
from sts_cli.evaluation.conditions import Condition  # noqa: E402
from sts_cli.evaluation.table import mean  # noqa: E402
from sts_cli.evaluation.threshold import threshold  # noqa: E402
from sts_cli.profile import MEASURE, Measure, Profile  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402
from sts_cli.report.intervals import wilson  # noqa: E402
from sts_cli.scenes.suite import DEVELOPMENT, HELD_OUT  # noqa: E402

FIXED = ("off", "half", "gentle", "balanced", "aggressive", "extreme")
LADDERS = (
    ("extreme", "off"),
    ("aggressive", "off"),
    ("balanced", "off"),
    ("extreme", "balanced", "off"),
    ("aggressive", "balanced", "off"),
    ("extreme", "balanced"),
    ("aggressive", "balanced"),
)


class Reply(NamedTuple):
    """An answer to one question, and what it cost."""

    agrees: bool  # with `off`
    right: bool
    certainty: dict[Measure, float]
    tokens: float
    seconds: float
    again: bool = False


Replies = dict[str, list[Reply]]  # by profile, the same questions in the same order


@dataclass(frozen=True)
class Score:
    """The figures of one fixed profile or cascade."""

    name: str
    below: str
    agreed: int
    right: int
    asked: int
    again: float  # share of the questions that were asked again
    tokens: float
    speed: float  # times that of `off`, encoding left out
    whole: float  # the same with one encoding for each question
    fixed: float | None = None  # agreement of fixed budgets at the same tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--per-kind", type=int, default=150)
    parser.add_argument("--level", type=float, default=0.5, help="share of hard scenes")
    parser.add_argument("--targets", default="0.998,0.995", help="agreement with off")
    parser.add_argument("--processes", type=int, default=CORES)
    options = parser.parse_args()
    started = time.monotonic()
    conditions = [Condition(fixed_profile(name)) for name in FIXED]
    known, marks = (
        Exam(options.model, options.per_kind, options.level, seed).marks(
            conditions, options.processes
        )
        for seed in (DEVELOPMENT, HELD_OUT)
    )
    encode = encoding(marks)
    development, held_out = replies(known), replies(marks)
    fixed = [score(name, "", held_out[name], held_out["off"], encode) for name in FIXED]
    print(table(fixed))
    for target in map(float, options.targets.split(",")):
        rows = [
            cascade(ladder, measure, target, development, held_out, encode, fixed)
            for ladder in LADDERS
            for measure in MEASURE
        ]
        print(f"\nTarget on development scenes: {target:.1%}\n\n{table(rows)}")
    questions = len(held_out["off"]), len(development["off"])
    print(f"{questions} questions, {time.monotonic() - started:.0f} s", file=sys.stderr)


def encoding(marks: Sequence[Mark]) -> float:
    """Seconds to encode one image; all rows of a batch that brought one have the whole batch's."""
    new = [mark.encode for mark in marks if mark.encode]
    return sum(set(new)) / len(new)


def fixed_profile(name: str) -> Profile:
    """A shipped profile, or `half`: gentle with one and a half times its tokens."""
    if name != "half":
        return load_profile(name)
    gentle = load_profile("gentle")
    more = [1.5 * one.keep for one in gentle.cuts if isinstance(one.keep, float)]
    cuts = [replace(one, keep=keep) for one, keep in zip(gentle.cuts, more, strict=True)]
    return replace(gentle, name=name, cuts=tuple(cuts))


def replies(marks: Sequence[Mark]) -> Replies:
    """The answers by profile, compared with those of `off`."""
    by_name = grouped(marks, lambda mark: mark.condition)
    return {
        name: [
            Reply(
                same(mark.text, full.text),
                mark.right,
                {one: getattr(mark.certainty, one) for one in MEASURE},
                mark.tokens,
                mark.seconds,
            )
            for mark, full in zip(rows, by_name["off"], strict=True)
        ]
        for name, rows in by_name.items()
    }


def escalated(first: list[Reply], then: list[Reply], below: float, measure: Measure) -> list[Reply]:
    """The answers of a cascade of two."""
    return [
        now._replace(tokens=one.tokens + now.tokens, seconds=one.seconds + now.seconds, again=True)
        if one.certainty[measure] < below
        else one
        for one, now in zip(first, then, strict=True)
    ]


def cascade(
    ladder: Sequence[str],
    measure: Measure,
    target: float,
    development: Replies,
    held_out: Replies,
    encode: float,
    fixed: Sequence[Score],
) -> Score:
    """The score of a cascade on held-out scenes, its limits chosen on development scenes."""
    known, rows, limits = development[ladder[-1]], held_out[ladder[-1]], []
    for name in reversed(ladder[:-1]):
        own = development[name]
        below = threshold(
            [one.certainty[measure] for one in own],
            [one.agrees for one in own],
            target,
            [one.agrees for one in known],
        )
        limits.append("none" if below is None else f"{below:.4f}")
        known = escalated(own, known, 2.0 if below is None else below, measure)
        rows = escalated(held_out[name], rows, 2.0 if below is None else below, measure)
    label = f"{' to '.join(ladder)}, {measure}"
    found = score(label, ", ".join(reversed(limits)), rows, held_out["off"], encode)
    front = sorted((one.tokens, one.agreed / one.asked) for one in fixed)
    return Score(**{**vars(found), "fixed": at(front, found.tokens)})


def at(front: Sequence[tuple[float, float]], tokens: float) -> float | None:
    """The agreement of fixed budgets at a number of tokens, on the line between two of them."""
    for (low, one), (high, other) in pairwise(front):
        if low <= tokens <= high:
            return one + (other - one) * (tokens - low) / (high - low)
    return None


def score(name: str, below: str, rows: list[Reply], full: list[Reply], encode: float) -> Score:
    seconds, whole = (mean([one.seconds for one in each]) for each in (rows, full))
    return Score(
        name=name,
        below=below,
        agreed=sum(one.agrees for one in rows),
        right=sum(one.right for one in rows),
        asked=len(rows),
        again=mean([one.again for one in rows]),
        tokens=mean([one.tokens for one in rows]),
        speed=whole / seconds,
        whole=(whole + encode) / (seconds + encode),
    )


def table(scores: Sequence[Score]) -> str:
    lines = [
        "| profile | below | agreement | 95% interval | fixed budget at these tokens | right "
        "| asked again "
        "| tokens | speed | with encoding |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in scores:
        low, high = wilson(one.agreed, one.asked)
        fixed = "" if one.fixed is None else f"{100 * one.fixed:.1f}"
        lines.append(
            f"| {one.name} | {one.below} | {100 * one.agreed / one.asked:.1f} "
            f"| {100 * low:.1f}-{100 * high:.1f} | {fixed} | {100 * one.right / one.asked:.1f} "
            f"| {100 * one.again:.1f} "
            f"| {one.tokens:.0f} | {one.speed:.2f} | {one.whole:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
