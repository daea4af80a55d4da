"""The built-in suite: questions about drawn scenes, ready for the engine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from sts_cli.inputs.images import Prepared
from sts_cli.records import Item
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import KINDS, questions

HELD_OUT = 950_000_000  # first seed; the demo model was trained and validated on others
DEVELOPMENT = 940_000_000  # for choosing constants


def suite(per_kind: int, level: float, first: int = HELD_OUT) -> Iterator[Prepared]:
    """Questions about scenes, until there are `per_kind` of every kind.

    `extra["kind"]` of an item is its kind. `level` is the share of hard scenes, `first` a seed.
    """
    asked: Counter[str] = Counter()
    seed = first
    while any(asked[kind] < per_kind for kind in KINDS):
        scene = draw(seed, level)
        rng = random.Random(seed)
        for question in questions(scene, rng):
            if asked[question.kind] == per_kind:
                continue
            asked[question.kind] += 1
            item = Item(
                id=f"{seed}-{question.kind}",
                images=(f"scene-{seed}",),
                question=question.question,
                answers=(question.answer,),
                extra={"kind": question.kind},
            )
            yield Prepared(item, (scene.image,), (str(seed),), 0.0)
        seed += 1
