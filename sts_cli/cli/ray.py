"""sts batch --ray: the same rows, answered by a cluster, into a folder of shards."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sts_cli.checkpoints.fingerprint import without_times
from sts_cli.checkpoints.sources import Source
from sts_cli.cli.help import Command
from sts_cli.cli.interrupt import Interruption
from sts_cli.cli.options import OptionError
from sts_cli.cli.run import Job, Outcome
from sts_cli.errors import ClusterError, StsError
from sts_cli.inputs.feed import Feed
from sts_cli.inputs.items import Input
from sts_cli.machine.packages import missing, to_add
from sts_cli.outputs.formats import Format, format_of
from sts_cli.outputs.shards import Shards
from sts_cli.records import Answer
from sts_cli.report.console import Report

if TYPE_CHECKING:
    from sts_cli.cluster.answerer import Answered

ADDRESS = re.compile(r"auto|local|ray://.*|[^/\s]+:[0-9]+")
STOPPING = b"\nStopping; shards that are not whole are left out.\n"


class BatchCommand(Command):
    """`--ray` alone means `--ray auto`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, list(with_address(args)))
        return rest


def with_address(args: Sequence[str]) -> Iterator[str]:
    """The arguments, with `auto` after a --ray that another option, an input or nothing follows."""
    for word, following in zip(args, [*args, "-"][1:], strict=True):
        yield word
        if word == "--ray" and not ADDRESS.fullmatch(following) and is_next(following):
            yield "auto"


def is_next(word: str) -> bool:
    """True for an option or an input; what is neither was meant as an address."""
    return word.startswith("-") or glob.has_magic(word) or os.path.lexists(word)


def checked_address(value: str | None) -> str | None:
    """The value of --ray. Raises OptionError for what is no address."""
    if value is not None and not ADDRESS.fullmatch(value):
        raise OptionError(
            f"--ray {value}: give auto, local, or HOST:PORT of a Ray cluster; an input in this "
            "place must be there."
        )
    return value


@dataclass(frozen=True, slots=True)
class ClusterWish:
    """Which cluster, and what the user says about its actors; None: by the cluster."""

    address: str
    actors: int | None
    cpus: float | None  # of each
    gpus: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a cluster is told of a run beside its Job."""

    names: tuple[str, ...]  # of the input
    question: str | None
    images: Path | None
    source: Source
    device: str
    dtype: str


def check_with_ray(address: str, inputs: Sequence[str], others: dict[str, bool]) -> None:
    """Raise OptionError for options that a cluster cannot keep, ClusterError if there is no Ray."""
    if address.startswith("ray://"):
        raise OptionError(
            f"--ray {address}: a Ray client is no machine of the cluster. Run sts on one of its "
            "machines, as with ray job submit, and give auto."
        )
    given = [option for option, wanted in others.items() if wanted]
    if given:
        raise OptionError(f"{given[0]} does not go with --ray.")
    if "-" in inputs:
        raise OptionError("--ray reads its input again where it needs it; give a file, and not -.")
    if missing("ray") or missing("parquet"):  # Ray alone, without its extra, lacks pyarrow
        raise ClusterError(f"--ray needs Ray; run: {to_add('ray')}")


def check_no_ray(options: dict[str, object]) -> None:
    """Raise OptionError for an option that only --ray reads."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise OptionError(f"{given[0]} needs --ray.")


def folder_format(out: Path | None, name: str | None) -> Format:
    """The format of the shards in the folder `out`: by its ending, else JSON lines."""
    if out is None:
        raise OptionError("--ray needs --out FOLDER, for shards of the answers.")
    return format_of(out if out.suffix else out.with_suffix(".jsonl"), name)


def open_shards(
    out: Path, form: Format, run: Mapping[str, Any], rows: Input, retry: bool
) -> Shards:
    """The folder that a run continues, or begins, on any machine of it. Raises OutputError."""
    from sts_cli.cluster.blocks import rows_for

    run = {**run, "files": without_times(run.get("files", {}))}
    return Shards(out, form, run, rows_for(rows.count() or 0), retry=retry)


def run_on_ray(
    job: Job, asked: Asked, wish: ClusterWish, shards: Shards, report: Report
) -> Outcome:
    """Answer all rows whose shards are not written, and write each shard once it is whole.

    When nodes are lost for good, those that are left go on. Raises StsError before the first
    answer.
    """
    outcome = Outcome(before=shards.before)
    total, rounds, stopped = job.total(0), 0, False
    outcome.skipped = dict(job.rows.skipped)
    taking = Taking(shards, report)
    try:
        with report:
            while shards.rows != total and not stopped:
                before, rounds = shards.rows, rounds + 1
                stopped, lost = one_round(job, asked, wish, taking, again=rounds > 1)
                if shards.rows == before and not stopped and not lost:
                    raise ClusterError(
                        f"{(total or 0) - before} rows are not answered: actors died of their "
                        "blocks again and again, as they do for lack of memory; Ray's logs say more"
                    )
            outcome.whole = shards.rows == total
    except KeyboardInterrupt:
        pass
    except StsError as error:
        if rounds < 2 and shards.rows == shards.before:
            raise
        outcome.failure = error
    finally:
        shards.close(outcome.whole)
    return outcome


def one_round(
    job: Job, asked: Asked, wish: ClusterWish, taking: Taking, again: bool
) -> tuple[bool, bool]:
    """Answer what is left with the nodes that are there: was it told to stop; were nodes lost?"""
    from sts_cli.cluster import ray as cluster
    from sts_cli.cluster.answerer import Setup
    from sts_cli.cluster.blocks import Reading
    from sts_cli.cluster.node import place_of

    shards, place = taking.shards, place_of(asked.source)
    reading = Reading(
        asked.names, asked.question, asked.images, os.getcwd(), job.limit, job.part,
        shards.shard_rows,
    )  # fmt: skip
    with cluster.joined(wish.address):
        actors = cluster.chosen_actors(wish.actors, wish.cpus, wish.gpus, fewer=again)
        cluster.check_nodes(actors, place)
        if not taking.report.quiet:
            begin = "Going on with" if again else "Ray:"
            taking.report.console.print(f"{begin} {cluster.told(actors)}", style="dim")
        device = "cpu" if asked.device == "auto" and not actors.gpus else asked.device
        setup = Setup(place, asked.source.name, job.request, device, asked.dtype, shards.form.name)
        answered = cluster.answered(partial(reading.blocks, shards.written), setup, actors)
        lost = cluster.Shrunk(actors)
        with (
            Interruption(job.quiet, STOPPING, sys.stderr.fileno()) as stop,
            Feed(answered, 1) as feed,
        ):
            while not (feed.finished or stop.asked or lost()):
                for found in feed.take(1, True, lambda: stop.asked or lost()):
                    taking.take(found)
            if feed.error is not None:
                raise cluster.failed(feed.error)
            return stop.asked, not feed.finished


class Taking:
    """Takes blocks of answers as they come: into their shards, and into the report."""

    def __init__(self, shards: Shards, report: Report):
        self.shards = shards
        self.report = report
        self._way: tuple[str, str] | None = None  # precision and decoder of all actors
        self._notes: set[str] = set()

    def take(self, found: Answered) -> None:
        """Raises ClusterError for what an actor refuses, OutputError if it cannot be written."""
        if found.refusal is not None:
            raise ClusterError(found.refusal)
        way = found.precision, found.decoder
        if self._way is None:
            self.shards.confirm(found.precision)
            self._way = way
            self.report.count_from(sum(one.seconds.total for one in found.answers if one.seconds))
        if way != self._way:
            raise ClusterError(
                f"An actor computes in {way[0]} by {way[1]}, another in {self._way[0]} by "
                f"{self._way[1]}; say how: --dtype and --backend"
            )
        self.shards.write(found.number, found.answers, found.records)
        for answer in found.answers:
            self.report.item(self._noted_once(answer))

    def _noted_once(self, answer: Answer) -> Answer:
        """Actors note what they see; each note is told once."""
        new = tuple(note for note in answer.notes if note not in self._notes)
        self._notes.update(new)
        return replace(answer, notes=new)
