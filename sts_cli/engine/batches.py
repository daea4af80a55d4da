"""One batch of questions: tokenize, encode what is new, generate; failures stay in their row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sts_cli.engine.engine import Engine, Generation
from sts_cli.engine.images import Images, Picture
from sts_cli.engine.selection import Choices
from sts_cli.engine.stream import TextStream, decode
from sts_cli.errors import OutputError
from sts_cli.evaluation.metrics import same, token_f1
from sts_cli.families.default import Prompt
from sts_cli.hardware import out_of_memory
from sts_cli.inputs.images import Prepared
from sts_cli.profile import Profile
from sts_cli.records import Answer, Comparison, Item, Problem, Seconds, TokenCounts

OFF = Profile("off")


@dataclass(frozen=True, eq=False)
class Question:
    """One item whose images are on their way through the preprocessing threads.

    It does not hold the decoded images: once preprocessed, nobody does.
    """

    number: int
    item: Item
    decoding: float  # seconds
    pictures: tuple[Picture, ...]
    new: tuple[Picture, ...]  # those that this question was the first to ask about

    @property
    def ready(self) -> bool:
        return all(picture.ready for picture in self.pictures)

    @property
    def image_seconds(self) -> float:
        return self.decoding + sum(picture.seconds for picture in self.new)


def question_of(number: int, ready: Prepared, images: Images) -> Question:
    """The question that an item asks; those of its images that are new start preprocessing."""
    seen = [
        images.expect(digest, image, len(ready.images) == 1)
        for digest, image in zip(ready.digests, ready.images, strict=True)
    ]
    pictures = tuple(picture for picture, _ in seen)
    new = tuple(picture for picture, fresh in seen if fresh)
    return Question(number, ready.item, ready.seconds, pictures, new)


@dataclass(frozen=True)
class Kept:
    """Places (row and column in 0..1) of an image's visual tokens, and of those each stage kept."""

    every: list[tuple[float, float]]
    structure: list[tuple[float, float]]
    semantics: list[tuple[float, float]]


def kept_of_first_image(prompt: Prompt, found: Generation) -> Kept:
    """What became of the tokens of a question's first image."""
    stages = [
        [(row, column) for number, row, column in places.tolist() if number == 0]
        for places in found.places
    ]
    every = [(row, column) for row, column in prompt.images[0].grid.tolist()]
    return Kept(every, *stages)


class Batches:
    """Answers one batch after another under the same profiles."""

    def __init__(
        self,
        engine: Engine,
        images: Images,
        profiles: Sequence[Profile],
        max_new_tokens: int | None,
        fallbacks: Sequence[Profile],
        on_text: Callable[[str], None] | None,
        on_kept: Callable[[Kept], None] | None,
    ):
        self.engine = engine
        self.images = images
        self.profiles = profiles
        self.limit = max_new_tokens
        self.fallbacks = fallbacks
        self.on_text = on_text
        self.on_kept = on_kept
        self.choices = Choices()
        self.count = 0

    def answer(self, batch: Sequence[Question]) -> tuple[list[tuple[Answer, ...]], int]:
        """Answers to each question, and how many questions at once fitted into memory."""
        try:
            return self._answer(batch, self.profiles), len(batch)
        except (BrokenPipeError, OutputError):  # of `on_text`: nobody takes the answer any more
            raise
        except Exception as error:  # the one place where a row's failure stays with its row
            memory = out_of_memory(error)
            if len(batch) > 1:
                half = len(batch) // 2 if memory else 1
                parts = [self.answer(batch[i : i + half]) for i in range(0, len(batch), half)]
                answers = [answer for part, _ in parts for answer in part]
                return answers, min(fits for _, fits in parts) if memory else len(batch)
            if memory:
                return [self._smaller(batch[0])], 1
            return [self.problem(batch[0].item, problem_of(error))], 1

    def problem(self, item: Item, problem: Problem) -> tuple[Answer, ...]:
        """The same problem under each profile."""
        return tuple(
            Answer(item, self.engine.name, profile.name, problem=problem)
            for profile in self.profiles
        )

    def _smaller(self, question: Question) -> tuple[Answer, ...]:
        """One question that did not fit, with the first fallback profile that does."""
        for fallback in self.fallbacks:
            try:
                return self._answer([question], [fallback, *self.profiles[1:]])[0]
            except Exception as error:
                if not out_of_memory(error):
                    return self.problem(question.item, problem_of(error))
        message = "One question at a time does not fit into memory; use a stronger profile."
        return self.problem(question.item, Problem("out_of_memory", message))

    def _answer(
        self, batch: Sequence[Question], profiles: Sequence[Profile]
    ) -> list[tuple[Answer, ...]]:
        family = self.engine.family
        ids = [
            family.tokenize(one.item.question, [p.pixels for p in one.pictures]) for one in batch
        ]
        encoding = [any(p.encoded is None for p in one.pictures) for one in batch]
        encode = self.images.encode([p for one in batch for p in one.pictures])
        shares = [encode if new else 0.0 for new in encoding]
        prompts = [
            Prompt(row, tuple(p.encoded for p in one.pictures if p.encoded is not None))
            for row, one in zip(ids, batch, strict=True)
        ]
        if len(profiles) > 1 and self.count == 0:
            for one in profiles:  # a warm-up: first calls allocate and compile
                self.engine.generate(prompts[:1], one, max_new_tokens=2)
        self.count += 1
        order = list(enumerate(profiles))[:: 1 if self.count % 2 else -1]  # in turn: A B, B A
        found = {number: self._generate(prompts, one, number == 0) for number, one in order}
        if self.on_kept is not None:
            self.on_kept(kept_of_first_image(prompts[0], found[0][0]))
        return [
            tuple(
                self._row(question, found[number][row], one, len(batch), share)
                for number, one in enumerate(profiles)
            )
            for row, (question, share) in enumerate(zip(batch, shares, strict=True))
        ]

    def _generate(
        self, prompts: Sequence[Prompt], profile: Profile, stream: bool
    ) -> list[Generation]:
        if not stream or self.on_text is None:
            return self.engine.generate(
                prompts, profile, max_new_tokens=self.limit, choices=self.choices
            )
        shown = TextStream(self.engine.family.tokenizer, self.on_text)
        found = self.engine.generate(
            prompts,
            profile,
            max_new_tokens=self.limit,
            choices=self.choices,
            on_ids=shown.show,
        )
        shown.show(found[0].ids, last=True)
        return found

    def _row(
        self, question: Question, found: Generation, profile: Profile, rows: int, encode: float
    ) -> Answer:
        image = question.image_seconds
        first = image + encode + found.select + found.prefill
        return Answer(
            item=question.item,
            model=self.engine.name,
            profile=profile.name,
            text=decode(self.engine.family.tokenizer, found.ids),
            tokens=TokenCounts(
                visual=found.visual,
                structure=found.structure,
                semantics=found.semantics,
                average=profile.averaged(found.structure, found.semantics, self.engine.layers),
                text=found.text,
                generated=len(found.ids),
            ),
            seconds=Seconds(
                image=image,
                encode=encode,
                select=found.select,
                prefill=found.prefill,
                decode=found.decode,
                first_token=first,
                total=first + found.decode,
            ),
            rows=rows,
            finish=found.finish,
        )


def compared(pruned: Answer, full: Answer) -> Answer:
    """The pruned answer, with how it compares to the unpruned one, if there are two."""
    if pruned.problem is not None:
        return pruned
    assert pruned.text is not None and full.text is not None
    assert pruned.seconds is not None and full.seconds is not None
    return replace(
        pruned,
        comparison=Comparison(
            full=full,
            agree=same(pruned.text, full.text),
            similarity=token_f1(pruned.text, full.text),
            speedup_prefill=full.seconds.prefill / (pruned.seconds.prefill + pruned.seconds.select),
            speedup_total=full.seconds.total / pruned.seconds.total,
        ),
    )


def problem_of(error: Exception) -> Problem:
    """What a user reads about a row that failed for a reason nobody foresaw."""
    first_line = (str(error).splitlines() or [""])[0]
    return Problem("internal", f"{type(error).__name__}: {first_line}")
