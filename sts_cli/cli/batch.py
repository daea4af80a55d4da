"""sts batch: a question file or a folder of images, answered row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sts_cli.cli.dry_run import dry_run
from sts_cli.cli.engine import load_engine
from sts_cli.cli.interrupt import Interruption
from sts_cli.cli.options import (
    Compare,
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    OptionError,
    ProfileName,
    Quantization,
    Quiet,
    check_choices,
    chosen_profile,
)
from sts_cli.inputs.images import decode_ahead
from sts_cli.inputs.items import Input, find_input
from sts_cli.outputs.journal import Journal
from sts_cli.outputs.sidecar import sidecar, write_sidecar
from sts_cli.outputs.stream import Stdout
from sts_cli.profile import Profile
from sts_cli.records import Item
from sts_cli.report.console import Report, stderr
from sts_cli.sources import Source, find


def batch(
    input_: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="questions.jsonl (or .csv, .json), a folder of images, an image, or - for stdin.",
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
    max_new_tokens: MaxNewTokens = None,
    batch_size: Annotated[
        str, typer.Option(help="Questions at once: auto, or a number; halved when memory is short.")
    ] = "auto",
    sidecar_: Annotated[
        bool, typer.Option("--sidecar", help="Also write a .txt beside each image.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore what --out holds.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Answer rows again that have an error.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: every n-th row, from the i-th; sts merge joins.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, load no model, answer nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Answer every row of a question file, or one question about every image of a folder.

    Each input row becomes exactly one output row, an answer or an error, in the order of the
    input. Exit code 0: all answered; 1: some rows have errors; 2: nothing could be run;
    130: interrupted, and what was finished is on disk.

    \b
      sts batch questions.jsonl --out answers.jsonl --profile aggressive
      sts batch photos/ --question "what is in the picture?" --out captions.csv
      cat questions.jsonl | sts batch - | jq .answer
    """
    console = stderr()
    check_choices(device, dtype, quantize)
    plan = chosen_profile(profile, quantize)
    size = rows_at_once(batch_size) or plan.batch_size
    part = shard_of(shard)
    rows = find_input(input_, question)
    if check:
        raise typer.Exit(dry_run(rows, plan, limit, part))
    source = find(model)
    run = settings(rows, source, plan, dtype, question, max_new_tokens, compare, shard)
    writer = Stdout() if out is None else Journal(out, run, fresh=fresh, retry=retry_errors)
    engine = load_engine(source, plan, device, dtype, console, quiet)
    from sts_cli.engine.scheduler import answer_all

    def skipped(item: Item) -> bool:
        if item.id in writer:
            return True
        return sidecar_ and not fresh and bool(item.images) and sidecar(item).exists()

    waiting = [0]  # rows that an earlier run has answered
    items = chosen(rows, limit, part, skipped, waiting)
    total = rows.count()
    report = Report(console, total, quiet=quiet, bar=out is not None or not is_terminal())
    whole = False
    try:
        with report, Interruption(lambda message: say(console, message, quiet)) as stop:
            for answer in answer_all(
                engine,
                decode_ahead(items),
                plan,
                compare=compare,
                batch_size=size,
                max_new_tokens=max_new_tokens or plan.max_new_tokens,
                stop=lambda: stop.asked,
            ):
                writer.append(answer)
                if sidecar_:
                    write_sidecar(answer)
                report.item(answer)
            whole = not stop.asked
    except KeyboardInterrupt:
        pass
    finally:
        writer.close(complete=whole)
    notes = [f"{waiting[0]} answered before"] if waiting[0] else []
    notes += [f"passed over: {count} {what}" for what, count in rows.skipped.items()]
    report.summary("; " + "; ".join(notes) if notes else "")
    if not whole:
        raise typer.Exit(130)
    if report.errors or writer.errors:
        raise typer.Exit(1)


def chosen(
    rows: Input,
    limit: int | None,
    part: tuple[int, int],
    skipped: Any,
    waiting: list[int],
) -> Iterator[Item]:
    """The rows of this run: within the limit, of this shard, not yet answered."""
    first, step = part
    for number, item in enumerate(rows):
        if limit is not None and number >= limit:
            return
        if number % step != first:
            continue
        if skipped(item):
            waiting[0] += 1
            continue
        yield item


def settings(
    rows: Input,
    source: Source,
    profile: Profile,
    dtype: str,
    question: str | None,
    max_new_tokens: int | None,
    compare: bool,
    shard: str | None,
) -> dict[str, Any]:
    """What answers depend on: a run that differs in any of it is not the same run."""
    return {
        "model": source.name,
        "profile": {key: value for key, value in asdict(profile).items() if key != "about"},
        "dtype": dtype,
        "input": rows.identity(),
        "question": question,
        "max_new_tokens": max_new_tokens,
        "compare": compare,
        "shard": shard,
    }


def rows_at_once(text: str) -> int | None:
    """`auto` or a number."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"--batch-size {text}: give auto, or a whole number of 1 or more.")
    return int(text)


def shard_of(text: str | None) -> tuple[int, int]:
    """`2/4` as (1, 4): the first row, counted from 0, and the step."""
    if text is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionError(f"--shard {text}: give i/n with 1 <= i <= n, such as 1/4.")
    return int(found[1]) - 1, int(found[2])


def say(console: Console, message: str, quiet: bool) -> None:
    if not quiet:
        console.print(message, style="yellow")


def is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
