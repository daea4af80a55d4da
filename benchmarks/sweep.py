"""Variants of STS on development scenes: python -m benchmarks.sweep VARIANTS.yaml

Each variant is a named profile. All variants answer the same questions, which the held-out table
never uses. Prints Markdown: exact match by kind in per cent, the best variant first, and the share
of `off`'s right answers that are still right.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import yaml  # noqa: E402  (after the CPU's settings)

from benchmarks.exam import Exam, Mark, grouped  # noqa: E402
from benchmarks.processes import CORES  # noqa: E402
from sts_cli.answering.request import OFF  # noqa: E402
from sts_cli.evaluation.conditions import Condition  # noqa: E402
from sts_cli.evaluation.table import mean  # noqa: E402
from sts_cli.profile_files import parse  # noqa: E402
from sts_cli.scenes.questions import KINDS  # noqa: E402
from sts_cli.scenes.suite import DEVELOPMENT  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--per-kind", type=int, default=100)
    parser.add_argument("--level", type=float, default=0.5)
    parser.add_argument("--processes", type=int, default=CORES)
    options = parser.parse_args()
    variants = yaml.safe_load(options.variants.read_text("utf-8"))
    conditions = [Condition(OFF)]
    for name, stages in variants.items():
        profile = parse(yaml.safe_dump(stages), name, str(options.variants))
        conditions.append(Condition(profile))
    started = time.monotonic()
    exam = Exam(options.model, options.per_kind, options.level, DEVELOPMENT)
    marks = exam.marks(conditions, options.processes)
    print(table(marks))
    print(f"{len(marks)} answers in {time.monotonic() - started:.0f} s", file=sys.stderr)


def table(marks: list[Mark]) -> str:
    """The Markdown table, in per cent."""
    by_condition = grouped(marks, lambda mark: mark.condition)
    kinds = [*KINDS, "all"]
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
        cells = " | ".join(f"{100 * share(by_kind.get(kind, [])):.0f}" for kind in KINDS)
        every, retained_share = 100 * share(rows), 100 * retained(rows)
        lines.append(f"| {name} | {tokens:.0f} | {cells} | {every:.1f} | {retained_share:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
