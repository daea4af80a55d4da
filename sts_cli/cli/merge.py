"""sts merge: the output of several shards as one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product, zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sts_cli.checkpoints.fingerprint import without_times
from sts_cli.cli.help import output_option
from sts_cli.errors import InputError, OutputError
from sts_cli.machine.files import same_file
from sts_cli.outputs.disk import replacing
from sts_cli.outputs.formats import ENDINGS, Format, format_named
from sts_cli.outputs.lock import Lock
from sts_cli.outputs.packed import Rows, rows_file
from sts_cli.outputs.parquet import is_parquet, rows_in, run_of, write
from sts_cli.outputs.scan import read
from sts_cli.outputs.settings import (
    FRESH,
    difference,
    link_target,
    read_settings,
    run_file,
    write_settings,
)
from sts_cli.report.console import stderr

T = TypeVar("T")
OWN = ("shard", "complete", FRESH)  # settings that differ between shards of one run


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    shards: Annotated[
        list[Path],
        typer.Argument(metavar="SHARD...", help="The shards' files, in any order."),
    ],
    force: Annotated[
        bool, output_option("--force", help="Replace OUT even if it is no merge of this run.")
    ] = False,
) -> None:
    """Join the outputs of `sts batch --shard 1/n`, `2/n`, ... in the order of the input.

    Nothing is written if a shard is missing, unfinished or of another run, or if OUT is a file
    that is no merge of this run.

    \b
      sts merge answers.jsonl answers.1.jsonl answers.2.jsonl
    """
    target = link_target(out)
    runs = [settings(path) for path in shards]
    check_one_run(shards, runs)
    ordered = in_order(shards, [str(run.get("shard")) for run in runs])
    run = {**common(runs[0]), "shard": None, "complete": True}
    form = format_named(str(run.get("format")))
    check_target(out, shards, run, force)
    check_ending(out, form)
    count = 0
    with Lock(target):
        with replacing(target) as file:
            if form.name == Rows.name:
                count = write(file, alternating(ordered, rows_in), run)
            else:
                for record in alternating(ordered, partial(records_of, form=form)):
                    file.write(form.before(count == 0) + record)
                    count += 1
                file.write(form.closing if count else b"")
        if form.name != Rows.name:
            write_settings(target, run)
    stderr().print(f"Wrote {out}: {count} rows of {len(ordered)} shards.")


def settings(path: Path) -> dict[str, Any]:
    """The settings of a shard. Raises InputError unless the shard is finished."""
    begun = path.suffix.lower() == ".parquet" and rows_file(path).is_file()
    here = rows_file(path) if begun else path
    run = settings_at(here) if here.is_file() else None
    if not run or not run.get("shard"):
        raise InputError(f"{path} is not the output of sts batch --shard.")
    if begun or not run.get("complete"):
        raise InputError(
            f"{path} is not finished; run its sts batch command again, without --limit."
        )
    return run


def settings_at(path: Path) -> dict[str, Any] | None:
    """The settings of an output: in the file if it is a Parquet one, else beside it."""
    return run_of(path) if is_parquet(path) else read_settings(path)


def common(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all shards of a run share, also if they ran on different machines."""
    shared = {name: value for name, value in run.items() if name not in OWN}
    if "files" in shared:
        shared["files"] = without_times(shared["files"])
    return shared


def check_one_run(shards: Sequence[Path], runs: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError unless all shards are answers of the same model to the same questions."""
    for path, run in zip(shards, runs, strict=True):
        other = difference(common(run), common(runs[0]))
        if other is not None:
            raise InputError(f"{path} is of another run than {shards[0]}: it holds {other}.")


def in_order(shards: Sequence[Path], parts: Sequence[str]) -> list[Path]:
    """The files in the order of their shards. Raises InputError if a shard is missing."""
    counts = sorted({part.partition("/")[2] for part in parts})
    if len(counts) > 1:
        raise InputError(f"These are shards of different runs: {', '.join(parts)}.")
    wanted = [f"{number}/{counts[0]}" for number in range(1, int(counts[0]) + 1)]
    by_part = dict(zip(parts, shards, strict=True))
    for part, path in zip(parts, shards, strict=True):
        if by_part[part] is not path:
            raise InputError(f"{path} and {by_part[part]} are both the shard {part}.")
    missing = [part for part in wanted if part not in by_part]
    if missing:
        raise InputError(f"These are the shards {', '.join(parts)}; missing: {', '.join(missing)}.")
    return [by_part[part] for part in wanted]


def check_ending(out: Path, form: Format) -> None:
    """Raise OutputError if OUT's name promises another kind of file than the shards are."""
    ends, known = ENDINGS[form.name], {end for ends in ENDINGS.values() for end in ends}
    if out.suffix.lower() in known.difference(ends):
        raise OutputError(
            f"{out}: the rows are {form.name}, so the name must end in {' or '.join(ends)}."
        )


def check_target(out: Path, shards: Sequence[Path], run: Mapping[str, Any], force: bool) -> None:
    """Raise an error if the merge would replace a shard, or a file that is no merge of this run."""
    for path in shards:
        pairs = product((out, run_file(out)), (path, run_file(path)))
        if any(same_file(one, other) for one, other in pairs):
            raise InputError(f"{out} is one of the shards; write to another file.")
    before = settings_at(out)
    if force or not out.exists() or out.is_file() and out.stat().st_size == 0:
        return
    if not before or "shard" not in before or difference(common(before), common(run)) is not None:
        raise OutputError(
            f"{out} exists and is no merge of this run; choose another name, or replace it with "
            "--force."
        )


def records_of(path: Path, form: Format) -> Iterator[bytes]:
    """The records of a file as they stand in it."""
    with path.open("rb") as file:
        for record in read(path, form):
            file.seek(record.start)
            yield file.read(record.end - record.start)


def alternating(shards: Sequence[Path], read: Callable[[Path], Iterator[T]]) -> Iterator[T]:
    """The first record of each shard, then the second of each, and so on: the input's order."""
    short: Path | None = None
    for records in zip_longest(*map(read, shards)):
        for path, record in zip(shards, records, strict=True):
            if record is not None and short is not None:
                raise InputError(f"{short} lacks rows; run its sts batch command again.")
            if record is None:
                short = short or path
                continue
            yield record
