"""The figures at the top of a report: counts, medians and their charts."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from sts_cli.report.charts import Chart, histogram
from sts_cli.report.console import milliseconds
from sts_cli.report.intervals import SpeedUps, enclosing, median_interval, p95, wilson


class Figures:
    """What all rows of a report amount to."""

    def __init__(self) -> None:
        self.answered = self.compared = self.agreed = self.earlier = 0
        self.errors: Counter[str] = Counter()
        self.seconds, self.average, self.share = array("d"), array("d"), array("d")
        self.speedups = SpeedUps()

    def add(self, row: Mapping[str, Any], earlier: bool) -> None:
        """Count an output row."""
        if row["error"]:
            self.errors[row["error"]["kind"]] += 1
            return
        self.answered += 1
        self.earlier += earlier
        if row.get("seconds"):
            self.seconds.append(row["seconds"]["total"])
        if row.get("tokens"):
            average, visual = row["tokens"]["average"], row["tokens"]["visual"]
            self.average.append(average)
            self.share.append(average / max(1, visual))
        if row.get("agree") is not None:
            self.compared += 1
            self.agreed += row["agree"]
            told = row["speedup"]
            self.speedups.add(row["seconds"]["prefill"], told["prefill"], told["total"])

    def tiles(self) -> list[tuple[str, str, str]]:
        """Label, value and detail of each figure that there is."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.errors.most_common())
        tiles = [("answered", f"{self.answered:,}", f"of {self.answered + self.errors.total():,}")]
        if self.errors:
            tiles.append(("errors", f"{self.errors.total():,}", kinds))
        if self.compared:
            low, high = wilson(self.agreed, self.compared)
            tiles.append(
                (
                    "agreement with off",
                    f"{self.agreed / self.compared:.1%}",
                    f"{self.agreed:,} of {self.compared:,}; 95% interval {low:.1%} to {high:.1%}",
                )
            )
            n = len(self.speedups.batches)
            of = f"{enclosing(n)}, median of {n} batches" if n > 1 else "of one batch"
            for name, values in self._factors().items():
                low, high = median_interval(values)
                around = f"{low:.2f} to {high:.2f}, " if n > 1 else ""
                tiles.append((f"speed-up, {name}", f"x{median(values):.2f}", f"{around}{of}"))
        if self.average:
            tiles.append(
                (
                    "visual tokens kept",
                    f"{mean(self.share):.1%}",
                    f"{mean(self.average):.1f} on average over layers and rows",
                )
            )
        if self.seconds:
            middle, slow = median(self.seconds), p95(self.seconds)
            tiles.append(("time per row", milliseconds(middle), f"p95 {milliseconds(slow)}"))
        return tiles

    def _factors(self) -> dict[str, list[float]]:
        """The speed-ups of prefill and in total of all batches."""
        batches = self.speedups.batches
        prefill, total = zip(*batches, strict=True) if batches else ((), ())
        return {"prefill": list(prefill), "total": list(total)}

    def charts(self) -> list[Chart]:
        """The distribution of speed-ups and of times, where there are several."""
        found = []
        if len(self.speedups.batches) > 1:
            found.append(
                histogram(
                    "speedups",
                    "Speed-up of each batch",
                    "Against no pruning; 1 is as fast.",
                    self._factors(),
                    "speed-up (factor)",
                )
            )
        if len(self.seconds) > 1:
            found.append(
                histogram(
                    "times",
                    "Time of each row",
                    "Of its whole batch." if self.compared else "Its own share of its batch.",
                    {"rows": [1000 * one for one in self.seconds]},
                    "milliseconds",
                )
            )
        return found
