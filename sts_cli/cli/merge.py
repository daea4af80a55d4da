"""sts merge: the output of several shards as one file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from sts_cli.errors import InputError
from sts_cli.outputs.disk import explained
from sts_cli.outputs.formats import Format, format_named
from sts_cli.outputs.journal import run_file
from sts_cli.outputs.scan import read


def merge(
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    shards: Annotated[list[Path], typer.Argument(help="The shards' files, in any order.")],
) -> None:
    """Join the outputs of `sts batch --shard 1/n`, `2/n`, ... in the order of the input.

    Nothing is written if a shard is missing, unfinished or of another run.

    \b
      sts merge answers.jsonl answers.1.jsonl answers.2.jsonl
    """
    if out in shards:
        raise InputError(f"{out} is one of the shards; write to another file.")
    ordered, form = checked(shards)
    beside = out.with_name(out.name + ".part")
    count = 0
    with explained(out), beside.open("wb") as file:
        for record in alternating(ordered, form):
            file.write(form.before(count == 0) + record)
            count += 1
        file.write(form.closing if count else b"")
        file.flush()
        os.fsync(file.fileno())
    with explained(out):
        os.replace(beside, out)
    typer.echo(f"{count} rows of {len(ordered)} shards in {out}", err=True)


def checked(shards: list[Path]) -> tuple[list[Path], Format]:
    """The shards in order and their format, if they are all of one run, and all of it."""
    runs = [settings(path) for path in shards]
    for path, run in zip(shards, runs, strict=True):
        for name in ("model", "profile", "precision", "input", "question", "compare", "format"):
            if run.get(name) != runs[0].get(name):
                raise InputError(f"{path} was made with another {name} than {shards[0]}.")
    found = [str(run.get("shard")) for run in runs]
    wanted = [f"{number}/{len(shards)}" for number in range(1, len(shards) + 1)]
    if sorted(found) != sorted(wanted):
        raise InputError(f"These are the shards {', '.join(found)}; needed: {', '.join(wanted)}.")
    for path, run in zip(shards, runs, strict=True):
        if not run.get("complete"):
            raise InputError(f"{path} is not finished; run its sts batch command again.")
    return [shards[found.index(one)] for one in wanted], format_named(str(runs[0].get("format")))


def settings(path: Path) -> dict[str, Any]:
    """What stands beside the output of a shard."""
    try:
        run = json.loads(run_file(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not the output of sts batch --shard.") from error
    return dict(run)


def alternating(shards: list[Path], form: Format) -> Iterator[bytes]:
    """The first record of each shard, then the second of each, as their rows were dealt."""
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(path.open("rb")) for path in shards]
        for places in zip_longest(*(read(path, form) for path in shards)):
            for file, place in zip(files, places, strict=True):
                if place is not None:
                    file.seek(place.start)
                    yield file.read(place.end - place.start)
