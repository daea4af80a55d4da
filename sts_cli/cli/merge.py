"""sts merge: the output of several shards as one file."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sts_cli.errors import InputError, OutputError
from sts_cli.outputs import jsonl


def merge(
    out: Annotated[Path, typer.Argument(help="The .jsonl file to write.")],
    shards: Annotated[list[Path], typer.Argument(help="The shards' .jsonl files, 1/n first.")],
) -> None:
    """Join the outputs of `sts batch --shard 1/n`, `2/n`, ... in the order of the input.

    Nothing is written if a shard is missing, unfinished or of another run.
    """
    runs = [_run(path) for path in shards]
    for path, run in zip(shards, runs, strict=True):
        for key in runs[0]:
            if key != "shard" and run.get(key) != runs[0][key]:
                raise InputError(f"{path} was made with another {key} than {shards[0]}.")
    count = len(shards)
    wanted = [f"{index}/{count}" for index in range(1, count + 1)]
    found = [str(run.get("shard")) for run in runs]
    if sorted(found) != sorted(wanted):
        raise InputError(f"The shards are {', '.join(found)}; needed are {', '.join(wanted)}.")
    ordered = [shards[found.index(name)] for name in wanted]
    lengths = [sum(1 for _ in jsonl.finished(path)) for path in ordered]
    if any(not 0 <= lengths[0] - length <= 1 for length in lengths) or lengths != sorted(
        lengths, reverse=True
    ):
        counted = ", ".join(
            f"{path} {length}" for path, length in zip(ordered, lengths, strict=True)
        )
        raise InputError(f"A shard is not finished; rows: {counted}.")
    part = out.with_name(out.name + ".part")
    try:
        with part.open("wb") as file:
            for _, line in heapq.merge(*(_numbered(p, i, count) for i, p in enumerate(ordered))):
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, out)
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {error.strerror}.") from error
    print(f"{sum(lengths)} rows from {count} shards in {out}")


def _numbered(path: Path, index: int, step: int) -> Iterator[tuple[int, bytes]]:
    """Each line with the number of its row in the whole input."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            yield number * step + index, line


def _run(path: Path) -> dict[str, object]:
    try:
        run = json.loads(path.with_name(path.name + ".run").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not the output of sts batch --shard.") from error
    return dict(run)
