"""sts eval: the effect of pruning on questions with known answers."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import find
from sts_cli.cli.engine import load_for
from sts_cli.cli.options import (
    BatchSize,
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    Quantization,
    Quiet,
    RunsLayers,
    check_choices,
)
from sts_cli.cli.parsing import rows_at_once
from sts_cli.errors import ProfileError
from sts_cli.inputs.images import Prepared, decode_ahead
from sts_cli.inputs.items import open_input
from sts_cli.openvino.ready import wished_backend
from sts_cli.profile import Profile, Quantize
from sts_cli.profile_files import load_profile
from sts_cli.report.console import stderr, stdout

SCENES = "scenes"


def evaluate(
    questions: Annotated[
        str, typer.Argument(help="A question file with answers, or the word scenes.")
    ],
    profiles: Annotated[
        str, typer.Option("--profiles", "-p", help="Names or files; the first is the reference.")
    ] = "off,gentle,balanced,aggressive,extreme,random,grid",
    per_kind: Annotated[
        int, typer.Option(min=1, help="Questions of each kind; for scenes only.")
    ] = 50,
    level: Annotated[
        float, typer.Option(min=0, max=1, help="Share of hard questions; for scenes only.")
    ] = 0.5,
    development: Annotated[
        bool, typer.Option("--development", help="The scenes for tuning, not those for testing.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantization = None,
    backend: RunsLayers = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = "auto",
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Quiet = False,
) -> None:
    """Exact match, agreement, tokens and speed of several profiles on the same questions.

    Each image is encoded once, and each question is answered under every profile. Its `answer`
    is the truth; without it, only agreement with the first profile is shown.

    \b
      sts eval scenes --profiles off,aggressive,random --per-kind 100
      sts eval questions.jsonl --profiles off,balanced
    """
    console = stderr()
    check_choices(device, dtype, quantize)
    size = rows_at_once(batch_size)
    wished = uniquely_named(profiles.split(","))
    precision = quantize or shared_by(wished, "quantize") or "none"
    runs_layers = wished_backend(backend or shared_by(wished, "backend"), wished[0])
    plans = [
        replace(plan, quantize=cast(Quantize, precision), backend=runs_layers) for plan in wished
    ]
    source = find(model)
    ready: Iterable[Prepared]
    if questions == SCENES:
        from sts_cli.scenes.suite import DEVELOPMENT, HELD_OUT, suite

        ready = suite(per_kind, level, DEVELOPMENT if development else HELD_OUT)
    else:
        ready = decode_ahead(open_input(questions).items())
    request = Request(tuple(plans), batch_size=size, max_new_tokens=max_new_tokens)
    vlm = load_for(source, request, device, dtype, console, quiet)
    from sts_cli.evaluation.table import Results

    results = Results()
    every = vlm.answers_each(ready, request)
    moving = console.is_terminal and not quiet
    with console.status("0 questions") if moving else contextlib.nullcontext() as counter:
        for count, answers in enumerate(every, 1):
            results.add(answers)
            if counter is not None:
                counter.update(f"{count} questions")
            if count == limit:
                break
    scores = results.rows()
    if json_:
        typer.echo(json.dumps({"model": source.name, "failed": results.failed, "profiles": scores}))
    elif scores:
        show(stdout(), scores)
    if scores and not quiet:
        console.print(unknown(*next(iter(scores.items()))), end="")
    if results.problem is not None:
        first = f"the first: {results.problem.kind}: {results.problem.message}"
        message = (
            f"{results.failed} of {count} questions have errors and are not counted"
            if scores
            else f"None of the {results.failed} questions could be answered"
        )
        console.print(f"sts: {message}; {first}", style="red")
        raise typer.Exit(1)


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
        f"{asked - known} of {asked} questions have no known answer; exact match and token F1 "
        "leave them out.\n"
    )


def shared_by(plans: Sequence[Profile], setting: str) -> str | None:
    """The `setting` that profiles ask for, which share one model. Raises ProfileError for two."""
    asked = {getattr(plan, setting): plan.name for plan in plans if getattr(plan, setting)}
    if len(asked) > 1:
        wishes = " and ".join(f"'{name}' asks for {value}" for value, name in asked.items())
        raise ProfileError(f"{wishes}, but all profiles share one model; give --{setting}.")
    return next(iter(asked), None)


def show(console: Console, scores: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print exact match in per cent, with half of its 95% interval, by kind and profile.

    Without known answers, print agreement with the first profile.
    """
    names = (kind for by_kind in scores.values() for kind in by_kind if kind != "all")
    kinds = list(dict.fromkeys(names))
    table = Table(box=None, pad_edge=False, header_style="bold")
    first = next(iter(scores.values()))
    truth = first["all"]["n"] > 0
    table.add_column("exact match" if truth else "agreement")
    table.add_column("n", justify="right")
    for name in scores:
        table.add_column(name, justify="right")
    for kind in [*kinds, "all"]:
        cells = [by_kind[kind] for by_kind in scores.values()]
        if truth:
            table.add_row(kind, str(first[kind]["n"]), *map(exact, cells))
        else:
            shares = (f"{cell['agreement']:.1%}" for cell in cells)
            table.add_row(kind, str(first[kind]["questions"]), *shares)
    table.add_section()
    accuracy = (("token F1", "f1", "{:.1%}"), ("agreement", "agreement", "{:.1%}"))
    for label, key, form in (
        *(accuracy if truth else ()),
        ("visual tokens", "tokens", "{:.1f}"),
    ):
        table.add_row(label, "", *(form.format(each["all"][key]) for each in scores.values()))
    for label, key in (("speed-up of prefill", "prefill"), ("speed-up in total", "speedup")):
        cells = [each["all"] for each in scores.values()]
        table.add_row(label, "", *(f"{cell[key]:.2f}x" for cell in cells))
        table.add_row("  95% interval", "", *(interval(cell, key) for cell in cells))
    console.print(table)


def interval(cell: dict[str, Any], key: str) -> str:
    """`1.90-2.30`: the ends of an interval."""
    return f"{cell[key + '_low']:.2f}-{cell[key + '_high']:.2f}"


def exact(cell: dict[str, Any]) -> str:
    """`84.0±10`, or a dash without known answers."""
    if cell["exact"] is None:
        return "-"
    return f"{100 * cell['exact']:.1f}±{50 * (cell['high'] - cell['low']):.0f}"
