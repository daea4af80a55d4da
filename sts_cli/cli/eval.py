"""sts eval: the effect of pruning on questions with known answers."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import find
from sts_cli.cli.engine import demo_note, load_for
from sts_cli.cli.eval_page import EvalPage
from sts_cli.cli.help import INPUT, OUTPUT, PRUNING
from sts_cli.cli.options import (
    BatchSize,
    Device,
    Dtype,
    Json,
    Level,
    Limit,
    MaxNewTokens,
    Model,
    OptionError,
    PerKind,
    Quantization,
    Quiet,
    RunsLayers,
    check_choice,
    check_choices,
)
from sts_cli.cli.page import check_html
from sts_cli.cli.parsing import rows_at_once, tell_form
from sts_cli.errors import ProfileError
from sts_cli.evaluation.conditions import Condition, controls, strongest
from sts_cli.evaluation.metrics import NAMES
from sts_cli.inputs.images import Prepared, decode_ahead
from sts_cli.inputs.items import open_input
from sts_cli.openvino.ready import wished_backend
from sts_cli.outputs.disk import write_whole
from sts_cli.outputs.settings import link_target
from sts_cli.profile import Profile, Quantize
from sts_cli.profile_files import load_profile
from sts_cli.report.console import stderr, stdout

SCENES = "scenes"
CONTROLS = ("strongest", "every", "none")


def evaluate(
    questions: Annotated[
        str,
        typer.Argument(
            metavar="QUESTIONS", help="A question file with answers, or the word scenes."
        ),
    ],
    per_kind: PerKind = 50,
    level: Level = 0.5,
    development: Annotated[
        bool,
        typer.Option(
            "--development",
            help="The scenes for tuning, not those for testing.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    limit: Limit = None,
    metric: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="exact, contains, vqa, anls or f1; --out has all.",
            rich_help_panel=OUTPUT,
        ),
    ] = "exact",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The table as .csv or .json.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="A page of the table and of every answer.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    profiles: Annotated[
        str,
        typer.Option(
            "--profiles",
            "-p",
            metavar="NAMES",
            help="Names or files; the first is the reference.",
            rich_help_panel=PRUNING,
        ),
    ] = "off,gentle,balanced,aggressive,extreme",
    controls_: Annotated[
        str,
        typer.Option(
            "--controls",
            metavar="WORD",
            help="Random, grid, pooling and downsampling, with the tokens of: strongest, "
            "every or none of the profiles.",
            rich_help_panel=PRUNING,
        ),
    ] = "strongest",
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantization = None,
    backend: RunsLayers = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = "auto",
) -> None:
    """Accuracy, agreement, tokens and speed of several profiles on the same questions.

    Each image is encoded once, and each question is answered under every profile, and under
    controls: simple methods with as many tokens, another image, no image. Its `answer` is the
    truth; without it, only agreement with the first profile is shown. p is that of a paired test
    against the first profile.

    \b
      sts eval scenes --profiles off,aggressive --per-kind 100
      sts eval questions.jsonl --metric vqa --out table.csv
    """
    console = stderr()
    check_choices(device, dtype, quantize)
    check_choice("--controls", controls_, CONTROLS)
    check_choice("--metric", metric, tuple(NAMES))
    if out is not None and out.suffix in (".html", ".htm"):
        out, html = None, html or out
    if out is not None:
        check_table(out, questions)
    if html is not None:
        check_html(html)
    size = rows_at_once(batch_size)
    plans = on_one_model(uniquely_named(profiles.split(",")), quantize, backend)
    conditions = [Condition(plan) for plan in plans] + controls_of(plans, controls_)
    source = find(model)
    ready = questions_of(questions, per_kind, level, development, console, quiet)
    page = None if html is None else EvalPage(metric, conditions)
    request = Request(
        tuple(one.profile for one in conditions), batch_size=size, max_new_tokens=max_new_tokens
    )
    vlm = load_for(source, request, device, dtype, console, quiet)
    from sts_cli.evaluation.exam import answers
    from sts_cli.evaluation.table import Results

    results = Results(conditions, metric)
    moving = console.is_terminal and not quiet
    count = 0
    with console.status("0 questions") if moving else contextlib.nullcontext() as counter:
        asked: Iterator[Prepared] = islice(ready, limit)
        asked = asked if page is None else page.seen(asked)
        for count, found in enumerate(answers(vlm, asked, conditions, request), 1):
            results.add(found)
            if page is not None:
                page.add(found)
            if counter is not None:
                counter.update(f"{count} questions under {len(conditions)} conditions")
    figures = results.figures()
    record = {
        "model": source.name,
        "metric": metric,
        "failed": results.failed,
        "profiles": {plan.name: figures[plan.name] for plan in plans if figures},
        "controls": {one.name: figures[one.name] for one in conditions[len(plans) :] if figures},
    }
    if out is not None and figures:
        write_table(out, record)
        if not quiet:
            console.print(f"Wrote {out}.")
    if html is not None and page is not None and figures:
        subtitle = f"{Path(questions).name}; model {source.name}"
        page.write(html, figures, subtitle)
        if not quiet:
            console.print(f"Wrote {html}.")
    if json_:
        typer.echo(json.dumps(record))
    elif figures:
        show(stdout(), figures, metric, len(plans))
    if figures and not quiet:
        console.print(unknown(*next(iter(figures.items()))), end="")
    if results.problem is not None:
        first = f"the first: {results.problem.kind}: {results.problem.message}"
        message = (
            f"{results.failed} of {count} questions have errors and are not counted"
            if figures
            else f"None of the {results.failed} questions could be answered"
        )
        console.print(f"sts: {message}; {first}", style="red")
        raise typer.Exit(1)
    if not count:
        console.print("sts: no questions in the input", style="red")
        raise typer.Exit(2)
    demo_note(source, console, quiet)


def questions_of(
    name: str, per_kind: int, level: float, development: bool, console: Console, quiet: bool
) -> Iterator[Prepared]:
    """The questions of a file, or of the built-in scenes. Raises InputError."""
    if name != SCENES:
        rows = open_input(name)
        tell_form(rows, console, quiet)
        return decode_ahead(rows.items())
    from sts_cli.scenes.suite import DEVELOPMENT, HELD_OUT, suite

    return suite(per_kind, level, DEVELOPMENT if development else HELD_OUT)


def on_one_model(
    plans: Sequence[Profile], quantize: str | None, backend: str | None
) -> list[Profile]:
    """The profiles with the precision and backend that all of them share. Raises ProfileError."""
    precision = quantize or shared_by(plans, "quantize") or "none"
    runs_layers = wished_backend(backend or shared_by(plans, "backend"), plans[0])
    return [
        replace(plan, quantize=cast(Quantize, precision), backend=runs_layers) for plan in plans
    ]


def controls_of(plans: Sequence[Profile], which: str) -> list[Condition]:
    """The controls that --controls asks for."""
    if which == "none":
        return []
    pruned = [plan for plan in plans if plan.cuts]
    found = controls(plans, pruned if which == "every" else strongest(plans))
    return [one for one in found if one.name not in {plan.name for plan in plans}]


def uniquely_named(names: Sequence[str]) -> list[Profile]:
    """The profiles of these names; files of the same name are named by their paths.

    Raises ProfileError.
    """
    plans = [load_profile(name) for name in names]
    uses = Counter(plan.name for plan in plans)
    unique = [
        plan if uses[plan.name] == 1 else replace(plan, name=name)
        for name, plan in zip(names, plans, strict=True)
    ]
    name, count = Counter(plan.name for plan in unique).most_common(1)[0]
    if count > 1:
        raise ProfileError(f"--profiles names '{name}' {count} times; once is enough.")
    return unique


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


def shared_by(plans: Sequence[Profile], setting: str) -> str | None:
    """The `setting` that profiles ask for, which share one model. Raises ProfileError for two."""
    asked = {getattr(plan, setting): plan.name for plan in plans if getattr(plan, setting)}
    if len(asked) > 1:
        wishes = " and ".join(f"'{name}' asks for {value}" for value, name in asked.items())
        raise ProfileError(f"{wishes}, but all profiles share one model; give --{setting}.")
    return next(iter(asked), None)


def check_table(path: Path, questions: str) -> None:
    """Raise OptionError for an --out that is no table, or is the input."""
    if path.suffix not in (".csv", ".json"):
        raise OptionError(f"--out {path}: the name must end in .csv, .json or .html.")
    if path.exists() and Path(questions).exists() and path.samefile(questions):
        raise OptionError(f"--out {path} is the input; give another name.")


def write_table(path: Path, record: dict[str, Any]) -> None:
    """The figures as JSON, or as CSV with a line for each condition and kind.

    Raises OutputError.
    """
    if path.suffix == ".json":
        text = json.dumps(record, indent=1) + "\n"
    else:
        lines = [
            {"condition": name, "control": group == "controls", "kind": kind, **plain(cell)}
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
    return f"{cell['p']:.2g}" if cell["p"] >= 0.001 else "<.001"


def faster(cell: dict[str, Any], key: str) -> str:
    """`x2.1 (1.9-2.3)`: a speed-up with its interval."""
    if cell[key] is None:
        return "-"
    middle, low, high = (f"{cell[name]:.2g}" for name in (key, f"{key}_low", f"{key}_high"))
    return f"x{middle} ({low}-{high})"
