"""Charts as inline SVG, drawn by pygal; their colours are those of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BINS = 24
TAIL = 0.01  # of the values at each end, which the first and the last bar count, too
COLORS = ("#3b82d6", "#e0762b", "#2f9e6e", "#b0569f", "#c94f4f", "#8a7a2f", "#5b6ad0", "#7d7f86")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its title; `style` belongs into the page's own style sheet."""

    title: str
    caption: str
    svg: str
    style: str


def histogram(
    name: str, title: str, caption: str, series: Mapping[str, Sequence[float]], unit: str
) -> Chart:
    """How often values of one or more series occur."""
    import pygal

    ordered = sorted(value for values in series.values() for value in values)
    cut = int(TAIL * (len(ordered) - 1))
    low, high = ordered[cut], ordered[-1 - cut]
    step = (high - low) / BINS or max(abs(high), 1.0) / BINS
    chart = pygal.Histogram(**settings(len(series) > 1), x_title=unit, y_title="count")
    for label, values in series.items():
        counts = [0] * BINS
        for value in values:
            counts[min(BINS - 1, max(0, int((value - low) / step)))] += 1
        bars = [(count, low + n * step, low + (n + 1) * step) for n, count in enumerate(counts)]
        chart.add(label, [bar for bar in bars if bar[0]])
    tail = f" The outer bars count the outermost {TAIL:.0%}, too." if cut else ""
    return drawn(chart, name, title, caption + tail)


def scatter(
    name: str, title: str, caption: str, points: Sequence[Mapping[str, Any]], axes: tuple[str, str]
) -> Chart:
    """Labelled points with their intervals: each has name, x, y, and x_low, x_high, y_low, y_high.

    An interval whose ends are None is not drawn.
    """
    import pygal

    chart = pygal.XY(
        **{**settings(True), "width": 760, "height": 420},
        x_title=axes[0],
        y_title=axes[1],
        print_labels=False,
    )
    for point in points:
        x, y = point["x"], point["y"]
        ends = [(point["x_low"], y), (point["x_high"], y), (x, y)]
        ends += [(x, point["y_low"]), (x, point["y_high"])]
        line = [{"value": one, "node": {"r": 0}} for one in ends if None not in one]
        label = {"value": (x, y), "node": {"r": 5}, "label": point["name"]}
        chart.add(point["name"], [*line, label])
    return drawn(chart, name, title, caption)


def settings(legend: bool) -> dict[str, Any]:
    """What all charts share."""
    from pygal.style import Style

    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--ink)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--line)",
        guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--line)",
        font_family="system-ui, sans-serif",
        label_font_size=12,
        major_label_font_size=12,
        title_font_size=13,
        legend_font_size=13,
        opacity=".65",
        colors=COLORS,
        value_colors=("var(--ink)",) * 64,
    )
    return {
        "style": style,
        "js": (),
        "width": 500,
        "height": 290,
        "margin": 4,
        "margin_bottom": 14 if legend else 4,
        "show_legend": legend,
        "legend_at_bottom": True,
        "legend_box_size": 12,
        "max_scale": 7,
        "disable_xml_declaration": True,
    }


def drawn(chart: Any, name: str, title: str, caption: str) -> Chart:
    """The chart without scripts, comments and style, which the page's policy would not allow."""
    from xml.etree import ElementTree

    chart.uuid, chart.title = name, None
    root = chart.render_tree()
    style = "".join(element.text or "" for element in root.iter("style"))
    for parent in list(root.iter()):
        for child in list(parent):
            unwanted = child.tag in ("style", "script") or not isinstance(child.tag, str)
            if unwanted or "tooltip-overlay" in child.get("class", ""):
                parent.remove(child)
    top = root.find("title")
    if top is not None:
        top.text = title
    return Chart(title, caption, ElementTree.tostring(root, encoding="unicode"), style)
