"""The same questions about drawn scenes, answered under many conditions by one loaded model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from typing import Literal, TypeVar

import torch
from PIL import Image

from benchmarks.processes import split
from sts_cli.answering.agreement import exact_match, token_f1
from sts_cli.answering.stream import decode
from sts_cli.checkpoints.sources import find
from sts_cli.engine.choosing import Choices
from sts_cli.engine.engine import Engine
from sts_cli.families.default import Encoded, Prompt
from sts_cli.inputs.images import Prepared
from sts_cli.loading.model import load
from sts_cli.profile import Profile
from sts_cli.pruning.grid import lattice
from sts_cli.scenes.suite import suite

SCENES = 24  # at once: their images are encoded once for all conditions
ROWS = 24  # questions in a batch

T = TypeVar("T")
View = Literal["whole", "pooled", "shrunk", "another"]


@dataclass(frozen=True)
class Condition:
    """A profile, and what the model is shown.

    `pooled`: grid tokens that are means of what is nearest to each; `shrunk`: the picture at the
    pixels of `tokens` patches, enlarged again by the processor; `another`: the next scene's
    picture.
    """

    name: str
    profile: Profile
    view: View = "whole"
    tokens: int = 576


@dataclass(frozen=True)
class Mark:
    """One question under one condition."""

    group: int  # of scenes
    condition: str
    kind: str
    right: bool
    f1: float
    text: str
    tokens: float  # visual tokens, averaged over the layers


@dataclass(frozen=True)
class Exam:
    """Questions about drawn scenes, as `suite` takes them, to a model."""

    model: str
    per_kind: int
    level: float  # share of hard scenes
    seed: int

    def marks(self, conditions: Sequence[Condition], processes: int) -> list[Mark]:
        """Every question under every condition, on a CPU, whatever the number of processes."""
        parts = split(partial(self.part, conditions), processes)
        return sorted((one for part in parts for one in part), key=lambda one: one.group)

    def part(self, conditions: Sequence[Condition], number: int, of: int) -> list[Mark]:
        """The marks of every `of`-th group of scenes from `number`."""
        engine = Engine(load(find(self.model), device="cpu"))
        for condition in conditions:
            engine.check(condition.profile)
        ready = suite(self.per_kind, self.level, self.seed)
        scenes = (list(rows) for _, rows in groupby(ready, key=lambda one: one.digests[0]))
        groups = islice(enumerate(batched(scenes, SCENES)), number, None, of)
        return [mark for group in groups for mark in marks_of(engine, *group, conditions)]


def marks_of(
    engine: Engine, group: int, some: Sequence[list[Prepared]], conditions: Sequence[Condition]
) -> Iterator[Mark]:
    """Every question about a group of scenes under every condition."""
    asked = [one for rows in some for one in rows]
    pictures = {rows[0].digests[0]: rows[0].images[0] for rows in some}
    whole = encoded(engine, pictures.values())
    for condition in conditions:
        seen = dict(zip(pictures, shown(engine, pictures, whole, condition), strict=True))
        choices = Choices()
        for batch in alike(asked):
            yield from answered(engine, group, batch, seen, condition, choices)


def answered(
    engine: Engine,
    group: int,
    batch: Sequence[Prepared],
    seen: dict[str, Encoded],
    condition: Condition,
    choices: Choices,
) -> Iterator[Mark]:
    """A batch of questions under one condition."""
    images = [seen[one.digests[0]] for one in batch]
    prompts = [
        Prompt(engine.family.tokenize(one.item.question, [image.pixels]), (image,))
        for one, image in zip(batch, images, strict=True)
    ]
    found = engine.generate(prompts, condition.profile, max_new_tokens=64, choices=choices)
    for one, given in zip(batch, found, strict=True):
        text = decode(engine.family.tokenizer, given.ids)
        yield Mark(
            group=group,
            condition=condition.name,
            kind=str(one.item.extra["kind"]),
            right=exact_match(text, one.item.answers),
            f1=max(token_f1(text, answer) for answer in one.item.answers),
            text=text,
            tokens=condition.profile.average(given.visual, given.left, engine.layers),
        )


def encoded(engine: Engine, images: Iterable[Image.Image]) -> list[Encoded]:
    found, _ = engine.encode([engine.family.pixels(image) for image in images])
    return found


def shown(
    engine: Engine, pictures: dict[str, Image.Image], whole: list[Encoded], condition: Condition
) -> list[Encoded]:
    """What the model sees of each picture under a condition; `whole` as they are."""
    if condition.view == "shrunk":
        side = round(14 * condition.tokens**0.5)
        small = (one.resize((side, side), Image.Resampling.LANCZOS) for one in pictures.values())
        return encoded(engine, small)
    if condition.view == "another":
        return [*whole[1:], whole[0]]
    if condition.view == "pooled":
        return [pooled(one, condition.tokens) for one in whole]
    return whole


@torch.inference_mode()
def pooled(image: Encoded, count: int) -> Encoded:
    """The image, its tokens on a grid of `count` replaced by the mean of those nearest to each."""
    places = image.grid.float()
    centres = lattice(places, count)
    nearest = torch.cdist(places, places[centres]).argmin(1)  # [N]
    features = image.features.float()
    sums = torch.zeros(count, features.shape[1]).index_add(0, nearest, features)
    means = sums / nearest.bincount(minlength=count)[:, None]
    mixed = features.index_copy(0, centres, means).to(image.features.dtype)
    return replace(image, features=mixed)


def alike(asked: Sequence[Prepared]) -> Iterator[tuple[Prepared, ...]]:
    """Batches of questions of the same kind: their answers have similar lengths."""
    kinds: dict[str, list[Prepared]] = defaultdict(list)
    for one in asked:
        kinds[str(one.item.extra["kind"])].append(one)
    short = [one for kind, rows in kinds.items() if kind not in ("text", "caption") for one in rows]
    for rows in (short, kinds["text"], kinds["caption"]):
        yield from batched(rows, ROWS)


def grouped(found: Iterable[Mark], key: Callable[[Mark], str]) -> dict[str, list[Mark]]:
    """The marks by what `key` says of them, in the order of their first."""
    groups: dict[str, list[Mark]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """The items, `size` at a time."""
    rest = iter(items)
    while some := tuple(islice(rest, size)):
        yield some
