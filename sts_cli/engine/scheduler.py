"""Questions to answers: batches of similar length, shared images, the order of the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from sts_cli.engine.engine import Engine, Generation
from sts_cli.engine.images import Images, Picture
from sts_cli.engine.selection import Choices
from sts_cli.engine.stream import TextStream, decode
from sts_cli.evaluation.metrics import same, token_f1
from sts_cli.families.default import Prompt
from sts_cli.inputs.feed import Feed
from sts_cli.inputs.images import Prepared
from sts_cli.profile import Profile
from sts_cli.records import Answer, Comparison, Problem, Seconds, TokenCounts

WORKERS = 2  # threads that preprocess images while the engine computes
WINDOW = 4  # batches of questions to choose rows of similar length from
GROW_AFTER = 16  # batches without running out of memory, before the batch grows back
OFF = Profile("off")


@dataclass(frozen=True, eq=False)
class Question:
    """One item whose images are on their way through the preprocessing threads."""

    number: int
    prepared: Prepared
    pictures: tuple[Picture, ...]
    new: tuple[Picture, ...]  # those that this question was the first to ask about

    @property
    def ready(self) -> bool:
        return all(picture.ready for picture in self.pictures)

    @property
    def image_seconds(self) -> float:
        return self.prepared.seconds + sum(picture.seconds for picture in self.new)


def answer_all(
    engine: Engine,
    prepared: Iterable[Prepared],
    profile: Profile,
    *,
    compare: bool = False,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    fallbacks: Sequence[Profile] = (),
    on_text: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Answer]:
    """One Answer for each prepared item, in input order, as soon as those before it are known.

    `compare` also answers under profile `off`, from the same encoded images, in turn. See
    `answer_each` for the rest.
    """
    for answers in answer_each(
        engine,
        prepared,
        [profile, OFF] if compare else [profile],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        fallbacks=fallbacks,
        on_text=on_text,
        stop=stop,
    ):
        yield compared(*answers) if compare else answers[0]


def answer_each(
    engine: Engine,
    prepared: Iterable[Prepared],
    profiles: Sequence[Profile],
    *,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    fallbacks: Sequence[Profile] = (),
    on_text: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Answer, ...]]:
    """For each prepared item, in input order, its Answer under each of the profiles.

    A batch is the oldest question that waits and those nearest to it in length; its images are
    encoded once for all profiles. A batch that runs out of memory is halved; one question that
    does tries `fallbacks` instead of the first profile, then becomes a problem. `on_text` hears the
    text of a batch's first question under the first profile while it is generated. When `stop`
    becomes true, the batch in hand is the last; answers that waited for older ones come out.
    Raises ProfileError before the first item for a profile that the model cannot honour.
    """
    for one in (*profiles, *fallbacks):
        engine.check(one)
    largest = batch_size or default_batch_size(engine)
    size, calm, next_out = largest, 0, 0
    waiting: list[Question] = []
    done: dict[int, tuple[Answer, ...]] = {}
    with ThreadPoolExecutor(WORKERS) as pool, Feed(enumerate(prepared), largest) as feed:
        images = Images(engine, pool)
        batches = Batches(engine, images, profiles, max_new_tokens, fallbacks, on_text)
        while not stop():
            for number, item in feed.take(WINDOW * largest - len(waiting), not waiting, stop):
                if item.item.problem is not None:
                    done[number] = batches.problem(item, item.item.problem)
                    continue
                seen = [
                    images.expect(digest, image, len(item.images) == 1)
                    for digest, image in zip(item.digests, item.images, strict=True)
                ]
                pictures = tuple(picture for picture, _ in seen)
                new = tuple(picture for picture, fresh in seen if fresh)
                waiting.append(Question(number, item, pictures, new))
            if waiting:
                batch = similar(waiting, size)
                waiting = [one for one in waiting if one not in batch]
                answers, fitted = batches.answer(batch)
                done.update(zip((one.number for one in batch), answers, strict=True))
                calm = calm + 1 if fitted == len(batch) else 0
                if fitted < len(batch):
                    size = fitted
                elif calm >= GROW_AFTER and size < largest:
                    size, calm = min(largest, size * 2), 0
            while next_out in done:
                yield done.pop(next_out)
                next_out += 1
            if not waiting and feed.finished:
                break
    yield from (done[number] for number in sorted(done))
    if feed.error is not None:
        raise feed.error


def default_batch_size(engine: Engine) -> int:
    """Rows that a device of this kind computes together without waiting longer for each."""
    return 16 if engine.clock.device.type == "cuda" else 4


def similar(waiting: Sequence[Question], size: int) -> list[Question]:
    """The oldest question and the ready ones nearest to it in length, in input order."""
    oldest = waiting[0]
    others = [one for one in waiting[1:] if one.ready]

    def distance(one: Question) -> int:
        images = len(one.pictures) - len(oldest.pictures)
        text = len(one.prepared.item.question) - len(oldest.prepared.item.question)
        return abs(images) * 1000 + abs(text)

    batch = [oldest, *sorted(others, key=distance)[: size - 1]]
    return sorted(batch, key=lambda one: one.number)


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
    ):
        self.engine = engine
        self.images = images
        self.profiles = profiles
        self.limit = max_new_tokens
        self.fallbacks = fallbacks
        self.on_text = on_text
        self.choices = Choices()
        self.count = 0

    def answer(self, batch: Sequence[Question]) -> tuple[list[tuple[Answer, ...]], int]:
        """Answers to each question, and how many questions at once fitted into memory."""
        try:
            return self._answer(batch, self.profiles), len(batch)
        except Exception as error:  # the one place where a row's failure stays with its row
            memory = out_of_memory(error)
            if len(batch) > 1:
                half = len(batch) // 2 if memory else 1
                parts = [self.answer(batch[i : i + half]) for i in range(0, len(batch), half)]
                answers = [answer for part, _ in parts for answer in part]
                return answers, min(fits for _, fits in parts) if memory else len(batch)
            if memory:
                return [self._smaller(batch[0])], 1
            return [self.problem(batch[0].prepared, problem_of(error))], 1

    def problem(self, prepared: Prepared, problem: Problem) -> tuple[Answer, ...]:
        """The same problem under each profile."""
        return tuple(
            Answer(prepared.item, self.engine.name, profile.name, problem=problem)
            for profile in self.profiles
        )

    def _smaller(self, question: Question) -> tuple[Answer, ...]:
        """One question that did not fit, with the first fallback profile that does."""
        for fallback in self.fallbacks:
            try:
                return self._answer([question], [fallback, *self.profiles[1:]])[0]
            except Exception as error:
                if not out_of_memory(error):
                    return self.problem(question.prepared, problem_of(error))
        message = "One question at a time does not fit into memory; use a stronger profile."
        return self.problem(question.prepared, Problem("out_of_memory", message))

    def _answer(
        self, batch: Sequence[Question], profiles: Sequence[Profile]
    ) -> list[tuple[Answer, ...]]:
        family = self.engine.family
        ids = [
            family.tokenize(one.prepared.item.question, [p.pixels for p in one.pictures])
            for one in batch
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
        cut, layers = profile.cut(self.engine.layers), self.engine.layers
        average = (cut * found.structure + (layers - cut) * found.semantics) / layers
        return Answer(
            item=question.prepared.item,
            model=self.engine.name,
            profile=profile.name,
            text=decode(self.engine.family.tokenizer, found.ids),
            tokens=TokenCounts(
                visual=found.visual,
                structure=found.structure,
                semantics=found.semantics,
                average=average,
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


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def problem_of(error: Exception) -> Problem:
    """What a user reads about a row that failed for a reason nobody foresaw."""
    first_line = (str(error).splitlines() or [""])[0]
    return Problem("internal", f"{type(error).__name__}: {first_line}")
