"""The guide of a run: a smaller model that answers each question first, and what it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import Tensor

from sts_cli.answering.features import FeatureCache
from sts_cli.answering.questions import Question
from sts_cli.answering.request import OFF
from sts_cli.engine.engine import Engine
from sts_cli.engine.importance import importance
from sts_cli.families.default import Encoded, Prompt


@dataclass(frozen=True)
class Heard:
    """What the guide says of a question's images, as it sees them."""

    images: tuple[Encoded, ...]
    scores: tuple[Tensor, ...]  # [M] of each image's tokens
    seconds: float  # of the questions that were asked together
    rows: int  # how many these were


class Guide:
    """A smaller model. It answers a question once, however many profiles ask for it."""

    def __init__(self, engine: Engine, pool: Executor, max_new_tokens: int | None):
        self.engine = engine
        self.images = FeatureCache(engine, pool)
        self.max_new_tokens = max_new_tokens
        self._heard: WeakKeyDictionary[Question, Heard] = WeakKeyDictionary()

    def hear(self, questions: Sequence[Question]) -> list[Heard]:
        """What the guide says of each question; new ones are asked now. Raises Refused."""
        new = [one for one in questions if one not in self._heard]
        if new:
            self._heard.update(zip(new, self._asked(new), strict=True))
        return [self._heard[one] for one in questions]

    def warm(self, question: Question) -> None:
        """Ask a question for nothing: first calls allocate and compile."""
        self._asked([question])

    def _asked(self, questions: Sequence[Question]) -> list[Heard]:
        family, started = self.engine.family, self.engine.clock()
        self.images.encode([picture for one in questions for picture in one.guided])
        prompts = [
            Prompt(
                family.tokenize(
                    one.item.question, [p.pixels for p in one.guided], one.item.image_at
                ),
                tuple(picture.encoded[None] for picture in one.guided),
                one.item.max_new_tokens,
            )
            for one in questions
        ]
        found = self.engine.generate(prompts, OFF, max_new_tokens=self.max_new_tokens)
        scores = importance(family, prompts, [one.ids for one in found])
        seconds = self.engine.clock() - started
        return [
            Heard(prompt.images, of_images, seconds, len(questions))
            for prompt, of_images in zip(prompts, scores, strict=True)
        ]
