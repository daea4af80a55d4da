"""Variants of STS on development scenes: python -m benchmarks.sweep VARIANTS.yaml

Each variant is a named profile. All variants answer the same questions, which the held-out table
never uses; --held-out asks its questions. Prints Markdown: exact match by kind in per cent, the
best variant first, and the share of `off`'s right answers that are still right; then, in the file's
order, all right answers with their intervals. A variant with `encoder` is also compared with the
same variant without it, where that is among them: all right answers as a ratio with its 95%
interval, right answers that are still right, and answers that are the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import numpy as np  # noqa: E402  (after the CPU's settings)

from benchmarks.accuracy import pruned, ratio_interval  # noqa: E402
from benchmarks.exam import Exam, Mark, grouped, variants  # noqa: E402
from benchmarks.processes import CORES  # noqa: E402
from sts_cli.answering.request import OFF  # noqa: E402
from sts_cli.evaluation.conditions import Condition  # noqa: E402
from sts_cli.evaluation.table import mean  # noqa: E402
from sts_cli.scenes.questions import KINDS  # noqa: E402
from sts_cli.scenes.suite import DEVELOPMENT, HELD_OUT, SETS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--per-kind", type=int, default=100)
    parser.add_argument("--level", type=float, default=0.5)
    parser.add_argument("--held-out", action="store_true", help="questions of docs/accuracy.md")
    parser.add_argument("--set", choices=SETS, default="sparse", help="of scenes")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=(), help="default: all")
    parser.add_argument("--processes", type=int, default=CORES)
    options = parser.parse_args()
    if options.kinds and not set(options.kinds) & set(SETS[options.set].kinds):
        parser.error(f"the set {options.set} asks only {', '.join(SETS[options.set].kinds)}")
    conditions = [Condition(plan) for plan in (OFF, *variants(options.variants))]
    started = time.monotonic()
    seed = HELD_OUT if options.held_out else DEVELOPMENT
    exam = Exam(
        options.model,
        options.per_kind,
        options.level,
        seed,
        of=options.set,
        kinds=tuple(options.kinds),
    )
    marks = exam.marks(conditions, options.processes)
    print(f"{table(marks)}\n\n{pruned(marks)}")
    beside = pairs(conditions)
    if beside:
        print(f"\n{encoders(marks, beside)}")
    print(f"{len(marks)} answers in {time.monotonic() - started:.0f} s", file=sys.stderr)


def table(marks: list[Mark]) -> str:
    """The Markdown table, in per cent."""
    by_condition = grouped(marks, lambda mark: mark.condition)
    asked = grouped(by_condition["off"], lambda mark: mark.kind)
    kinds = [*(kind for kind in KINDS if kind in asked), "all"]
    known = [mark.right for mark in by_condition["off"]]
    lines = [
        "| variant | tokens | " + " | ".join(kinds) + " | kept |",
        "|---" * (len(kinds) + 3) + "|",
    ]

    def retained(rows: list[Mark]) -> float:
        both = [a and mark.right for a, mark in zip(known, rows, strict=True)]
        return sum(both) / max(1, sum(known))

    def share(rows: list[Mark]) -> float:
        return mean([mark.right for mark in rows])

    for name, rows in sorted(by_condition.items(), key=lambda row: -share(row[1])):
        tokens = mean([mark.tokens for mark in rows])
        by_kind = grouped(rows, lambda mark: mark.kind)
        cells = " | ".join(f"{100 * share(by_kind[kind]):.0f}" for kind in kinds[:-1])
        every, retained_share = 100 * share(rows), 100 * retained(rows)
        lines.append(f"| {name} | {tokens:.0f} | {cells} | {every:.1f} | {retained_share:.1f} |")
    return "\n".join(lines)


def pairs(conditions: Sequence[Condition]) -> list[tuple[str, str]]:
    """The names of conditions with `encoder`, each with that of the same one without it."""
    plain = {cuts(one): one.name for one in conditions if one.profile.encoder is None}
    narrow = [one for one in conditions if one.profile.encoder is not None]
    return [(one.name, plain[cuts(one)]) for one in narrow if cuts(one) in plain]


def cuts(condition: Condition) -> str:
    """All of a condition's profile but its name and its `encoder`."""
    return repr(replace(condition.profile, name="", encoder=None))


def encoders(marks: list[Mark], beside: Sequence[tuple[str, str]]) -> str:
    """The Markdown table of variants with `encoder`, each beside the same without it."""
    by_condition = grouped(marks, lambda mark: mark.condition)
    lines = [
        "| variant | beside | questions | right, % of it | 95% | still right, % | same answer, % |",
        "|---" * 7 + "|",
    ]
    for name, same in beside:
        rows, others = by_condition[name], by_condition[same]
        right, known = (np.array([mark.right for mark in part]) for part in (rows, others))
        low, high = ratio_interval(right, known)
        ratio = 100 * right.sum() / max(1, known.sum())
        still = 100 * (right & known).sum() / max(1, known.sum())
        alike = mean([a.text == b.text for a, b in zip(rows, others, strict=True)])
        lines.append(
            f"| {name} | {same} | {len(rows):,} | {ratio:.1f} | {low:.1f}-{high:.1f} "
            f"| {still:.1f} | {100 * alike:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
