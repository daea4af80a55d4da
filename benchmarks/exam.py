"""Answers of one loaded model to the same questions about drawn scenes, under many conditions."""

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
    """A profile, and the view of the picture that the model gets.

    `whole`: all of it; `pooled`: tokens on a grid, each the mean of the tokens nearest to it;
    `shrunk`: the picture with the pixels of only `tokens` patches, which the processor enlarges
    again; `another`: the next scene's picture.
    """

    name: str
    profile: Profile
    view: View = "whole"
    tokens: int = 576


@dataclass(frozen=True)
class Mark:
    """The result of one question under one condition."""

    group: int  # of scenes
    condition: str
    kind: str
    right: bool
    f1: float
    text: str
    tokens: float  # visual tokens, averaged over the layers


@dataclass(frozen=True)
class Exam:
    """The questions of `suite` for one model."""

    model: str
    per_kind: int
    level: float  # share of hard scenes
    seed: int

    def marks(self, conditions: Sequence[Condition], processes: int) -> list[Mark]:
        """The marks of all questions under all conditions; the number of processes changes none."""
        parts = split(partial(self.part, conditions), processes)
        return sorted((mark for part in parts for mark in part), key=lambda mark: mark.group)

    def part(self, conditions: Sequence[Condition], number: int, of: int) -> list[Mark]:
        """The marks of every `of`-th group of scenes from `number`."""
        engine = Engine(load(find(self.model), device="cpu"))
        for condition in conditions:
            engine.check(condition.profile)
        ready = suite(self.per_kind, self.level, self.seed)
        scenes = (list(rows) for _, rows in groupby(ready, key=lambda asked: asked.digests[0]))
        groups = islice(enumerate(batched(scenes, SCENES)), number, None, of)
        return [mark for group in groups for mark in marks_of(engine, *group, conditions)]


def marks_of(
    engine: Engine, group: int, scenes: Sequence[list[Prepared]], conditions: Sequence[Condition]
) -> Iterator[Mark]:
    """The marks of all questions about a group of scenes under all conditions."""
    asked = [question for rows in scenes for question in rows]
    pictures = {rows[0].digests[0]: rows[0].images[0] for rows in scenes}
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
    """The marks of a batch of questions under one condition."""
    images = [seen[question.digests[0]] for question in batch]
    prompts = [
        Prompt(engine.family.tokenize(question.item.question, [image.pixels]), (image,))
        for question, image in zip(batch, images, strict=True)
    ]
    results = engine.generate(prompts, condition.profile, max_new_tokens=64, choices=choices)
    for question, result in zip(batch, results, strict=True):
        text = decode(engine.family.tokenizer, result.ids)
        yield Mark(
            group=group,
            condition=condition.name,
            kind=str(question.item.extra["kind"]),
            right=exact_match(text, question.item.answers),
            f1=max(token_f1(text, answer) for answer in question.item.answers),
            text=text,
            tokens=condition.profile.average(result.visual, result.left, engine.layers),
        )


def encoded(engine: Engine, images: Iterable[Image.Image]) -> list[Encoded]:
    features, _ = engine.encode([engine.family.pixels(image) for image in images])
    return features


def shown(
    engine: Engine, pictures: dict[str, Image.Image], whole: list[Encoded], condition: Condition
) -> list[Encoded]:
    """The encoded view of each picture under a condition; `whole` are the unchanged pictures."""
    if condition.view == "shrunk":
        side = round(14 * condition.tokens**0.5)
        size, lanczos = (side, side), Image.Resampling.LANCZOS
        small = (image.resize(size, lanczos) for image in pictures.values())
        return encoded(engine, small)
    if condition.view == "another":
        return [*whole[1:], whole[0]]
    if condition.view == "pooled":
        return [pooled(image, condition.tokens) for image in whole]
    return whole


@torch.inference_mode()
def pooled(image: Encoded, count: int) -> Encoded:
    """The image with `count` grid tokens replaced by the mean of the tokens nearest to each."""
    places = image.grid.float()
    centres = lattice(places, count)
    nearest = torch.cdist(places, places[centres]).argmin(1)  # [N]
    features = image.features.float()
    sums = torch.zeros(count, features.shape[1]).index_add(0, nearest, features)
    means = sums / nearest.bincount(minlength=count)[:, None]
    mixed = features.index_copy(0, centres, means).to(image.features.dtype)
    return replace(image, features=mixed)


def alike(questions: Sequence[Prepared]) -> Iterator[tuple[Prepared, ...]]:
    """Batches of questions whose answers have similar lengths."""
    kinds: dict[str, list[Prepared]] = defaultdict(list)
    for question in questions:
        kinds[str(question.item.extra["kind"])].append(question)
    others = [rows for kind, rows in kinds.items() if kind not in ("text", "caption")]
    for rows in (sum(others, []), kinds["text"], kinds["caption"]):
        yield from batched(rows, ROWS)


def grouped(marks: Iterable[Mark], key: Callable[[Mark], str]) -> dict[str, list[Mark]]:
    """The marks grouped by `key`, in the order of each group's first mark."""
    groups: dict[str, list[Mark]] = {}
    for mark in marks:
        groups.setdefault(key(mark), []).append(mark)
    return groups


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of `size` items; the last may be shorter."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
