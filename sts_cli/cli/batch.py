"""sts batch: a question file or a folder of images, answered row by row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sts_cli.answering.request import Request
from sts_cli.checkpoints.fingerprint import fingerprint, without_times
from sts_cli.checkpoints.sources import Source, find
from sts_cli.cli.dry_run import dry_run, measured
from sts_cli.cli.ending import end
from sts_cli.cli.engine import demo_note, load_for
from sts_cli.cli.help import (
    cluster_option,
    input_option,
    output_option,
    pruning_option,
    show_all,
    speed_option,
)
from sts_cli.cli.options import (
    DEFAULT,
    BatchSize,
    Compare,
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    OptionError,
    ProfileName,
    Quantization,
    Quiet,
    RunsLayers,
    check_choice,
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
from sts_cli.cli.ray import (
    Asked,
    ClusterWish,
    check_no_ray,
    check_with_ray,
    checked_address,
    folder_format,
    open_shards,
    run_on_ray,
)
from sts_cli.cli.run import Job, Outcome, Unanswered, finish, run_job
from sts_cli.inputs.several import open_inputs
from sts_cli.outputs.formats import format_of
from sts_cli.outputs.journal import Journal
from sts_cli.outputs.packed import open_journal
from sts_cli.outputs.shards import Shards
from sts_cli.outputs.sidecar import Sidecars
from sts_cli.outputs.stream import Nowhere, Stdout
from sts_cli.profile import Profile
from sts_cli.report.console import Log, Report, stderr, stdout

PROGRESS = ("bar", "lines", "none")


def batch(
    input_: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Question or benchmark files, folders, images, -.",
        ),
    ],
    question: Annotated[
        str | None,
        input_option(
            "--question", "-Q", metavar="TEXT", help="Asked about every image that has no question."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        input_option(
            metavar="FOLDER", help="Folder of the images.", show_default="the question file's"
        ),
    ] = None,
    limit: Annotated[
        int | None, input_option(min=1, metavar="N", help="Only the first N rows.")
    ] = None,
    shard: Annotated[
        str | None,
        input_option(metavar="I/N", help="Every n-th row, from the i-th; sts merge joins."),
    ] = None,
    out: Annotated[
        Path | None,
        output_option(
            "--out",
            "-o",
            metavar="FILE",
            help="A .jsonl, .csv or .parquet.",
            show_default="standard output",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        output_option("--format", metavar="NAME", help="Rows as llava, openai-batch or vqav2."),
    ] = None,
    sidecar_: Annotated[
        bool,
        output_option(
            "--sidecar", help="A .txt beside each image; one there stays unless --fresh."
        ),
    ] = False,
    html: Annotated[
        Path | None,
        output_option(
            metavar="FILE", help="A report of all rows in one .html file, with pictures."
        ),
    ] = None,
    overlay: Annotated[
        str | None,
        output_option(
            metavar="FOLDER", help="Pictures of the kept tokens; FOLDER/*.png for another kind."
        ),
    ] = None,
    fresh: Annotated[
        bool, output_option("--fresh", help="Answer everything again, then replace --out.")
    ] = False,
    retry_errors: Annotated[
        bool, output_option("--retry-errors", help="Answer rows again that have an error.")
    ] = False,
    on_error: Annotated[
        str, output_option(metavar="WORD", help="After a row with an error: continue, or stop.")
    ] = "continue",
    check: Annotated[
        bool, output_option("--dry-run", help="Read everything, load no weights, answer nothing.")
    ] = False,
    progress: Annotated[
        str | None,
        output_option(
            metavar="KIND",
            help="bar, lines (a line per row, and now and then the time left), or none.",
            show_default="bar on a terminal, else lines",
        ),
    ] = None,
    log_json: Annotated[
        bool,
        output_option("--log-json", help="Messages for programs: JSON lines on standard error."),
    ] = False,
    quiet: Quiet = False,
    profile: ProfileName = DEFAULT,
    compare: Compare = False,
    fail_under: Annotated[
        str | None,
        pruning_option(metavar="RULE", help="agreement=X: exit code 3 if --compare finds less."),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantization = None,
    backend: RunsLayers = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = "auto",
    on_oom: Annotated[
        str,
        speed_option(
            metavar="WORD",
            help="If one question does not fit into memory: fail, or shrink its profile.",
        ),
    ] = "fail",
    ray: Annotated[
        str | None,
        cluster_option(
            metavar="[ADDRESS]",
            callback=checked_address,
            help="Answer on a Ray cluster, into a folder --out: auto, HOST:PORT, or local.",
        ),
    ] = None,
    ray_actors: Annotated[
        int | None,
        cluster_option(
            min=1, metavar="N", help="Models in memory.", show_default="as many as have room"
        ),
    ] = None,
    ray_cpus: Annotated[
        float | None,
        cluster_option(
            min=0, metavar="N", help="Cores of each.", show_default="a GPU's share, else up to 4"
        ),
    ] = None,
    ray_gpus: Annotated[
        float | None,
        cluster_option(
            min=0, metavar="N", help="GPUs of each.", show_default="1 if there is any, else 0"
        ),
    ] = None,
    help_all: Annotated[
        bool,
        typer.Option(
            "--help-all", callback=show_all, is_eager=True, help="Explain every option and exit."
        ),
    ] = False,
) -> None:
    """Answer every row of a question file, or one question about a folder.

    Each input row becomes exactly one output row, an answer or an error, in
    the order of the input; sts docs formats describes both. A terminal shows
    a line for each row; a file or a pipe gets the rows themselves. If a run
    with --out stops, run the same command again to continue.

    Exit code 0: all answered; 1: some rows have errors; 2: nothing could be
    run; 3: less agreement than --fail-under; 130: interrupted, and what was
    finished is on disk.

    \b
      sts batch questions.jsonl --out answers.jsonl --profile aggressive
      sts batch photos/ --question "what is in the picture?" --out captions.csv
      cat questions.jsonl | sts batch - | jq .answer
    """
    console = Log() if log_json else stderr()
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
    check_choice("--on-error", on_error, ("continue", "stop"))
    shown = progress_shown(progress, console, quiet or log_json)
    part = shard_of(shard)
    gate = least_agreement(fail_under, compare)
    if ray is None:
        check_no_ray({"--ray-actors": ray_actors, "--ray-cpus": ray_cpus, "--ray-gpus": ray_gpus})
        form = format_of(out, format_)
    else:
        refused = {
            "--html": html is not None,
            "--overlay": overlay is not None,
            "--sidecar": sidecar_,
            "--fresh": fresh,
            "--on-error stop": on_error == "stop",
            f"--device {device}": ":" in device,
        }
        check_with_ray(ray, input_, refused)
        form = folder_format(out, format_)
    rows = open_inputs(
        input_, question, images, lambda form: tell_form(form, console, quiet), ray is not None
    )
    tell_form(rows.form, console, quiet)
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
        **({} if ray is None else {"limit": limit}),
        **model_files(source),
        **guide_files(plan),
    }
    if check:
        pace = measured(None if fresh else out, form, run)
        raise typer.Exit(dry_run(rows, plan, limit, part, source, pace))
    page = None
    if html is not None:
        subtitle = f"model {source.name} · profile {plan.name}"
        page = BatchPage(html, rows, rows.start, subtitle)
    plain = out is None and format_ is None and sidecars is None and not log_json
    people = plain and sys.stdout.isatty()
    writer: Journal | Stdout | Shards
    if ray is not None and out is not None:
        writer = open_shards(out, form, run, rows, retry_errors)
    elif out is not None:
        writer = open_journal(out, form, run, fresh=fresh, retry=retry_errors)
    else:
        writer = Nowhere(form) if sidecar_ or people else Stdout(form)
    job = Job(
        rows=rows,
        limit=limit,
        part=part,
        request=request,
        sidecars=sidecars,
        overlays=overlays,
        page=page,
        stop_on_error=on_error == "stop",
        quiet=quiet or log_json,
    )
    report = Report(
        console,
        None if shown == "none" and not log_json else job.total(writer.before),
        quiet=quiet,
        lines=shown != "none" and ray is None and (out is not None or not sys.stdout.isatty()),
        screen=(console if console.is_terminal else stdout()) if people else None,
        progress="lines" if log_json else shown,
        escalate=plan.escalate,
    )
    if isinstance(writer, Shards):
        asked = Asked(tuple(input_), question, images, source, device, dtype)
        wish = ClusterWish(ray or "auto", ray_actors, ray_cpus, ray_gpus)
        outcome = run_on_ray(job, asked, wish, writer, report)
    else:
        outcome = run_here(job, source, device, dtype, writer, report)
    code = end(job, out, writer, report, outcome, gate)
    if code:
        raise typer.Exit(code)
    demo_note(source, console, quiet)


def run_here(
    job: Job, source: Source, device: str, dtype: str, writer: Journal | Stdout, report: Report
) -> Outcome:
    """Answer all rows that have no answer by a model in this process; load none for nothing."""
    unanswered = Unanswered(job, writer)
    if job.rows.kind != "stdin" and writer.covers(unanswered.ahead(), dtype):
        return finish(job, writer, Outcome(whole=True, before=writer.before))
    try:
        vlm = load_for(source, job.request, device, dtype, report.console, job.quiet)
        next(unanswered.ahead(), None)  # raises InputError for standard input without a row
        files = model_files(source) or model_files(find(source.name))  # fetched by now
    except BaseException:
        writer.discard()
        raise
    writer.confirm(vlm.precision, files.get("files"))
    return run_job(job, vlm, unanswered, writer, report)


def progress_shown(wish: str | None, console: Console, quiet: bool) -> str:
    """The kind of progress that a run shows: bar, lines or none. Raises OptionError."""
    check_choice("--progress", wish or "none", PROGRESS)
    if wish == "bar" and not console.is_terminal:
        raise OptionError("--progress bar needs a terminal on standard error; give lines.")
    if quiet:
        return "none"
    return wish or ("bar" if console.is_terminal else "lines")


def guide_files(plan: Profile) -> dict[str, dict[str, str]]:
    """The state of the files of a profile's guide as a setting. Raises ModelError for no model."""
    files = {} if plan.guide is None else model_files(find(plan.guide))
    return {"guide": without_times(files["files"])} if files else {}


def model_files(source: Source) -> dict[str, dict[str, str]]:
    """The state of the model's files as a setting; none of a model that is not here yet."""
    return {} if source.checkpoint is None else {"files": fingerprint(source.checkpoint)}
