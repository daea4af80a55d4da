"""The page of an evaluation: accuracy against speed, a table, and every question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from sts_cli.report.charts import scatter
from sts_cli.report.html import Page
from sts_cli.report.intervals import told_p
from sts_cli.report.visible import in_line

HEADER = (
    *("condition", "kind", "accuracy (%)", "agreement (%)", "visual tokens"),
    *("speed-up, prefill", "speed-up, total", "p"),
)


def write_evaluation(
    file: BinaryIO,
    page: Page,
    conditions: Sequence[Mapping[str, Any]],
    *,
    title: str = "sts eval",
    subtitle: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Write `page`, which has the rows already, with the figures of the conditions.

    Each of the `conditions`, the reference first, has `name`, `kind` (such as profile or control),
    `accuracy`, `accuracy_low`, `accuracy_high`, `agreement`, `tokens`, `prefill`, `speedup`,
    `speedup_low`, `speedup_high` and `p`. Shares are 0 to 1, speed-ups factors; what is not known
    is None or absent. Without any accuracy, agreement takes its place.
    """
    known = any(one.get("accuracy") is not None for one in conditions)
    measure = "accuracy" if known else "agreement"
    points = [
        {
            "name": in_line(one["name"]),
            "x": one["speedup"],
            "y": 100 * one[measure],
            "x_low": one.get("speedup_low"),
            "x_high": one.get("speedup_high"),
            "y_low": percent(one.get("accuracy_low")) if known else None,
            "y_high": percent(one.get("accuracy_high")) if known else None,
        }
        for one in conditions
        if one.get("speedup") is not None and one.get(measure) is not None
    ]
    chart = scatter(
        "accuracy-speed",
        f"{measure.capitalize()} against speed",
        "Up and to the right is better; lines are 95% intervals.",
        points,
        ("speed-up in total (factor)", f"{measure} (%)"),
    )
    reference = f"reference: {in_line(conditions[0]['name'])}"
    page.write(
        file,
        title=title,
        subtitle=subtitle,
        tiles=[
            ("questions", f"{len(page):,}", ""),
            ("conditions", str(len(conditions)), reference),
        ],
        notes=notes,
        charts=[chart] if points else [],
        table=[HEADER, *(line_of(one) for one in conditions)],
    )


def line_of(one: Mapping[str, Any]) -> tuple[str, ...]:
    """A condition as a line of the table."""

    def shown(key: str, form: str, scale: float = 1) -> str:
        value, low, high = (one.get(key + end) for end in ("", "_low", "_high"))
        if value is None:
            return "-"
        if low is None or high is None:
            return f"{scale * value:{form}}"
        return f"{scale * value:{form}} ({scale * low:{form}} to {scale * high:{form}})"

    return (
        in_line(one["name"]),
        in_line(str(one.get("kind") or "")),
        shown("accuracy", ".1f", 100),
        shown("agreement", ".1f", 100),
        shown("tokens", ".1f"),
        shown("prefill", ".2f"),
        shown("speedup", ".2f"),
        "-" if one.get("p") is None else told_p(one["p"]),
    )


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
