"""Answers to the same questions under many conditions, each view of an image encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING

from sts_cli.answering.request import Request
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.views import view_of
from sts_cli.inputs.images import HELD_BYTES, Prepared
from sts_cli.records import Answer

if TYPE_CHECKING:
    from sts_cli.library import Model

MOST = 64  # questions at once: their images are held until all conditions had them


def answers(
    vlm: Model, ready: Iterable[Prepared], conditions: Sequence[Condition], request: Request
) -> Iterator[tuple[Answer, ...]]:
    """For each question, in order, its answer under each condition, in their order.

    Conditions of one view share batches and encoded images, and take turns to be first; `request`
    says the rest. Which tokens were kept is told of whole images only. Raises ProfileError for a
    profile that the model cannot honour.
    """
    order = sorted(range(len(conditions)), key=lambda n: _view(conditions[n]))
    groups = [list(same) for _, same in groupby(order, key=lambda n: _view(conditions[n]))]
    sources: list[SimpleQueue[Prepared | None]] = [SimpleQueue() for _ in groups]
    runs = [
        vlm.answers_each(
            iter(source.get, None),
            replace(
                request,
                profiles=tuple(conditions[n].profile for n in group),
                places=request.places and conditions[group[0]].view == "whole",
            ),
        )
        for source, group in zip(sources, groups, strict=True)
    ]
    views = [view_of(conditions[group[0]], vlm.engine.family) for group in groups]
    try:
        for questions in portions(ready):
            found: list[list[tuple[Answer, ...]]] = []
            for source, view, run in zip(sources, views, runs, strict=True):
                for one in view(questions):
                    source.put(one)
                found.append(list(islice(run, len(questions))))
            for one, parts in zip(questions, zip(*found, strict=True), strict=True):
                flat = [answer for part in parts for answer in part]  # as `order` has them
                placed = sorted(zip(order, flat, strict=True), key=lambda pair: pair[0])
                yield tuple(replace(answer, item=one.item) for _, answer in placed)
    finally:
        for source in sources:
            source.put(None)


def _view(condition: Condition) -> tuple[str, float]:
    """What conditions must have in common to share images."""
    return condition.view, condition.keep


def portions(ready: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    """The questions in lists of at most MOST, whose distinct images fit into HELD_BYTES."""
    part: list[Prepared] = []
    held: dict[str, int] = {}
    for one in ready:
        sizes = {
            digest: 3 * image.width * image.height
            for digest, image in zip(one.digests, one.images, strict=True)
        }
        if part and (len(part) == MOST or sum((held | sizes).values()) > HELD_BYTES):
            yield part
            part, held = [], {}
        part.append(one)
        held |= sizes
    if part:
        yield part
