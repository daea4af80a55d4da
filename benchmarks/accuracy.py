"""All figures of docs/accuracy.md: python -m benchmarks.accuracy --write

First the unpruned demo model, on held-out scenes and on pictures from other drawing programs; as a
control, also with the visual tokens of another picture. Then, at four budgets of visual tokens and
on the same held-out questions, STS, all methods of variants/methods.yaml and simple controls; and
all of that again on crowded scenes. Prints Markdown; --write puts it between the two marks of the
document. One process for each core; 51 minutes on two.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import numpy as np  # noqa: E402  (after the CPU's settings)

from benchmarks.exam import Exam, Mark, grouped, variants  # noqa: E402
from benchmarks.processes import CORES, split  # noqa: E402
from demo_model import evaluate  # noqa: E402
from sts_cli.answering.request import OFF  # noqa: E402
from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.evaluation.conditions import Condition, controls  # noqa: E402
from sts_cli.evaluation.table import mean  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402
from sts_cli.report.intervals import wilson  # noqa: E402
from sts_cli.scenes.questions import KINDS  # noqa: E402
from sts_cli.scenes.suite import HELD_OUT  # noqa: E402

DOCUMENT = Path(__file__).parents[1] / "docs" / "accuracy.md"
METHODS = Path(__file__).parent / "variants" / "methods.yaml"
MARKS = "<!-- figures -->", "<!-- end of figures -->"
BUDGETS = {"gentle": 192, "balanced": 128, "aggressive": 64, "extreme": 32}
# Unpruned scenes in each set. Two of three easy or hard scenes have a relation; 500 are needed.
SCENES = dict.fromkeys(evaluate.SETS, 400) | {"easy": 780, "hard": 780}
TITLES = {"sparse": "Sparse scenes", "signs": "Six signs", "shapes": "10 to 16 shapes"}
CROWDED = {"signs": 250, "shapes": 50}  # questions of each kind; all scenes are easy
DRAWS = 2000  # samples of the bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a folder, or a name that sts knows")
    parser.add_argument("--scenes", type=int, default=780, help="in each set, at most, unpruned")
    parser.add_argument("--per-kind", type=int, default=200, help="questions, pruned")
    parser.add_argument("--level", type=float, default=0.5, help="share of hard scenes, pruned")
    parser.add_argument("--processes", type=int, default=CORES)
    parser.add_argument("--write", action="store_true", help=f"into docs/{DOCUMENT.name}")
    options = parser.parse_args()
    if options.write and options.model != "demo":
        parser.error(f"{DOCUMENT.name} is about the demo model; leave out --write or --model")
    started = time.monotonic()
    source = find(options.model)
    folder: Path = source.checkpoint.folder  # type: ignore[union-attr]
    work = partial(sets, folder, options.scenes)
    scores = [score for part in split(work, options.processes) for score in part]
    parts = [f"### Unpruned\n\n{evaluate.table(evaluate.rows(scores))}"]
    told(parts[-1], started)
    asked, count = conditions(), 0
    for name, title in TITLES.items():
        per_kind = min(options.per_kind, CROWDED.get(name, options.per_kind))
        level = 0.0 if name in CROWDED else options.level
        exam = Exam(options.model, per_kind, level, HELD_OUT, of=name)
        marks = exam.marks(asked, options.processes)
        parts.append(budgets(marks, title, kinds=name not in CROWDED))
        told(parts[-1], started)
        count += len(marks)
    minutes = (time.monotonic() - started) / 60
    parts.append(f"{count:,} answers and the sets above took {minutes:.0f} minutes.")
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        before, _, after = DOCUMENT.read_text("utf-8").partition(MARKS[0])
        after = after.partition(MARKS[1])[2]
        DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", "utf-8")


def told(text: str, started: float) -> None:
    """A part of the page, on stderr as soon as it is known: the whole takes long."""
    print(f"{text}\n\n{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def sets(folder: Path, scenes: int, number: int, of: int) -> list[evaluate.Score]:
    """Results on every `of`-th batch of each set from `number`, with all visual tokens."""
    counts = {name: min(scenes, count) for name, count in SCENES.items()}
    return evaluate.scores(folder, "auto", counts, (number, of))


def conditions() -> list[Condition]:
    """`off`, and for each budget STS, other methods and the controls of `sts eval`.

    A name ends with its budget, but for `off` and another image.
    """
    plans = {
        count: replace(load_profile(name), name=f"STS {count}") for name, count in BUDGETS.items()
    }
    found = [Condition(plan) for plan in (OFF, *plans.values(), *variants(METHODS))]
    for count, plan in plans.items():
        for control in controls([OFF], [plan]):
            method, _, share = control.name.rpartition(" ")
            if share.endswith("%"):
                same = replace(control.profile, name=f"{method} {count}")
                found.append(replace(control, profile=same))
    return found + controls([OFF], [])


def budgets(marks: list[Mark], title: str, kinds: bool) -> str:
    """Markdown: a table without pruning, and one for each budget, the best first."""
    by_condition = grouped(marks, lambda mark: mark.condition)
    whole = [name for name in by_condition if not name.rpartition(" ")[2].isdecimal()]
    parts = [f"### {title}", pruned([m for name in whole for m in by_condition[name]])]
    for count in BUDGETS.values():
        names = [name for name in by_condition if name.endswith(f" {count}")]
        names.sort(key=lambda name: -sum(mark.right for mark in by_condition[name]))
        rows = [mark for name in ("off", *names) for mark in by_condition[name]]
        parts += [f"#### {title}, {count} visual tokens", pruned(rows, f"STS {count}")]
        if kinds:
            parts += [f"#### {title}, {count} visual tokens, by kind", by_kind(rows)]
    return "\n\n".join(parts)


def pruned(marks: list[Mark], beside: str = "") -> str:
    """Markdown, one row per condition: right answers, also as a share of `off`, with intervals.

    With `beside`, a condition's name, also by how many points that one is right more often.
    """
    by_condition = grouped(marks, lambda mark: mark.condition)
    off = np.array([mark.right for mark in by_condition["off"]])
    texts = [mark.text for mark in by_condition["off"]]
    ours = np.array([mark.right for mark in by_condition.get(beside, [])])
    heads = [f"{len(off):,} questions", "visual tokens", "right, %", "95%", "of `off`, %", "95%"]
    heads += ["same answer as `off`, %"] + (["STS is better by", "95%"] if beside else [])
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name, rows in by_condition.items():
        right = np.array([mark.right for mark in rows])
        low, high = wilson(int(right.sum()), len(right))
        worst, best = ratio_interval(right, off)
        tokens = mean([mark.tokens for mark in rows])
        agree = mean([mark.text == text for mark, text in zip(rows, texts, strict=True)])
        cells = [
            name,
            f"{tokens:.0f}",
            f"{100 * right.mean():.1f}",
            f"{100 * low:.1f}-{100 * high:.1f}",
            f"{100 * right.sum() / max(1, off.sum()):.1f}",
            f"{worst:.1f}-{best:.1f}",
            f"{100 * agree:.0f}",
        ]
        if beside:
            least, most = difference_interval(ours, right)
            difference = 100 * (ours.mean() - right.mean())
            cells += [f"{difference:.1f}", f"{least:.1f} to {most:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def by_kind(marks: list[Mark]) -> str:
    """Markdown: exact match in per cent for each kind."""
    by_condition = grouped(marks, lambda mark: mark.condition)
    counts = grouped(by_condition["off"], lambda mark: mark.kind)
    kinds = [kind for kind in KINDS if kind in counts]
    lines = [
        "| | " + " | ".join(f"{kind} ({len(counts[kind])})" for kind in kinds) + " | caption F1 |",
        "|---" + "|---:" * (len(kinds) + 1) + "|",
    ]
    for name, rows in by_condition.items():
        cells = grouped(rows, lambda mark: mark.kind)
        f1 = mean([mark.f1 for mark in cells.get("caption", [])])
        shares = " | ".join(
            f"{100 * mean([mark.right for mark in cells[kind]]):.0f}" for kind in kinds
        )
        lines.append(f"| {name} | {shares} | {f1:.2f} |")
    return "\n".join(lines)


def ratio_interval(right: np.ndarray, off: np.ndarray) -> tuple[float, float]:
    """The 95% interval of right / off in per cent, by a paired bootstrap over questions."""
    picks = samples(len(off))
    ratios = 100 * right[picks].sum(1) / np.maximum(1, off[picks].sum(1))
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def difference_interval(ours: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """The 95% interval of ours - others in points, by a paired bootstrap over questions."""
    differences = (100 * ours - 100 * others)[samples(len(ours))].mean(1)
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(low), float(high)


def samples(count: int) -> np.ndarray:
    """[DRAWS, count] numbers of questions, drawn with replacement; the same each time."""
    return np.random.default_rng(0).integers(0, count, (DRAWS, count))


if __name__ == "__main__":
    main()
