"""Intervals of 95% around measured figures, and the 95th percentile. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

LEAST = 6  # values from which the smallest and the largest enclose the median at 95%


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's (1927) interval of the share `right / n`; (0, 1) for n = 0. z = 1.96 is for 95%.

    Also of the mean of n scores in 0..1 whose sum is `right`: they vary less than right and wrong.
    """
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    spread = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - spread), min(1.0, middle + spread)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of the median between two of the values; all of them if there are under LEAST.

    Of n values, the number below the true median is binomial (n, 1/2), whatever they measure.
    """
    ordered, n = sorted(values), len(values)
    below, rank = chance(n, 0), 0  # the chance that at most `rank` values are below the median
    while n >= LEAST and below + chance(n, rank + 1) <= 0.025:
        rank += 1
        below += chance(n, rank)
    return ordered[rank], ordered[n - 1 - rank]


def enclosing(n: int) -> str:
    """The name of what `median_interval` gives for n values."""
    return "95% interval" if n >= LEAST else "range"


def p95(values: Sequence[float]) -> float:
    """The value that 95% of the values are below."""
    return sorted(values)[int(0.95 * len(values))]


def chance(n: int, k: int) -> float:
    """The chance that exactly k of n values are below the true median."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways - n * math.log(2))


def sign_test(scores: Sequence[float], others: Sequence[float]) -> float:
    """The p, of two sides, that of two scores of one question neither tends to be the higher.

    Equal pairs say nothing; of the others, half are higher by chance. On scores of 0 and 1 this is
    McNemar's exact test.
    """
    pairs = list(zip(scores, others, strict=True))
    up, down = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    n = up + down
    tail = sum(math.comb(n, k) for k in range(min(up, down) + 1))
    return min(1.0, 2 * tail / (1 << n))


def lower_bound(right: int, n: int, level: float = 0.95) -> float:
    """The share that `right` of n prove: with a smaller one, so many have a chance of 1 - level.

    Clopper and Pearson's (1934) bound of one side, exact for any n; 0 for n = 0.
    """
    low, high = 0.0, right / n if n else 0.0
    for _ in range(40):  # bisection; the chance of at least `right` grows with the share
        middle = (low + high) / 2
        if at_least(right, n, middle) < 1 - level:
            low = middle
        else:
            high = middle
    return low


def at_least(right: int, n: int, share: float) -> float:
    """The chance that at least `right` of n are right, where each is with the chance `share`."""
    if share in (0.0, 1.0):
        return float(share == 1.0 or right == 0)

    def log_chance(wrong: int) -> float:
        ways = math.lgamma(n + 1) - math.lgamma(wrong + 1) - math.lgamma(n - wrong + 1)
        return ways + wrong * math.log(1 - share) + (n - wrong) * math.log(share)

    return math.fsum(math.exp(log_chance(wrong)) for wrong in range(n - right + 1))


class SpeedUps:
    """The speed-ups of prefill and in total, of each batch once."""

    def __init__(self) -> None:
        self._of: dict[float, tuple[float, float]] = {}  # by the seconds of its prefill

    def add(self, prefill_seconds: float, prefill: float, total: float) -> None:
        """Count a row. A batch's rows share its prefill's seconds, and have their own totals."""
        self._of.setdefault(prefill_seconds, (prefill, total))

    @property
    def batches(self) -> list[tuple[float, float]]:
        """Of prefill and in total, in the order in which the batches came."""
        return list(self._of.values())


def speedups(batches: Sequence[tuple[float, float]]) -> str:
    """A line on the speed-ups of prefill and in total of some batches."""
    prefill, total = zip(*batches, strict=True)
    n = len(batches)
    of = f"median of {n} batches ({enclosing(n)})" if n > 1 else "of one batch"
    return f"speed-up, {of}: prefill {ratio(prefill)}, total {ratio(total)}"


def ratio(values: Sequence[float]) -> str:
    """`x2.10`, or `x2.10 (1.90 to 2.30)` for more than one value."""
    low, high = median_interval(values)
    around = f" ({low:.2f} to {high:.2f})" if len(values) > 1 else ""
    return f"x{median(values):.2f}{around}"


def told_p(p: float) -> str:
    """The p of a test as people read it."""
    return f"{p:.2g}" if p >= 0.001 else "<0.001"
