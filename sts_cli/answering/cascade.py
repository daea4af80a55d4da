"""Rows whose answer is not certain, until it is known if they are asked again, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from sts_cli.answering.questions import Question
from sts_cli.profile import Escalate, Profile
from sts_cli.records import Answer, Seconds, TokenCounts


@dataclass(frozen=True, eq=False)
class Tried:
    """A question with its answer so far. It holds the encoded images for the next try."""

    question: Question
    answer: Answer


@dataclass
class Gate:
    """The way from one profile to the next: rows in the order of the input, whatever comes first.

    A gate without a cap on its share lets a row through at once.
    """

    escalate: Escalate
    passed: int = 0  # rows that went on to the next profile
    position: int = 0  # all rows before it are decided
    known: dict[int, Tried | None] = field(default_factory=dict)  # None: it does not ask

    def offer(self, number: int, asks: Tried | None) -> Iterator[tuple[Tried, bool]]:
        """Add a row; the asking rows that can be decided now, and if they may go on."""
        if self.escalate.at_most is None:
            if asks is not None:
                yield asks, True
            return
        self.known[number] = asks
        while self.position in self.known:
            yield from self._decide(self.position)
            self.position += 1

    def release(self) -> Iterator[tuple[Tried, bool]]:
        """Decide the rows that wait for others that will not come."""
        for number in sorted(self.known):
            yield from self._decide(number)

    def _decide(self, number: int) -> Iterator[tuple[Tried, bool]]:
        asks = self.known.pop(number)
        if asks is not None:
            through = self.escalate.allows(number, self.passed)
            self.passed += through
            yield asks, through


class Cascade:
    """The rows between the profiles of a cascade, for questions whose answers come in any order."""

    def __init__(self, profile: Profile):
        self.profiles = tuple(replace(one, escalate=None) for one in profile.ladder)
        self.gates = [Gate(one.escalate) for one in profile.ladder if one.escalate is not None]
        self.ready: list[list[Tried]] = [[] for _ in self.profiles]  # to be asked, by profile

    @property
    def waiting(self) -> int:
        """The most rows that wait for the same profile."""
        return max(map(len, self.ready))

    @property
    def open(self) -> bool:
        """True if rows wait here."""
        return self.waiting > 0 or self.held > 0

    @property
    def held(self) -> int:
        """Rows that wait for the decision about earlier ones."""
        return sum(row is not None for gate in self.gates for row in gate.known.values())

    def take(self, level: int, question: Question, answer: Answer) -> Iterator[Tried]:
        """Rows that are answered for good, now that the profile `level` gave this answer."""
        tried = Tried(question, answer)
        asks = level < len(self.gates) and self.gates[level].escalate.doubts(answer.certainty)
        if not asks:
            yield tried
        yield from self._offered(level, question.number, tried if asks else None)

    def release(self) -> Iterator[Tried]:
        """Decide all rows without those that will not come; yields the rows that stay."""
        for level, gate in enumerate(self.gates):
            yield from self._went(level, gate.release())

    def next(self, size: int) -> tuple[int, list[Tried]]:
        """The profile that most rows wait for, and the first `size` of these."""
        level = max(range(len(self.ready)), key=lambda one: len(self.ready[one]))
        rows, self.ready[level] = self.ready[level][:size], self.ready[level][size:]
        return level, rows

    def _offered(self, level: int, number: int, asks: Tried | None) -> Iterator[Tried]:
        """Tell a gate about a row, and all gates behind it if it does not ask."""
        for there in range(level, len(self.gates) if asks is None else level + 1):
            yield from self._went(there, self.gates[there].offer(number, asks))

    def _went(self, level: int, decided: Iterator[tuple[Tried, bool]]) -> Iterator[Tried]:
        for tried, through in decided:
            if through:
                self.ready[level + 1].append(tried)
            else:
                yield tried
                yield from self._offered(level + 1, tried.question.number, None)


def again(before: Answer, now: Answer) -> Answer:
    """The answer `now`, which also cost what the try `before` it did."""
    first = before.escalated or before.profile
    if now.seconds is None or now.tokens is None:
        return replace(now, escalated=first)
    assert before.seconds is not None and before.tokens is not None
    spent = summed(before.seconds, now.seconds)
    reached = before.seconds.total + now.seconds.first_token - now.seconds.image
    return replace(
        now,
        escalated=first,
        rows=max(before.rows, now.rows),
        tokens=costing(now.tokens, before.tokens),
        seconds=replace(spent, first_token=reached),
    )


def costing(tokens: TokenCounts, before: TokenCounts) -> TokenCounts:
    """The counts of an answer, after an earlier try."""
    return replace(tokens, average=tokens.average + before.average)


def summed(one: Seconds, other: Seconds) -> Seconds:
    """The seconds of two tries; the image is prepared once."""
    phases = {
        phase: getattr(one, phase) + getattr(other, phase)
        for phase in ("encode", "select", "prefill", "decode")
    }
    return replace(one, **phases, total=one.image + sum(phases.values()))


def capped(profiles: Sequence[Profile]) -> bool:
    """True if a profile limits the share of rows that escalate."""
    ladders = (rung for one in profiles for rung in one.ladder)
    return any(one.escalate is not None and one.escalate.at_most is not None for one in ladders)
