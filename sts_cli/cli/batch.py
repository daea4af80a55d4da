"""sts batch: a question file or a folder of images, answered row by row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sts_cli.answering.request import Request
from sts_cli.checkpoints.fingerprint import fingerprint
from sts_cli.checkpoints.sources import Source, find
from sts_cli.cli.dry_run import dry_run, measured
from sts_cli.cli.engine import load_for
from sts_cli.cli.options import (
    BatchSize,
    Compare,
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    ProfileName,
    Quantization,
    Quiet,
    RunsLayers,
    check_choices,
    chosen_profile,
)
from sts_cli.cli.page import BatchPage, check_html
from sts_cli.cli.parsing import (
    check_ids,
    check_places,
    fallbacks,
    images_folder,
    least_agreement,
    overlays_at,
    rows_at_once,
    shard_of,
    tell_form,
)
from sts_cli.cli.run import Job, Outcome, Unanswered, finish, run_job
from sts_cli.inputs.several import open_inputs
from sts_cli.outputs.formats import format_of
from sts_cli.outputs.journal import Journal
from sts_cli.outputs.sidecar import Sidecars
from sts_cli.outputs.stream import Nowhere, Stdout
from sts_cli.report.console import Report, stderr

GATE_MISSED, INTERRUPTED = 3, 130  # exit codes


def batch(
    input_: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Question files, benchmark files as they ship, folders, images, or - for stdin.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .jsonl or .csv file; run again to go on. [stdout]"),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option("--question", "-Q", help="Asked about every image that has no question."),
    ] = None,
    model: Model = None,
    profile: ProfileName = "balanced",
    compare: Compare = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantization = None,
    backend: RunsLayers = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = "auto",
    on_oom: Annotated[
        str,
        typer.Option(help="If one question does not fit into memory: fail, or shrink its profile."),
    ] = "fail",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images. [default: the question file's]")
    ] = None,
    sidecar_: Annotated[
        bool,
        typer.Option("--sidecar", help="A .txt beside each image; one there stays unless --fresh."),
    ] = False,
    format_: Annotated[
        str | None, typer.Option("--format", help="Rows as llava, openai-batch or vqav2.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Answer everything again, then replace --out.")
    ] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Answer rows again that have an error.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: every n-th row, from the i-th; sts merge joins.")
    ] = None,
    fail_under: Annotated[
        str | None, typer.Option(help="agreement=X: exit code 3 if --compare finds less.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, load no weights, answer nothing.")
    ] = False,
    overlay: Annotated[
        str | None,
        typer.Option(help="Folder of pictures of the kept tokens; FOLDER/*.png for another kind."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="A report of all rows in one .html file, with pictures.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Answer every row of a question file, or one question about a folder.

    Each input row becomes exactly one output row, an answer or an error, in
    the order of the input; docs/formats.md describes both.

    Exit code 0: all answered; 1: some rows have errors; 2: nothing could be
    run; 3: less agreement than --fail-under; 130: interrupted, and what was
    finished is on disk.

    \b
      sts batch questions.jsonl --out answers.jsonl --profile aggressive
      sts batch photos/ --question "what is in the picture?" --out captions.csv
      cat questions.jsonl | sts batch - | jq .answer
    """
    console = stderr()
    check_choices(device, dtype, quantize)
    plan = chosen_profile(profile, quantize, backend)
    request = Request(
        (plan,),
        compare=compare,
        fallbacks=fallbacks(plan, on_oom),
        batch_size=rows_at_once(batch_size) or plan.batch_size,
        max_new_tokens=max_new_tokens or plan.max_new_tokens,
        places=overlay is not None or html is not None,
    )
    part = shard_of(shard)
    gate = least_agreement(fail_under, compare)
    form = format_of(out, format_)
    rows = open_inputs(input_, question, images)
    tell_form(rows, quiet)
    sidecars = Sidecars(replace=fresh) if sidecar_ else None
    check_places(rows, out, sidecars)
    overlays = overlays_at(overlay)
    if html is not None:
        check_html(html)
    check_ids(rows, form)
    source = find(model)
    run = {
        "model": source.name,
        "profile": plan.settings(),
        "input": rows.identity(),
        **images_folder(rows),
        "question": question,
        "max_new_tokens": request.max_new_tokens,
        "compare": compare,
        "shard": shard,
        "format": form.name,
        **model_files(source),
    }
    if check:
        pace = measured(None if fresh else out, form, run)
        raise typer.Exit(dry_run(rows, plan, limit, part, source, pace))
    page = None
    if html is not None:
        subtitle = f"model {source.name} · profile {plan.name}"
        page = BatchPage(html, rows, rows.start, subtitle)
    if out is not None:
        writer: Journal | Stdout = Journal(out, form, run, fresh=fresh, retry=retry_errors)
    else:
        writer = Nowhere(form) if sidecar_ else Stdout(form)
    job = Job(
        rows=rows,
        limit=limit,
        part=part,
        request=request,
        sidecars=sidecars,
        overlays=overlays,
        page=page,
        quiet=quiet,
    )
    report = Report(
        console,
        job.total(writer) if console.is_terminal else None,
        quiet=quiet,
        lines=out is not None or not sys.stdout.isatty(),
        escalate=plan.escalate,
    )
    unanswered = Unanswered(job, writer)
    if rows.kind != "stdin" and writer.covers(unanswered.ahead(), dtype):
        outcome = finish(job, writer, Outcome(whole=True, before=writer.before))
    else:
        try:
            vlm = load_for(source, request, device, dtype, console, quiet)
            files = model_files(source) or model_files(find(source.name))  # fetched by now
        except BaseException:
            writer.discard()
            raise
        writer.confirm(vlm.precision, files.get("files"))
        outcome = run_job(job, vlm, unanswered, writer, report)
    report.summary(outcome.notes)
    if outcome.failure is not None:
        console.print(f"sts: {outcome.failure}", style="red", markup=False)
        if out is not None:
            console.print("All answers so far are saved; run the same command again to go on.")
        raise typer.Exit(1)
    if not outcome.whole:
        raise typer.Exit(INTERRUPTED)
    agreed, compared = report.agreed + writer.agreed[0], report.compared + writer.agreed[1]
    if gate is not None and agreed / max(1, compared) < gate:
        text = f"sts: {agreed} of {compared} answers agree, less than {gate:g}"
        console.print(text, style="red", markup=False)
        raise typer.Exit(GATE_MISSED)
    if report.errors or writer.errors:
        raise typer.Exit(1)


def model_files(source: Source) -> dict[str, dict[str, str]]:
    """The state of the model's files as a setting; none of a model that is not here yet."""
    return {} if source.checkpoint is None else {"files": fingerprint(source.checkpoint)}
