"""The learning curves of a run, from its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

META = {"minute", "phase", "step", "seconds", "drawn", "loss", "norm", "validation", "shapes"}
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
}


def plot(run: Path, target: Path) -> None:
    """Draw three panels: dense accuracies of the tower, answers in training, answers held out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read(run / "log.jsonl")
    tower = [row for row in rows if row["phase"] in ("windows", "whole") and "loss" in row]
    asked = [row for row in rows if row["phase"] not in ("windows", "whole") and "loss" in row]
    checked = [row["validation"] | {"minute": row["minute"]} for row in rows if "validation" in row]
    figure, panels = pyplot.subplots(1, 3, figsize=(16, 4.5), constrained_layout=True)
    titles = (
        "vision tower: patches right (training)",
        "answers exactly right (training)",
        "answers exactly right (held out, 32 scenes)",
    )
    for panel, title, found in zip(panels, titles, (tower, asked, checked), strict=True):
        for name in dict.fromkeys(key for row in found for key in row if key not in META):
            curve = smooth([(row["minute"], row[name]) for row in found if name in row])
            panel.plot(*zip(*curve, strict=True), label=name, color=COLORS.get(name), linewidth=1.3)
        for minute in borders(rows):
            panel.axvline(minute, color="gray", linewidth=0.6, linestyle=":")
        panel.set(title=title, xlabel="minutes of training", ylim=(0, 1))
        panel.grid(alpha=0.3)
        if found:
            panel.legend(fontsize=7, ncols=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=70)
    pyplot.close(figure)


def read(log: Path) -> list[dict[str, Any]]:
    """The log's rows; minutes go on counting where a run was taken up again."""
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
    """Running means, so that batches of a few pictures show a trend."""
    found = []
    for i, (minute, _) in enumerate(curve):
        near = [value for _, value in curve[max(0, i - over + 1) : i + 1]]
        found.append((minute, sum(near) / len(near)))
    return found
