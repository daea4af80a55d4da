"""The front that sts tune found: the best profile of each budget, as a table and as a page."""

from __future__ import annotations

import contextlib
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sts_cli.outputs.disk import replacing
from sts_cli.outputs.settings import link_target
from sts_cli.report.charts import scatter
from sts_cli.report.html import Page

if TYPE_CHECKING:
    from sts_cli.evaluation.tune import Trial, Tuned

COLUMNS = ("tokens", "same, %", "proved", "prefill", "total")


def show(console: Console, found: Tuned) -> None:
    """Print the best profile of each budget, on the questions that the search did not see."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{found.chosen.asked} unseen questions")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for one in found.trials:
        table.add_row(*cells(one), style="bold" if one is found.best else "")
    console.print(table)


def write_front(path: Path, found: Tuned, about: str) -> None:
    """Write the page of the front. Raises OutputError."""
    points = [
        {
            "name": one.profile.name,
            "x": median(one.tally.total),
            "y": 100 * one.agreed / one.asked,
            "x_low": None,
            "x_high": None,
            "y_low": 100 * one.proved,
            "y_high": 100 * one.agreed / one.asked,
        }
        for one in found.trials
    ]
    front = scatter(
        "front",
        "Agreement against speed",
        "Up and to the right is better; lines reach down to what is proved.",
        points,
        ("speed-up in total (factor)", "agreement with off (%)"),
    )
    with replacing(link_target(path)) as file, contextlib.closing(Page(path.parent)) as page:
        page.write(
            file,
            title="sts tune",
            subtitle=f"{found.chosen.asked} unseen questions",
            notes=[about],
            charts=[front],
            table=[("profile", *COLUMNS), *map(cells, found.trials)],
        )


def cells(one: Trial) -> tuple[str, ...]:
    return (
        one.profile.name,
        f"{one.tokens:.0f}",
        f"{100 * one.agreed / one.asked:.1f}",
        f"{100 * one.proved:.1f}",
        f"x{median(one.tally.prefill):.2f}",
        f"x{median(one.tally.total):.2f}",
    )
