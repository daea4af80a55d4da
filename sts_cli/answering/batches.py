"""Batches of questions: tokenize, encode what is new, generate; failures stay in their row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sts_cli.answering.features import FeatureCache, Refused
from sts_cli.answering.questions import Question
from sts_cli.answering.request import Request
from sts_cli.answering.stream import TextStream, decode
from sts_cli.engine.choosing import Choices
from sts_cli.engine.engine import Engine
from sts_cli.engine.looks import Looks
from sts_cli.engine.session import Generation, Session
from sts_cli.errors import OutputError
from sts_cli.families.default import Prompt
from sts_cli.machine.hardware import out_of_memory
from sts_cli.profile import Narrowing, Profile
from sts_cli.records import Answer, Item, Problem, Seconds, TokenCounts

T = TypeVar("T")
WORTH = 2  # joins of caches that free places have cost, before the next
NO_MEMORY = "One question at a time does not fit into memory; use a stronger profile."


@dataclass(frozen=True, eq=False)
class Pending:
    """A question as the engine takes it, until it is answered."""

    question: Question
    prompt: Prompt
    encode: float  # seconds


class Batches:
    """Answers to the same request, under several profiles or to a listener batch after batch.

    Under one profile, questions join those in hand while these are decoded.
    """

    def __init__(
        self,
        engine: Engine,
        images: FeatureCache,
        request: Request,
        on_text: Callable[[str], None] | None,
    ):
        self.engine = engine
        self.images = images
        self.request = request
        self.on_text = on_text
        self.choices = Choices()
        self.looks = Looks()
        self.count = 0
        self.continuous = len(request.profiles) == 1 and on_text is None
        self.session: Session | None = None
        self.in_hand: dict[int, Pending] = {}  # by their number in the session

    @property
    def open(self) -> bool:
        """True if more questions may join those in hand: a join would cost less than it saves."""
        session = self.session
        joins = self.engine.decoder.joins
        return session is None or joins and session.idle >= WORTH * session.joining

    def advance(
        self, batch: Sequence[Question]
    ) -> tuple[dict[int, tuple[Answer, ...]], int | None]:
        """Let `batch` join the questions in hand, and take one step with all.

        Returns the answers that are done, by number, and how many questions at once fitted into
        memory if not all did. What the session loses when it fails is asked again.
        """
        pending: list[Pending] | Problem = []
        if self.continuous:
            pending = self._tried(partial(self._pending, batch, self.request.profile.encoder))
        if not self.continuous or isinstance(pending, Problem):
            return numbered(batch, *self.answer(batch))
        found = self._tried(partial(self._step, pending))
        if not isinstance(found, Problem):
            return found, None
        lost = [*(one.question for one in self.in_hand.values()), *batch]
        lost = list(dict.fromkeys(lost))  # those that had just been admitted are in hand, too
        self.session, self.in_hand = None, {}
        return numbered(lost, *self.again(lost, found))

    def _step(self, pending: Sequence[Pending]) -> dict[int, tuple[Answer, ...]]:
        """Admit questions, if any, and take one step; the answers that are done."""
        profile, done = self.request.profile, []
        if self.session is None:
            self.session = self.engine.session(
                profile,
                max_new_tokens=self.request.max_new_tokens,
                choices=self.choices,
                places=self.request.places,
                looks=self.looks,
            )
        if pending:
            first = self.session.admitted
            self.in_hand.update(enumerate(pending, first))
            done += self.session.admit([one.prompt for one in pending])
        if self.session.rows:
            done += self.session.step()
        answers: dict[int, tuple[Answer, ...]] = {}
        for number, found in done:
            one = self.in_hand.pop(number)
            row = self._row(one, found, profile, found.rows)
            answers[one.question.number] = (row,)
        return answers

    def answer(self, batch: Sequence[Question]) -> tuple[list[tuple[Answer, ...]], int]:
        """Answers to each question, and how many questions at once fitted into memory."""
        found = self._tried(partial(self._answer, batch, self.request.profiles))
        if not isinstance(found, Problem):
            return found, len(batch)
        return self.again(batch, found)

    def again(
        self, batch: Sequence[Question], found: Problem
    ) -> tuple[list[tuple[Answer, ...]], int]:
        """The same for a batch that has failed, in parts."""
        memory = found.kind == "out_of_memory"
        if len(batch) > 1:
            half = len(batch) // 2 if memory else 1
            parts = [self.answer(batch[i : i + half]) for i in range(0, len(batch), half)]
            answers = [answer for part, _ in parts for answer in part]
            return answers, min(fits for _, fits in parts) if memory else len(batch)
        if memory:
            return [self._smaller(batch[0])], 1
        return [self.problem(batch[0].item, found)], 1

    def _tried(self, work: Callable[[], T]) -> T | Problem:
        """The result of `work`, or its problem: the one place where a failure stays with a row.

        The exception ends here, and the failed batch's tensors with its traceback: a retry has the
        memory that they held.
        """
        try:
            return work()
        except (BrokenPipeError, OutputError):  # of `on_text`: nobody takes the answer any more
            raise
        except Refused as error:
            return error.problem
        except Exception as error:
            return problem_of(error)

    def problem(self, item: Item, problem: Problem) -> tuple[Answer, ...]:
        """The same problem under each profile."""
        return tuple(
            Answer(item, self.engine.name, profile.name, problem=problem)
            for profile in self.request.profiles
        )

    def _smaller(self, question: Question) -> tuple[Answer, ...]:
        """One question that did not fit, with the first fallback profile that does."""
        for fallback in self.request.fallbacks:
            profiles = [fallback, *self.request.profiles[1:]]
            found = self._tried(partial(self._answer, [question], profiles))
            if not isinstance(found, Problem):
                return found[0]
            if found.kind != "out_of_memory":
                return self.problem(question.item, found)
        return self.problem(question.item, Problem("out_of_memory", NO_MEMORY))

    def _pending(self, batch: Sequence[Question], cut: Narrowing | None) -> list[Pending]:
        """The questions tokenized, their images encoded with a profile's `encoder`.

        Under one profile, new images' seconds are divided by the rows that brought them.
        """
        family = self.engine.family
        ids = [
            family.tokenize(one.item.question, [p.pixels for p in one.pictures]) for one in batch
        ]
        encoding = [any(cut not in p.encoded for p in one.pictures) for one in batch]
        encode = self.images.encode([p for one in batch for p in one.pictures], cut)
        share = encode / max(1, sum(encoding)) if len(self.request.profiles) == 1 else encode
        return [
            Pending(
                question,
                Prompt(row, tuple(picture.encoded[cut] for picture in question.pictures)),
                share if new else 0.0,
            )
            for question, row, new in zip(batch, ids, encoding, strict=True)
        ]

    def _answer(
        self, batch: Sequence[Question], profiles: Sequence[Profile]
    ) -> list[tuple[Answer, ...]]:
        cuts = dict.fromkeys(one.encoder for one in profiles)
        pending = {cut: self._pending(batch, cut) for cut in cuts}
        prompts = {cut: [one.prompt for one in rows] for cut, rows in pending.items()}
        if len(profiles) > 1 and self.count == 0:
            for one in profiles:  # a warm-up: first calls allocate and compile
                self.engine.generate(prompts[one.encoder][:1], one, max_new_tokens=2)
        self.count += 1
        parts = len(batch) if len(profiles) == 1 else 1  # under one profile, seconds are shares
        order = list(enumerate(profiles))[:: 1 if self.count % 2 else -1]  # in turn: A B, B A
        found = {
            number: self._generate(prompts[one.encoder], one, number == 0) for number, one in order
        }
        return [
            tuple(
                self._row(pending[one.encoder][row], found[number][row], one, len(batch), parts)
                for number, one in enumerate(profiles)
            )
            for row in range(len(batch))
        ]

    def _generate(
        self, prompts: Sequence[Prompt], profile: Profile, first: bool
    ) -> list[Generation]:
        shown = None
        if first and self.on_text is not None:
            shown = TextStream(self.engine.family.tokenizer, self.on_text)
        found = self.engine.generate(
            prompts,
            profile,
            max_new_tokens=self.request.max_new_tokens,
            choices=self.choices,
            places=self.request.places,
            looks=self.looks if first else None,
            on_ids=None if shown is None else shown.show,
        )
        if shown is not None:
            shown.show(found[0].ids, last=True)
        return found

    def _row(
        self, pending: Pending, found: Generation, profile: Profile, rows: int, parts: int = 1
    ) -> Answer:
        image, encode = pending.question.image_seconds, pending.encode
        select, prefill, decoding = (
            seconds / parts for seconds in (found.select, found.prefill, found.decode)
        )
        first = image + encode + select + prefill
        return Answer(
            item=pending.question.item,
            model=self.engine.name,
            profile=profile.name,
            text=decode(self.engine.family.tokenizer, found.ids),
            tokens=TokenCounts(
                visual=found.visual,
                left=found.left,
                average=profile.average(found.visual, found.left, self.engine.layers),
                text=found.text,
                generated=len(found.ids),
            ),
            seconds=Seconds(
                image=image,
                encode=encode,
                select=select,
                prefill=prefill,
                decode=decoding,
                first_token=first,
                total=first + decoding,
            ),
            rows=rows,
            finish=found.finish,
            kept=found.kept,
            looks=found.looks,
        )


def numbered(
    batch: Sequence[Question], answers: Sequence[tuple[Answer, ...]], fitted: int
) -> tuple[dict[int, tuple[Answer, ...]], int | None]:
    """The answers by number, and how many rows fitted if not all did."""
    found = dict(zip((one.number for one in batch), answers, strict=True))
    return found, fitted if fitted < len(batch) else None


def problem_of(error: Exception) -> Problem:
    """The problem of a row that failed for lack of memory, or for a reason nobody foresaw."""
    if out_of_memory(error):
        return Problem("out_of_memory", NO_MEMORY)
    first_line = (str(error).splitlines() or [""])[0]
    return Problem("internal", f"{type(error).__name__}: {first_line}")
