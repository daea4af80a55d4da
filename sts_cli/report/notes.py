"""Notes on a profile that a run gives reason for, each once, with what to do about it.

Every threshold is from measurements (docs/sweep.md): no shipped profile reaches one on pictures of
the demo model. They are wide, since a false alarm is worse than silence. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, stdev

from sts_cli.profile import Cut, Profile
from sts_cli.records import Answer, Look, Seconds, TokenCounts

COMPARABLE = 24  # kept tokens; of fewer, a random choice may look alike, too
EXCESS, RANK = 0.5, 0.6  # of the way to equal tokens; of the effective rank of random tokens
BARE = 0.25  # of the image
ASIDE, SURE, IMAGES = 0.25, 4.0, 8  # of the image's side; standard errors; images
# Shares of the visual tokens below which the demo model answers worse (docs/accuracy.md): with a
# first method that keeps what differs, and with any other, as far as we know.
DIFFERING = ("repulsion", "star_pro")
READING, PLACES = (0.08, 0.35), (0.02, 0.12)
PASSED, ROWS, LOSS = 8, 24, 0.05  # first rows, which warm up; rows; of all seconds

ANSWER_FORM = re.compile(r"\b(?:single|one|few|\d+|own|other) words?\b")
READ = re.compile(
    r"\b(?:reads?|text|words?|letters?|digits?|numbers?(?! of)|spell\w*|written|writing|says|saying"
    r"|say(?! (?:what|if|how|where|which|who|whether))|transcribe|ocr"
    r"|on the (?:\w+ )?(?:sign|label|screen|plate|poster|sticker|page))\b"
)
COLOR = re.compile(r"\bcolou?rs?\b")
PLACE = re.compile(
    r"\b(?:where|located?|location|position|coordinates|bounding box(?:es)?|bbox|point (?:to|at)"
    r"|(?:left|right) of|(?:to|on|at) the (?:left|right)|above|below|underneath|next to|beside"
    r"|which (?:side|part|corner|direction))\b"
)


class Notes:
    """The notes on one profile in one run.

    Answers under another profile, such as one that was tried for lack of memory, count for nothing.
    """

    def __init__(self, profile: Profile):
        self.profile = profile
        self.looks: list[tuple[Look, ...]] = []
        self.rows = 0
        self.select = self.saved = self.total = 0.0  # seconds, of rows after the first
        self._said: set[str] = set()

    def noted(self, answer: Answer) -> Answer:
        """The answer, with the notes that it is the first of its run to show."""
        if answer.profile != self.profile.name or answer.tokens is None or answer.seconds is None:
            return answer
        if answer.looks:
            self.looks.append(answer.looks)
        self._count(answer, answer.tokens, answer.seconds)
        notes = []
        for key, sentence in self._found(answer, answer.tokens):
            if key not in self._said:
                self._said.add(key)
                notes.append(f"note: {sentence}")
        return replace(answer, notes=tuple(notes)) if notes else answer

    def _found(self, answer: Answer, tokens: TokenCounts) -> Iterator[tuple[str, str]]:
        """Each note that the answers so far give reason for, after a key of its kind."""
        name = f"profile '{self.profile.name}'"
        if len(answer.item.images) == 1:
            for sentence in self.profile.idle(tokens.visual):
                yield sentence, sentence
        if not self.profile.cuts:
            return
        if answer.looks:
            for number, cut in enumerate(self.profile.cuts):
                seen = [looks[number] for looks in self.looks]
                for check in (alike, aside) if number else (alike, aside, bare):
                    if found := check(cut, seen):
                        yield f"{check.__name__} {number}", f"{name}: {found}"
        if found := asked(self.profile, answer.item.question, tokens):
            yield "asked", f"{name} {found}"
        if found := self._unpaid():
            yield "unpaid", f"{name}: {found}"

    def _count(self, answer: Answer, tokens: TokenCounts, seconds: Seconds) -> None:
        """Add what choosing tokens cost and saved; without a comparison, by the pruned prefill.

        Seconds in proportion to tokens: this leaves out what a prefill costs anyhow, so it
        overstates what is saved.
        """
        self.rows += 1
        if self.rows <= PASSED:
            return
        full = None if answer.comparison is None else answer.comparison.full.seconds
        if full is None:
            dropped = (tokens.visual - tokens.average) / (tokens.average + tokens.text)
            self.saved += seconds.prefill * dropped
        else:
            self.saved += full.prefill - seconds.prefill
        self.select += seconds.select
        self.total += seconds.total

    def _unpaid(self) -> str | None:
        rows = self.rows - PASSED
        if rows < ROWS or self.select - self.saved <= LOSS * self.total:
            return None
        return (
            f"choosing tokens takes {1000 * self.select / rows:.1f} ms a question and saves "
            f"{1000 * max(0.0, self.saved) / rows:.1f} ms of prefill. Use profile off, or a "
            "cheaper method such as grid."
        )


def alike(cut: Cut, seen: list[Look]) -> str | None:
    """The kept tokens collapse onto look-alikes."""
    if min(look.kept for look in seen) < COMPARABLE:
        return None
    kept, before = fmean(one.alike for one in seen), fmean(one.alike_before for one in seen)
    rank = fmean(one.rank for one in seen)
    if kept - before < EXCESS * (1 - before) or rank > RANK:
        return None
    return (
        f"the tokens that {cut.method} keeps look alike (mean cosine {kept:.2f}, of all "
        f"{before:.2f}; effective rank {rank:.0%} of a random choice's). Try method repulsion, or "
        "a larger keep."
    )


def bare(cut: Cut, seen: list[Look]) -> str | None:
    """A part of the image holds no kept token."""
    share = fmean(one.bare for one in seen)
    if share < BARE:
        return None
    return (
        f"{cut.method} keeps no token in or near {share:.0%} of the image, so the model cannot "
        "see that part. Try method repulsion, or a larger keep."
    )


def aside(cut: Cut, seen: list[Look]) -> str | None:
    """The kept tokens lie to one side, in many images."""
    if len(seen) < IMAGES or min(look.kept for look in seen) < COMPARABLE:
        return None
    for side, values in (
        (("top", "bottom"), [one.row for one in seen]),
        (("left", "right"), [one.column for one in seen]),
    ):
        mean, error = fmean(values), stdev(values) / len(values) ** 0.5
        if abs(mean) >= ASIDE and abs(mean) >= SURE * error:
            return (
                f"in {len(seen)} images, the tokens that {cut.method} keeps lie mostly at the "
                f"{side[mean > 0]}, whatever is there. Try method repulsion, or a cut at greater "
                "depth."
            )
    return None


def asked(profile: Profile, question: str, tokens: TokenCounts) -> str | None:
    """A question about text or places, under a budget that is known to lose these."""
    share = tokens.average / max(1, tokens.visual)
    other = profile.cuts[0].method not in DIFFERING
    if share < READING[other] and asks_to_read(question):
        what, loses = "to read", "reading suffers first"
    elif share < PLACES[other] and asks_for_place(question):
        what, loses = "for a place", "places get lost"
    else:
        return None
    return (
        f"keeps {share:.0%} of the visual tokens, and a question asks {what}: {loses} "
        "(docs/accuracy.md). Try profile balanced or gentle."
    )


def asks_to_read(question: str) -> bool:
    """True if an English question seems to ask for text, by its words, but not for its colour."""
    text = ANSWER_FORM.sub("", question.lower())
    return READ.search(text) is not None and COLOR.search(text) is None


def asks_for_place(question: str) -> bool:
    """True if an English question seems to ask where something is, by its words."""
    return PLACE.search(question.lower()) is not None
