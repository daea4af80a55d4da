"""The learning curves of a run, from its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

META = {  # entries of a row that are no accuracies
    "minute",
    "phase",
    "step",
    "seconds",
    "drawn",
    "loss",
    "answers_loss",
    "hints_loss",
    "looks_loss",
    "norm",
    "validation",
    "shapes",
}
TOWER = ("windows", "whole")  # phases
COLORS = {
    "text": "tab:red",
    "sign_color": "tab:orange",
    "text_color": "gold",
    "color": "tab:green",
    "shape": "tab:olive",
    "exist": "tab:cyan",
    "count": "tab:blue",
    "relation": "tab:purple",
    "place": "tab:pink",
    "caption": "tab:brown",
    "kind": "tab:blue",
    "letter": "tab:red",
    "index": "tab:purple",
}


def plot(run: Path, target: Path) -> None:
    """Draw accuracies of the tower's patches and of answers, in training and on held-out scenes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read(run / "log.jsonl")
    trained = [row for row in rows if "loss" in row]
    checked = [
        row["validation"] | {"minute": row["minute"], "phase": row["phase"]}
        for row in rows
        if "validation" in row
    ]
    every: list[tuple[str, list[dict[str, Any]], bool]] = [
        ("vision tower: patches right (training)", trained, True),
        ("vision tower: patches right (held out, 16 scenes)", checked, True),
        ("answers exactly right (training)", trained, False),
        ("answers exactly right (held out, 32 scenes)", checked, False),
    ]
    kinds = {row["phase"] in TOWER for row in trained}
    drawn = [panel for panel in every if panel[2] in kinds]
    figure, panels = pyplot.subplots(
        len(kinds), 2, figsize=(12, 4.5 * len(kinds)), squeeze=False, constrained_layout=True
    )
    for panel, (title, source, tower) in zip(panels.flat, drawn, strict=True):
        selected = [row for row in source if (row["phase"] in TOWER) == tower]
        for name in dict.fromkeys(key for row in selected for key in row if key not in META):
            curve = smooth([(row["minute"], row[name]) for row in selected if name in row])
            panel.plot(*zip(*curve, strict=True), label=name, color=COLORS.get(name), linewidth=1.3)
        for minute in borders(rows):
            panel.axvline(minute, color="gray", linewidth=0.6, linestyle=":")
        panel.set(title=title, xlabel="minutes of training", ylim=(0, 1))
        panel.grid(alpha=0.3)
        if selected:
            panel.legend(fontsize=7, ncols=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=70)
    pyplot.close(figure)


def read(log: Path) -> list[dict[str, Any]]:
    """The log's rows, with minutes that continue when a run was resumed."""
    rows: list[dict[str, Any]] = []
    offset = last = 0.0
    for line in log.read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["minute"] < last:
            offset += last
        last = row["minute"]
        rows.append(row | {"minute": last + offset})
    return rows


def borders(rows: list[dict[str, Any]]) -> list[float]:
    """The minutes at which a new phase begins."""
    pairs = zip(rows, rows[1:], strict=False)
    return [after["minute"] for before, after in pairs if before["phase"] != after["phase"]]


def smooth(curve: list[tuple[float, float]], over: int = 5) -> list[tuple[float, float]]:
    """Running means over `over` points, since small batches give noisy curves."""
    means = []
    for i, (minute, _) in enumerate(curve):
        near = [value for _, value in curve[max(0, i - over + 1) : i + 1]]
        means.append((minute, sum(near) / len(near)))
    return means
