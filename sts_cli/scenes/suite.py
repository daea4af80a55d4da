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
    """Scenes with all questions they allow, until every kind was asked `per_kind` times.

    Each item's `extra` says its kind. `level` is the share of hard scenes.
    """
    asked: Counter[str] = Counter()
    seed = first
    while any(asked[kind] < per_kind for kind in KINDS):
        scene = draw(seed, level)
        rng = random.Random(seed)
        for found in questions(scene, rng):
            if asked[found.kind] == per_kind:
                continue
            asked[found.kind] += 1
            item = Item(
                id=f"{seed}-{found.kind}",
                images=(f"scene-{seed}",),
                question=found.question,
                answers=(found.answer,),
                extra={"kind": found.kind},
            )
            yield Prepared(item, (scene.image,), (str(seed),), 0.0)
        seed += 1
