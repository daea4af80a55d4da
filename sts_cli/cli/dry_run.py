"""sts batch --dry-run: everything but the model's weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sts_cli.checkpoints.sources import Source
from sts_cli.cli.engine import load_outline
from sts_cli.errors import OutputError
from sts_cli.inputs.items import Input
from sts_cli.outputs.formats import Format
from sts_cli.outputs.jsonl import JsonLines
from sts_cli.outputs.packed import stored
from sts_cli.outputs.settings import difference
from sts_cli.outputs.shards import in_shards
from sts_cli.profile import LAYERS, VISUAL, Profile
from sts_cli.records import Problem
from sts_cli.report.console import duration, stdout
from sts_cli.report.visible import in_line

SHOWN = 50  # bad rows of which each is printed
DECODERS = 2  # threads that decode images beside a model
MILLION, HOUR = 1_000_000, 3600


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of an earlier run of the same settings."""

    out: Path
    answers: int
    seconds: float  # of the model, for each row

    def told(self, left: int) -> str:
        return (
            f"time: about {duration(left * self.seconds)} for the {left} rows left, at the "
            f"{self.seconds:.3g} s a row of the {self.answers} answers in {self.out}"
        )

    def cost(self, decoding: float) -> str:
        """What a million such rows cost; `decoding` is the seconds of a row's images."""
        seconds = max(self.seconds, decoding / DECODERS)
        return (
            f"cost: a million such rows take {MILLION * seconds / HOUR:,.3g} hours of one such "
            f"model ({MILLION:,} x {seconds:.3g} s / {HOUR:,} s), so that times what a machine "
            "costs an hour, divided by the models that it holds"
        )


def dry_run(
    rows: Input,
    profile: Profile,
    limit: int | None,
    part: tuple[int, int],
    source: Source,
    pace: Pace | None,
) -> int:
    """Read every row and decode every image; print what a run would meet. The exit code."""
    family = load_outline(source)
    from sts_cli.answering.features import refusal
    from sts_cli.decoding.masks import readers
    from sts_cli.inputs.images import decode_ahead

    layers = LAYERS if family is None else len(readers(family.model.get_decoder().config))
    bad: Counter[str] = Counter()
    ids: Counter[int] = Counter()
    formats: Counter[str] = Counter()
    tokens: Counter[int] = Counter()  # images, by how many visual tokens they become
    known: dict[tuple[tuple[int, int], bool], int] = {}  # visual tokens depend on the size alone
    digests: set[int] = set()
    questions = 0
    seconds = 0.0
    console = stdout(soft_wrap=True)
    for ready in decode_ahead(rows.items(limit, part)):
        ids[hash(ready.item.id)] += 1
        seconds += ready.seconds
        problem = ready.item.problem
        alone = len(ready.images) == 1
        try:
            for image in ready.images:
                if family is not None and (image.size, alone) not in known:
                    known[image.size, alone] = family.pixels(image, alone).count
        except Exception as error:  # a processor may refuse a size, as it would in the run
            problem = refusal(error, image.size)
        if problem is not None:
            show(console, ready.item.id, problem, bad.total())
            bad[problem.kind] += 1
            continue
        questions += 1
        tokens.update(known.get((image.size, alone), VISUAL) for image in ready.images)
        digests.update(hash(digest) for digest in ready.digests)
        formats.update(image.format or "?" for image in ready.images)
    console.print(f"rows: {questions + bad.total()}, of which {questions} can be asked")
    for kind, count in bad.most_common():
        console.print(f"  {kind}: {count}")
    console.print(f"images: {tokens.total()}, of which {len(digests)} are different")
    if formats:
        console.print(f"  {', '.join(f'{count} {name}' for name, count in formats.most_common())}")
    repeated = sum(count - 1 for count in ids.values())
    if repeated:
        console.print(f"ids: {repeated} rows repeat the id of another; all are answered")
    for reason, count in rows.skipped.items():
        console.print(f"passed over in the folder: {count} {reason}")
    if family is None:
        console.print(
            f"model {source.name}: not on this machine; {VISUAL} tokens an image are assumed"
        )
    if tokens:
        console.print(budget(tokens, profile, layers))
    console.print(f"decoding: {seconds:.1f} s, in threads beside the model")
    if pace is not None:
        console.print(pace.told(max(0, questions - pace.answers)))
        console.print(pace.cost(seconds / max(1, questions + bad.total())))
    else:
        console.print(
            "time: not known before some rows are answered: run with --out FILE.jsonl --limit 20, "
            "then with --out FILE.jsonl --dry-run"
        )
    return 1 if bad else 0


def budget(tokens: Counter[int], profile: Profile, layers: int) -> str:
    """The visual tokens that a profile keeps, as a message; `tokens` counts images by theirs."""
    least, most, every = min(tokens), max(tokens), sum(n * tokens[n] for n in tokens)
    each = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    left = sum(profile.planned(n, layers) * tokens[n] for n in tokens)
    bound = "at most " if profile.follows else ""
    return (
        f"visual tokens: {each} an image, {every:,} in all\n"
        f"  profile {profile.name} keeps {bound}{left:,.0f} ({left / every:.1%}), on average over "
        f"{layers} layers"
    )


def measured(out: Path | None, form: Format, run: Mapping[str, Any]) -> Pace | None:
    """The pace of what `out` holds already, if it has figures, of the same run.

    A folder holds them in shards.
    """
    if out is None or not isinstance(form, JsonLines):
        return None
    rows, seconds = 0, 0.0
    try:
        settings, answers = in_shards(out, form) if out.is_dir() else stored(out, form)
        if not settings or difference(settings, run) is not None:
            return None
        for row in map(form.source, answers):
            if row["seconds"] is not None:
                rows, seconds = rows + 1, seconds + model_seconds(row)
    except (OSError, OutputError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no file, or none that a run could go on with: the run itself says why
    return Pace(out, rows, seconds / rows) if rows else None


def model_seconds(row: Mapping[str, Any]) -> float:
    """One row's part of the time that its batch kept the model busy."""
    spent: float = row["seconds"]["total"] - row["seconds"]["image"]
    if "full" not in row:  # the row's own share already
        return spent
    full = row["full"]["seconds"]  # whose image and encoding are those of the row itself
    share: float = (spent + full["total"] - full["image"] - full["encode"]) / row["rows"]
    return share


def show(console: Console, identity: str, problem: Problem, before: int) -> None:
    """One bad row, unless there were too many."""
    if before < SHOWN:
        console.print(f"{in_line(identity)}: {problem.kind}: {in_line(problem.message)}")
    elif before == SHOWN:
        console.print("... and more; the counts follow")
