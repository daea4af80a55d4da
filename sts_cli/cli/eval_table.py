"""The table of sts eval: on the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sts_cli.cli.options import OptionError
from sts_cli.cli.parsing import check_replaced
from sts_cli.evaluation.metrics import NAMES
from sts_cli.machine.files import same_file
from sts_cli.outputs.disk import write_whole
from sts_cli.outputs.settings import link_target
from sts_cli.report.intervals import told_p

FIRST = ("condition", "control", "kind")  # columns of a table, before the figures
RECORD = {"model", "metric", "failed", "profiles", "controls"}  # keys of a table as JSON


def show(
    console: Console, figures: dict[str, dict[str, dict[str, Any]]], metric: str, plans: int
) -> None:
    """Print the conditions below each other: all questions, then each kind of question."""
    first = next(iter(figures.values()))
    truth = first["all"]["n"] > 0
    title = NAMES[metric] if truth else "agreement"
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(f"{first['all']['questions']} questions, %", no_wrap=True)
    columns = (title, "95%", "p") if truth else ()
    for name in (*columns, "same", "tokens", "prefill", "total"):
        fixed = name not in (title, "prefill", "total")  # these may take two lines
        table.add_column(name, justify="right", no_wrap=fixed, min_width=5)
    for number, (name, kinds) in enumerate(figures.items()):
        if number == plans:
            table.add_section()
        cell = kinds["all"]
        right = (percent(cell[metric]), bounds(cell), p_of(cell, number)) if truth else ()
        table.add_row(
            name,
            *right,
            percent(cell["agreement"]),
            f"{cell['tokens']:.0f}",
            faster(cell, "prefill"),
            faster(cell, "speedup"),
        )
    console.print(table)
    if len(first) > 1:
        console.print()
        asked = dict(list(figures.items())[:plans])
        console.print(by_kind(asked, metric if truth else "agreement", title))


def by_kind(figures: dict[str, dict[str, dict[str, Any]]], key: str, title: str) -> Table:
    """One line for each kind of question, one column for each profile."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{title}, %")
    for name in ("n", *figures):
        table.add_column(name, justify="right")
    for kind, cell in next(iter(figures.values())).items():
        if kind != "all":
            cells = (percent(kinds[kind][key]) for kinds in figures.values())
            table.add_row(kind, str(cell["questions"]), *cells)
    return table


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def bounds(cell: dict[str, Any]) -> str:
    """`84-90`: the ends of the interval of a share, in per cent."""
    return f"{100 * cell['low']:.0f}-{100 * cell['high']:.0f}"


def p_of(cell: dict[str, Any], number: int) -> str:
    """The p of a paired test; the reference has none."""
    if not number:
        return ""
    return told_p(cell["p"])


def faster(cell: dict[str, Any], key: str) -> str:
    """`x2.1 (1.9-2.3)`: a speed-up with its interval."""
    if cell[key] is None:
        return "-"
    middle, low, high = (f"{cell[name]:.2g}" for name in (key, f"{key}_low", f"{key}_high"))
    return f"x{middle} ({low}-{high})"


def unknown(reference: str, by_kind: dict[str, dict[str, Any]]) -> str:
    """A line about questions without a known answer; empty if there are none."""
    asked, known = by_kind["all"]["questions"], by_kind["all"]["n"]
    if known == asked:
        return ""
    if known == 0:
        return f"No question has a known answer: only agreement with '{reference}' is shown.\n"
    return (
        f"{asked - known} of {asked} questions have no known answer; the measures of accuracy "
        "leave them out.\n"
    )


def check_table(path: Path, questions: str) -> None:
    """Raise OptionError for an --out that is no table, is the input, or is a file of others."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise OptionError(f"--out {path}: the name must end in .csv, .json or .html.")
    if same_file(path, Path(questions)):
        raise OptionError(f"--out {path} is the input; give another name.")
    check_replaced("--out", path, "table", is_table)


def is_table(path: Path) -> bool:
    """True if `write_table` wrote the file, so that another table may replace it."""
    try:
        content = path.read_text("utf-8")
        if path.suffix.lower() == ".csv":
            return content.startswith(",".join(FIRST))
        return bool(json.loads(content).keys() >= RECORD)
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def write_table(path: Path, record: dict[str, Any]) -> None:
    """The figures as JSON, or as CSV with a line for each condition and kind.

    Raises OutputError.
    """
    if path.suffix.lower() == ".json":
        text = json.dumps(record, indent=1) + "\n"
    else:
        lines = [
            {**dict(zip(FIRST, (name, group == "controls", kind), strict=True)), **plain(cell)}
            for group in ("profiles", "controls")
            for name, kinds in record[group].items()
            for kind, cell in kinds.items()
        ]
        file = io.StringIO()
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        text = file.getvalue()
    write_whole(link_target(path), text.encode())


def plain(cell: dict[str, Any]) -> dict[str, Any]:
    """The figures with text for the list of tokens."""
    return {**cell, "left": " ".join(f"{count:g}" for count in cell["left"])}
