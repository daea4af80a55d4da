"""Every figure of docs/accuracy.md: python -m benchmarks.accuracy --write

First the demo model unpruned, on held-out scenes and on pictures drawn by other means, beside its
answers to another picture. Then STS at its four budgets beside trivial ways to the same number of
visual tokens, all on the same held-out questions. Prints Markdown; --write puts it into the
document, between its two marks. One process for each core; 23 minutes on two.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import numpy as np  # noqa: E402  (after the CPU's settings)
import torch  # noqa: E402

from benchmarks.exam import Condition, Exam, Mark, grouped  # noqa: E402
from benchmarks.processes import CORES, split  # noqa: E402
from demo_model import evaluate  # noqa: E402
from sts_cli.answering.request import OFF  # noqa: E402
from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.evaluation.table import mean, wilson  # noqa: E402
from sts_cli.profile import Cut  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402
from sts_cli.scenes.questions import KINDS  # noqa: E402
from sts_cli.scenes.suite import HELD_OUT  # noqa: E402

DOCUMENT = Path(__file__).parents[1] / "docs" / "accuracy.md"
MARKS = "<!-- figures -->", "<!-- end of figures -->"
BUDGETS = {"gentle": 192, "balanced": 128, "aggressive": 64, "extreme": 32}
# Unpruned, in each set: two easy or hard scenes in three allow a relation, and 500 are wanted.
SCENES = dict.fromkeys(evaluate.SETS, 400) | {"easy": 780, "hard": 780}
CAPTIONS = dict.fromkeys(evaluate.SETS, 48) | {"easy": 512}  # generated
DRAWS = 2000  # of the bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=780, help="in each set, at most, unpruned")
    parser.add_argument("--per-kind", type=int, default=250, help="questions, pruned")
    parser.add_argument("--level", type=float, default=0.5, help="share of hard scenes, pruned")
    parser.add_argument("--processes", type=int, default=CORES)
    parser.add_argument("--write", action="store_true", help=f"into docs/{DOCUMENT.name}")
    wish = parser.parse_args()
    started = time.monotonic()
    source = find("demo")
    folder: Path = source.checkpoint.folder  # type: ignore[union-attr]
    parts = [unpruned(split(partial(sets, folder, wish.scenes), wish.processes))]
    print(f"unpruned: {time.monotonic() - started:.0f} s", file=sys.stderr)
    exam = Exam("demo", wish.per_kind, wish.level, HELD_OUT)
    found = exam.marks(conditions(), wish.processes)
    parts += [pruned(found), by_kind(found)]
    minutes = (time.monotonic() - started) / 60
    parts.append(f"{len(found):,} answers and the sets above took {minutes:.0f} minutes.")
    text = "\n\n".join(parts)
    print(text)
    if wish.write:
        before, _, after = DOCUMENT.read_text("utf-8").partition(MARKS[0])
        after = after.partition(MARKS[1])[2]
        DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", "utf-8")


@dataclass(frozen=True)
class Sets:
    """What a process found on its part of each set, unpruned."""

    scores: dict[str, list[evaluate.Score]]
    captions: dict[str, list[tuple[float, bool]]]


def sets(folder: Path, scenes: int, number: int, of: int) -> Sets:
    """Every `of`-th batch of each set from `number`, all visual tokens."""
    model = evaluate.Model(folder, torch.bfloat16)
    part = number, of
    return Sets(
        {
            name: evaluate.scored(model, name, min(scenes, SCENES[name]), part)
            for name in evaluate.SETS
        },
        {name: evaluate.captioned(model, name, CAPTIONS[name], part) for name in evaluate.SETS},
    )


def unpruned(found: list[Sets]) -> str:
    """Exact match by kind on each set, and how good generated captions are."""
    rows: list[evaluate.Row] = []
    captions = []
    for name in evaluate.SETS:
        rows += evaluate.rows(name, [score for part in found for score in part.scores[name]])
        one = evaluate.captions(name, [mark for part in found for mark in part.captions[name]])
        captions.append(f"{name} {one.f1:.2f} (n {one.n})")
    said = f"Token F1 of generated captions: {', '.join(captions)}."
    return f"### Unpruned\n\n{evaluate.table(rows)}\n\n{said}"


def conditions() -> list[Condition]:
    """Off, the four profiles, and at each profile's average number of tokens the controls."""
    every = [Condition("off", OFF), Condition("another picture", OFF, "another")]
    for name, count in BUDGETS.items():
        random, grid = (
            replace(OFF, attention="proportional", cuts=(Cut(method, count),))
            for method in ("random", "grid")
        )
        every += [
            Condition(f"STS {count}", load_profile(name)),
            Condition(f"random {count}", random),
            Condition(f"grid {count}", grid),
            Condition(f"pooling {count}", grid, "pooled", count),
            Condition(f"downsampling {count}", OFF, "shrunk", count),
        ]
    return every


def pruned(found: list[Mark]) -> str:
    """One row a condition: right in all, and as a share of `off`, with 95% intervals."""
    by = grouped(found, lambda one: one.condition)
    off = np.array([one.right for one in by["off"]])
    texts = [one.text for one in by["off"]]
    lines = [
        f"### Pruned, {len(off):,} questions",
        "",
        "| | visual tokens | right, % | 95% | of `off`, % | 95% | same answer as `off`, % |",
        "|---|---:|---:|---|---:|---|---:|",
    ]
    for name, rows in by.items():
        right = np.array([one.right for one in rows])
        low, high = wilson(int(right.sum()), len(right))
        worst, best = ratio_interval(right, off)
        tokens = mean([one.tokens for one in rows])
        agree = mean([one.text == text for one, text in zip(rows, texts, strict=True)])
        lines.append(
            f"| {name} | {tokens:.0f} | {100 * right.mean():.1f} "
            f"| {100 * low:.1f}-{100 * high:.1f} | {100 * right.sum() / max(1, off.sum()):.1f} "
            f"| {worst:.1f}-{best:.1f} | {100 * agree:.0f} |"
        )
    return "\n".join(lines)


def by_kind(found: list[Mark]) -> str:
    """Exact match in per cent for each kind."""
    by = grouped(found, lambda one: one.condition)
    counts = grouped(by["off"], lambda one: one.kind)
    kinds = [kind for kind in KINDS if kind in counts]
    lines = [
        "### By kind, exact match, %",
        "",
        "| | " + " | ".join(f"{kind} ({len(counts[kind])})" for kind in kinds) + " | caption F1 |",
        "|---" + "|---:" * (len(kinds) + 1) + "|",
    ]
    for name, rows in by.items():
        cells = grouped(rows, lambda one: one.kind)
        f1 = mean([one.f1 for one in cells.get("caption", [])])
        shares = " | ".join(
            f"{100 * mean([one.right for one in cells[kind]]):.0f}" for kind in kinds
        )
        lines.append(f"| {name} | {shares} | {f1:.2f} |")
    return "\n".join(lines)


def ratio_interval(right: np.ndarray, off: np.ndarray) -> tuple[float, float]:
    """95% of right / off in per cent, questions drawn again with replacement (paired bootstrap)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(off), (DRAWS, len(off)))
    ratios = 100 * right[picks].sum(1) / np.maximum(1, off[picks].sum(1))
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
