"""The text of --help: examples, options in groups, and what holds for all commands."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from sts_cli.report.console import stream

INPUT, OUTPUT, PRUNING, MODEL, SPEED, OTHER = (
    "Input",
    "Output",
    "Pruning",
    "Model",
    "Speed",
    "Other",
)
CLUSTER = "Cluster"
GROUPS = (INPUT, OUTPUT, PRUNING, MODEL, SPEED, CLUSTER, OTHER)
input_option, output_option, pruning_option, model_option, speed_option, cluster_option = (
    partial(typer.Option, rich_help_panel=group) for group in GROUPS[:6]
)
NARROWEST, WIDEST = 80, 100  # columns of a help page
UNBROKEN = "\xa0"  # a blank at which no line ends
NAMES = 28  # columns, at most, beside which an option is explained
FIRST = {  # commands of many options -> the parameters that --help explains
    "batch": ("input_", "question", "out", "html", "check", "profile", "compare", "model")
}
ENVIRONMENT = (
    ("STS_MODEL", "The model, if there is no --model."),
    ("STS_BACKEND", "auto, torch or openvino, if neither --backend nor the profile says."),
    ("STS_CACHE", "Folder of converted weights. (default: ~/.cache/sts)"),
    ("HF_HUB_CACHE", "Folder of models from the Hub; HF_HUB_OFFLINE=1 forbids downloads."),
    ("NO_COLOR", "Any value: no colours."),
)
EXITS = (
    ("0", "Everything was done; of batch: all rows are answered."),
    ("1", "Some rows have errors, or the disk is full; of doctor: a problem."),
    ("2", "Nothing could be run: the message says why."),
    ("3", "Less agreement than --fail-under; of tune: not proved."),
    ("130", "Interrupted; what was finished is on disk."),
    ("141", "Nobody reads standard output any more."),
)


class Command(TyperCommand):
    """A command that explains itself on one page."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write(f"{usage(ctx)}\n")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(ctx, FIRST.get(ctx.command.name)))


class Group(TyperGroup):
    """A command of commands; so is `sts` itself."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write(f"{usage(ctx)}\n")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(ctx))


def show_all(ctx: Any, wanted: bool) -> None:
    """The callback of --help-all."""
    if wanted:
        stream(page(ctx))
        ctx.exit()


def page(ctx: Any, first: Sequence[str] | None = None, width: int | None = None) -> str:
    """The help of a command; with `first`, of these parameters only."""
    width = width or max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))
    command = ctx.command
    params = command.get_params(ctx)
    chosen = [one for one in params if first is None or one.name in first]
    commands = getattr(command, "commands", {})
    parts = [usage(ctx), prose(command.help or "", width, first is not None)]
    if commands:
        shown = [(name, summary(one.help or "")) for name, one in commands.items()]
        parts.append(block("Commands", shown, width))
    by_group: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
    for one in chosen:
        argument = one.param_type_name == "argument"
        group = one.rich_help_panel or (INPUT if argument else OTHER)
        by_group[group].append((names(one), told(one)))
    column = min(NAMES, 4 + max(len(left) for rows in by_group.values() for left, _ in rows))
    blocks = [block(name, rows, width, column) for name, rows in by_group.items() if rows]
    parts += ["\n".join(blocks)] if first is not None else blocks
    if commands and ctx.parent is None:
        parts += [block("Environment", ENVIRONMENT, width), block("Exit codes", EXITS, width)]
        parts.append(f"{ctx.command_path} COMMAND --help explains a command; sts docs has more.")
    if first is not None:
        more = len(params) - len(chosen)
        parts.append(f"{more} more options: {ctx.command_path} --help-all. Rows: sts docs formats.")
    return "\n\n".join(part for part in parts if part) + "\n"


def usage(ctx: Any) -> str:
    """`Usage: sts batch INPUT [OPTIONS]`."""
    params = ctx.command.get_params(ctx)
    takes = [metavar(one) for one in params if one.param_type_name == "argument"]
    takes = ["COMMAND"] if hasattr(ctx.command, "commands") else takes
    return " ".join(["Usage:", ctx.command_path, *takes, "[OPTIONS]"])


def prose(text: str, width: int, short: bool) -> str:
    """Paragraphs wrapped, and examples, which begin with \\b, as they are.

    A short page has the first paragraph and the examples only.
    """
    found = text.replace("\b\n", "\b").split("\n\n")
    kept = [one for number, one in enumerate(found) if not short or not number or one[:1] == "\b"]
    return "\n\n".join(
        one[1:].rstrip() if one[:1] == "\b" else textwrap.fill(" ".join(one.split()), width)
        for one in kept
    )


def summary(text: str) -> str:
    """The first paragraph on one line."""
    return " ".join(text.split("\n\n")[0].split())


def block(
    title: str, rows: Iterable[tuple[str, str]], width: int, column: int | None = None
) -> str:
    """A title, and rows of two columns below it."""
    rows = list(rows)
    column = column or 4 + max(len(left) for left, _ in rows)
    lines = [f"{title}:"]
    for left, right in rows:
        wrapped = textwrap.wrap(right, width - column, break_on_hyphens=False)
        if len(left) + 4 > column:
            lines.append(f"  {left}")
        else:
            lines.append(f"  {left:<{column - 2}}{wrapped.pop(0)}")
        lines += [" " * column + line for line in wrapped]
    return "\n".join(lines).replace(UNBROKEN, " ")


def metavar(param: Any) -> str:
    """The placeholder of an argument: `INPUT`, `SHARD...`."""
    return str(param.metavar or param.name.upper())


def names(param: Any) -> str:
    """The left column: `-o, --out FILE`; long names stand below each other."""
    if param.param_type_name == "argument":
        return metavar(param)
    short = [name for name in param.opts if not name.startswith("--")]
    long = [name for name in param.opts if name.startswith("--")]
    value = "" if param.is_flag else f" {param.metavar or 'TEXT'}"
    lead = f"{short[0]}, " if short else "    "
    return f"{lead}{', '.join(long)}{value}"


def told(param: Any) -> str:
    """The right column, with the default."""
    shown = param.show_default
    if not isinstance(shown, str):
        default = None if callable(param.default) or not shown else param.default
        shown = "" if default is None or default is False else str(default)
    kept = f"(default: {shown})".replace(" ", UNBROKEN)
    return f"{param.help or ''} {kept if shown else ''}".strip(" ")
