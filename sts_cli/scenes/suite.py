"""The built-in suite: questions about drawn scenes, ready for the engine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sts_cli.inputs.images import Prepared
from sts_cli.records import Item
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import KINDS, questions

HELD_OUT = 950_000_000  # first seed; the demo model was trained and validated on others
DEVELOPMENT = 940_000_000  # for choosing constants


@dataclass(frozen=True, slots=True)
class Set:
    """A set of scenes: how they are drawn, how many things each must hold, and what is asked."""

    kinds: tuple[str, ...] = tuple(KINDS)
    drawn: Mapping[str, Any] = field(default_factory=dict)  # arguments of `draw`
    least: int = 0  # things; scenes with fewer are left out


SETS = {
    "sparse": Set(),
    # Six signs, of a colour each: a question names one.
    "signs": Set(("text",), {"dense": True, "signs": 6}, least=6),
    # Up to sixteen shapes: a question names one.
    "shapes": Set(("color", "shape", "place"), {"signs": 0, "shapes": 16, "scale": 0.75}, least=10),
}


def suite(
    per_kind: int,
    level: float,
    first: int = HELD_OUT,
    of: str = "sparse",
    kinds: Sequence[str] = (),
) -> Iterator[Prepared]:
    """Questions about the scenes of a set, until there are `per_kind` of every kind that it asks.

    `extra["kind"]` of an item is its kind. `level` is the share of hard scenes, `first` a seed,
    `of` one of SETS. With `kinds`, only those are asked, if the set has them.
    """
    chosen = SETS[of]
    wanted = tuple(kind for kind in chosen.kinds if kind in kinds or not kinds)
    asked: Counter[str] = Counter()
    seed = first
    while any(asked[kind] < per_kind for kind in wanted):
        scene = draw(seed, level, **chosen.drawn)
        name = f"{seed}" if of == "sparse" else f"{of}-{seed}"
        rng = random.Random(seed)
        here = wanted if len(scene.things) >= chosen.least else ()
        for question in questions(scene, rng, here):
            if asked[question.kind] == per_kind:
                continue
            asked[question.kind] += 1
            item = Item(
                id=f"{name}-{question.kind}",
                images=(f"scene-{name}",),
                question=question.question,
                answers=(question.answer,),
                extra={"kind": question.kind},
            )
            yield Prepared(item, (scene.image,), (name,), 0.0)
        seed += 1
