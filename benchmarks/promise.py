"""The promise of `sts tune` on scenes that it did not see: python -m benchmarks.promise

Ten searches, each on other scenes and with another seed. Then every profile that was chosen answers
the same held-out questions. Prints, for each search, what was proved and what was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

from benchmarks.exam import examined  # noqa: E402  (after the CPU's settings)
from benchmarks.processes import CORES, split  # noqa: E402
from sts_cli.answering.agreement import same  # noqa: E402
from sts_cli.answering.request import OFF, Request  # noqa: E402
from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.evaluation.conditions import Condition  # noqa: E402
from sts_cli.evaluation.tune import tune  # noqa: E402
from sts_cli.library import load_model  # noqa: E402
from sts_cli.profile import VISUAL, Profile  # noqa: E402
from sts_cli.scenes.suite import DEVELOPMENT, HELD_OUT, suite  # noqa: E402

APART = 100_000  # seeds between the scenes of two searches


@dataclass(frozen=True)
class Found:
    """The profile of one search."""

    seed: int
    profile: Profile
    tokens: float
    proved: float  # agreement, with 95% confidence
    kept: bool  # what was asked for is proved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--per-kind", type=int, default=30, help="questions of a search")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--level", type=float, default=0.0, help="share of hard scenes")
    parser.add_argument("--held-out", type=int, default=100, help="questions of each kind")
    parser.add_argument("--processes", type=int, default=CORES)
    options = parser.parse_args()
    started = time.monotonic()
    parts = split(partial(searches, options), options.processes)
    found = sorted((one for part in parts for one in part), key=lambda one: one.seed)
    print(f"searched: {time.monotonic() - started:.0f} s", file=sys.stderr)
    agreed = [
        sum(columns)
        for columns in zip(
            *split(partial(agreements, options, found), options.processes), strict=True
        )
    ]
    asked = agreed.pop()
    print("| search | profile | tokens | proved, % | held-out agreement, % | kept |")
    print("|---:|---|---:|---:|---:|---|")
    for one, count in zip(found, agreed, strict=True):
        true = count / asked
        word = "not promised" if not one.kept else "yes" if true >= options.target else "no"
        print(
            f"| {one.seed} | {one.profile.name} | {one.tokens:.0f} | {100 * one.proved:.1f} "
            f"| {100 * true:.1f} | {word} |"
        )
    print(f"\n{asked} held-out questions; {time.monotonic() - started:.0f} s.")


def searches(options: argparse.Namespace, number: int, of: int) -> list[Found]:
    """Every `of`-th search from `number`."""
    vlm = load_model(find("demo"), OFF, device="cpu")
    results = []
    for seed in range(number, options.searches, of):
        ready = suite(options.per_kind, options.level, DEVELOPMENT + APART * (1 + seed))
        request = Request((OFF,), max_new_tokens=64)
        done = tune(vlm, ready, options.target, request, seed=seed)
        one = done.chosen
        tokens = one.average * VISUAL
        results.append(Found(seed, one.profile, tokens, one.proved, done.best is not None))
        print(f"search {seed}: {one.profile.name}, {one.proved:.1%}", file=sys.stderr)
    return results


def agreements(options: argparse.Namespace, found: list[Found], number: int, of: int) -> list[int]:
    """How many held-out answers of each profile agree with `off`, of a part; then their number."""
    plans = [replace(one.profile, name=f"{one.seed}") for one in found]
    ready = islice(suite(options.held_out, options.level, HELD_OUT), number, None, of)
    agreed, asked = [0] * len(plans), 0
    for off, *rows in examined("demo", ready, [Condition(plan) for plan in (OFF, *plans)]):
        asked += 1
        for index, answer in enumerate(rows):
            agreed[index] += same(answer.text or "", off.text or "")
    return [*agreed, asked]


if __name__ == "__main__":
    main()
