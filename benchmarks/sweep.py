"""Variants of STS on development scenes: python -m benchmarks.sweep VARIANTS.yaml

Each variant is a profile under a name; all answer the same questions, which the held-out table
never uses. Prints Markdown: exact match by kind in per cent, best in all first, and the share of
`off`'s right answers that a variant keeps.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import yaml  # noqa: E402  (after the CPU's settings)

from benchmarks.exam import Condition, Exam, Mark, grouped  # noqa: E402
from benchmarks.processes import CORES  # noqa: E402
from sts_cli.answering.request import OFF  # noqa: E402
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
    wish = parser.parse_args()
    variants = yaml.safe_load(wish.variants.read_text("utf-8"))
    conditions = [Condition("off", OFF)]
    for name, stages in variants.items():
        conditions.append(Condition(name, parse(yaml.safe_dump(stages), name, str(wish.variants))))
    started = time.monotonic()
    exam = Exam(wish.model, wish.per_kind, wish.level, DEVELOPMENT)
    found = exam.marks(conditions, wish.processes)
    print(table(found))
    print(f"{len(found)} answers in {time.monotonic() - started:.0f} s", file=sys.stderr)


def table(found: list[Mark]) -> str:
    """Markdown, in per cent."""
    by = grouped(found, lambda one: one.condition)
    kinds = [*KINDS, "all"]
    known = [one.right for one in by["off"]]
    lines = [
        "| variant | tokens | " + " | ".join(kinds) + " | kept |",
        "|---" * (len(kinds) + 3) + "|",
    ]

    def kept(rows: list[Mark]) -> float:
        return sum(a and one.right for a, one in zip(known, rows, strict=True)) / max(1, sum(known))

    def share(rows: list[Mark]) -> float:
        return mean([one.right for one in rows])

    for name, rows in sorted(by.items(), key=lambda row: -share(row[1])):
        tokens, of = mean([one.tokens for one in rows]), grouped(rows, lambda one: one.kind)
        cells = " | ".join(f"{100 * share(of.get(kind, [])):.0f}" for kind in KINDS)
        every, held = 100 * share(rows), 100 * kept(rows)
        lines.append(f"| {name} | {tokens:.0f} | {cells} | {every:.1f} | {held:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
