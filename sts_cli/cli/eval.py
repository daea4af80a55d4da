"""sts eval: the effect of pruning on questions with known answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import find
from sts_cli.cli.engine import demo_note, load_for
from sts_cli.cli.eval_page import EvalPage
from sts_cli.cli.eval_table import check_table, show, unknown, write_table
from sts_cli.cli.help import input_option, output_option, pruning_option
from sts_cli.cli.options import (
    BatchSize,
    Device,
    Dtype,
    Json,
    Level,
    Limit,
    MaxNewTokens,
    Model,
    PerKind,
    Quantization,
    Quiet,
    RunsLayers,
    check_choice,
    check_choices,
)
from sts_cli.cli.page import check_html
from sts_cli.cli.parsing import rows_at_once
from sts_cli.cli.plans import CONTROLS, controls_of, on_one_model, uniquely_named
from sts_cli.cli.questions import questions_of
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.metrics import NAMES
from sts_cli.inputs.images import Prepared
from sts_cli.report.console import stderr, stdout


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
        bool, input_option("--development", help="The scenes for tuning, not those for testing.")
    ] = False,
    limit: Limit = None,
    metric: Annotated[
        str, output_option(metavar="NAME", help="exact, contains, vqa, anls or f1; --out has all.")
    ] = "exact",
    out: Annotated[
        Path | None,
        output_option("--out", "-o", metavar="FILE", help="The table as .csv or .json."),
    ] = None,
    html: Annotated[
        Path | None,
        output_option("--html", metavar="FILE", help="A page of the table and of every answer."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    profiles: Annotated[
        str,
        pruning_option(
            "--profiles", "-p", metavar="NAMES", help="Names or files; the first is the reference."
        ),
    ] = "off,gentle,balanced,aggressive,extreme",
    controls_: Annotated[
        str,
        pruning_option(
            "--controls",
            metavar="WORD",
            help="Random, grid, pooling and downsampling, with the tokens of: strongest, "
            "every or none of the profiles.",
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
    if out is not None and out.suffix.lower() in (".html", ".htm"):
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
    page = None if html is None else EvalPage(html, metric, conditions)
    request = Request(
        tuple(one.profile for one in conditions),
        batch_size=size,
        max_new_tokens=max_new_tokens,
        places=page is not None,
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
    if page is not None and figures:
        subtitle = f"{Path(questions).name}; model {source.name}"
        page.write(figures, subtitle)
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
