"""Batches of questions one after the other, or joined while decoded; failures stay in their row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from sts_cli.answering.asking import Asker, Pending
from sts_cli.answering.cascade import Cascade, again
from sts_cli.answering.features import Refused
from sts_cli.answering.questions import Question
from sts_cli.engine.session import Session
from sts_cli.errors import OutputError
from sts_cli.machine.hardware import out_of_memory
from sts_cli.profile import Profile
from sts_cli.records import Answer, Item, Problem

T = TypeVar("T")
PATIENCE = 8  # batches of answers that wait for an older one which escalates
WORTH = 2  # joins of caches that free places have cost, before the next
NO_MEMORY = "One question at a time does not fit into memory; use a stronger profile."


class Batches:
    """Answers to the same request, under several profiles or to a listener batch after batch.

    Under one profile, questions join those in hand while these are decoded. Those that escalate
    wait until a batch of them is asked again; otherwise they are asked again with their own batch.
    """

    def __init__(self, asker: Asker):
        self.asker = asker
        self.engine = asker.engine
        self.request = request = asker.request
        self.continuous = len(request.profiles) == 1 and asker.on_text is None
        self.cascade = Cascade(request.profile)
        self.profiles = self.cascade.profiles[:1] if self.continuous else request.profiles
        self.again_at_once: int | None = None  # rows that fitted when they were asked again
        self.session: Session | None = None
        self.in_hand: dict[int, Pending] = {}  # by their number in the session

    @property
    def open(self) -> bool:
        """True if more questions may join those in hand: a join would cost less than it saves."""
        session = self.session
        joins = self.engine.decoder.joins
        return session is None or joins and session.idle >= WORTH * session.joining

    def due(self, size: int, done: int, idle: bool) -> bool:
        """True if questions that escalate should be asked again now, in batches of `size`.

        They wait to be many, unless there is nothing else to do (`idle`) or `done` answers wait to
        come out behind older ones.
        """
        if self.in_hand and not self.engine.decoder.joins:  # it holds one batch at a time
            return False
        waiting = self.cascade.waiting
        return waiting >= size or idle or waiting > 0 and done >= PATIENCE * size

    def refuse(self, question: Question, problem: Problem) -> dict[int, tuple[Answer, ...]]:
        """The answers that are known now that a question has a problem."""
        return self._known([question], [self.problem(question.item, problem)], 0)

    def escalate(self, size: int) -> dict[int, tuple[Answer, ...]]:
        """Ask up to `size` questions again; the answers that are done."""
        found: dict[int, tuple[Answer, ...]] = {}
        if not self.cascade.waiting:  # older questions will not come: the run was stopped
            found = {one.question.number: (one.answer,) for one in self.cascade.release()}
        level, tried = self.cascade.next(min(size, self.again_at_once or size))
        if not tried:
            return found
        questions, profile = [one.question for one in tried], self.cascade.profiles[level]
        answers, fitted = self.answer(questions, (profile,))
        if fitted < len(tried):
            self.again_at_once = fitted
        rows = [
            # What does not fit, even alone, keeps its first answer where profiles may shrink.
            (one.answer if row.profile != profile.name else again(one.answer, row),)
            for one, (row,) in zip(tried, answers, strict=True)
        ]
        return found | self._known(questions, rows, level)

    def advance(
        self, batch: Sequence[Question]
    ) -> tuple[dict[int, tuple[Answer, ...]], int | None]:
        """Let `batch` join the questions in hand, and take one step with all.

        Returns the answers that are done, by number, and how many questions at once fitted into
        memory if not all did. What the session loses when it fails is asked again.
        """
        pending: list[Pending] | Problem = []
        if self.continuous:
            pending = self._tried(partial(self.asker.under, batch, self.request.profile))
        if not self.continuous or isinstance(pending, Problem):
            return self._numbered(batch, *self.answer(batch, self.profiles))
        found = self._tried(partial(self._step, pending))
        if not isinstance(found, Problem):
            questions, rows = [one for one, _ in found], [(row,) for _, row in found]
            return self._known(questions, rows, 0), None
        lost = [*(one.question for one in self.in_hand.values()), *batch]
        lost = list(dict.fromkeys(lost))  # those that had just been admitted are in hand, too
        self.session, self.in_hand = None, {}
        return self._numbered(lost, *self.again(lost, found, self.profiles))

    def _step(self, pending: Sequence[Pending]) -> list[tuple[Question, Answer]]:
        """Admit questions, if any, and take one step; the questions that are answered."""
        profile, done = self.profiles[0], []
        if self.session is None:
            self.session = self.engine.session(
                profile,
                max_new_tokens=self.request.max_new_tokens,
                choices=self.asker.choices,
                places=self.request.places,
                looks=self.asker.looks,
            )
        if pending:
            first = self.session.admitted
            self.in_hand.update(enumerate(pending, first))
            done += self.session.admit([one.prompt for one in pending])
        if self.session.rows:
            done += self.session.step()
        answers = []
        for number, found in done:
            one = self.in_hand.pop(number)
            answers.append((one.question, self.asker.row(one, found, profile, found.rows)))
        return answers

    def _numbered(
        self, batch: Sequence[Question], answers: Sequence[tuple[Answer, ...]], fitted: int
    ) -> tuple[dict[int, tuple[Answer, ...]], int | None]:
        """The answers by number, and how many rows fitted if not all did."""
        return self._known(batch, answers, 0), fitted if fitted < len(batch) else None

    def _known(
        self, batch: Sequence[Question], rows: Sequence[tuple[Answer, ...]], level: int
    ) -> dict[int, tuple[Answer, ...]]:
        """The answers by number that stay, now that the profile `level` gave `rows`."""
        if not self.continuous:
            return dict(zip((one.number for one in batch), rows, strict=True))
        return {
            tried.question.number: (tried.answer,)
            for question, (row,) in zip(batch, rows, strict=True)
            for tried in self.cascade.take(level, question, row)
        }

    def answer(
        self, batch: Sequence[Question], profiles: Sequence[Profile]
    ) -> tuple[list[tuple[Answer, ...]], int]:
        """Answers to each question, and how many questions at once fitted into memory."""
        found = self._tried(partial(self.asker.answers, batch, profiles))
        if not isinstance(found, Problem):
            return found, len(batch)
        return self.again(batch, found, profiles)

    def again(
        self, batch: Sequence[Question], found: Problem, profiles: Sequence[Profile]
    ) -> tuple[list[tuple[Answer, ...]], int]:
        """The same for a batch that has failed, in parts."""
        memory = found.kind == "out_of_memory"
        if len(batch) > 1:
            half = len(batch) // 2 if memory else 1
            parts = [self.answer(batch[i : i + half], profiles) for i in range(0, len(batch), half)]
            answers = [answer for part, _ in parts for answer in part]
            return answers, min(fits for _, fits in parts) if memory else len(batch)
        if memory:
            return [self._smaller(batch[0], profiles)], 1
        return [self.problem(batch[0].item, found, profiles)], 1

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

    def problem(
        self, item: Item, problem: Problem, profiles: Sequence[Profile] | None = None
    ) -> tuple[Answer, ...]:
        """The same problem under each profile."""
        return tuple(
            Answer(item, self.engine.name, profile.name, problem=problem)
            for profile in profiles or self.profiles
        )

    def _smaller(self, question: Question, every: Sequence[Profile]) -> tuple[Answer, ...]:
        """One question that did not fit, with the first fallback profile that does."""
        for fallback in self.request.fallbacks:
            profiles = [fallback, *every[1:]]
            found = self._tried(partial(self.asker.answers, [question], profiles))
            if not isinstance(found, Problem):
                return found[0]
            if found.kind != "out_of_memory":
                return self.problem(question.item, found, every)
        return self.problem(question.item, Problem("out_of_memory", NO_MEMORY), every)


def problem_of(error: Exception) -> Problem:
    """The problem of a row that failed for lack of memory, or for a reason nobody foresaw."""
    if out_of_memory(error):
        return Problem("out_of_memory", NO_MEMORY)
    first_line = (str(error).splitlines() or [""])[0]
    return Problem("internal", f"{type(error).__name__}: {first_line}")
