"""The strongest profile that keeps agreement with `off` on a user's own questions.

The questions are split. On a first part, all candidates are tried, and for each budget the best is
kept. The other part, which the search has not seen, is the proof: from the weakest pruning to the
strongest, each is tested until one fails. So the last that passed keeps the promise with 95%
confidence, however many were tried before (tests in a fixed order need no correction: Maurer et
al. 1995).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, takewhile
from random import Random
from typing import TYPE_CHECKING

from sts_cli.answering.agreement import token_f1
from sts_cli.answering.request import OFF, Request
from sts_cli.errors import ProfileError
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.exam import answers
from sts_cli.evaluation.shapes import AVERAGES, SHAPES
from sts_cli.evaluation.table import Results, Tally, mean
from sts_cli.evaluation.threshold import threshold
from sts_cli.inputs.images import Prepared
from sts_cli.profile import Escalate, Profile
from sts_cli.profile_files import load_profile
from sts_cli.records import Problem
from sts_cli.report.intervals import lower_bound, wilson

if TYPE_CHECKING:
    from sts_cli.library import Model

SEARCHED = 1 / 3  # of the questions, and at most as many as follow
SEARCHED_AT_MOST = 60


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate on some questions."""

    profile: Profile
    average: float  # share of the visual tokens, as planned for the first try
    tally: Tally
    similarity: float  # sum of the token F1 with the answers of `off`
    certainties: tuple[float, ...] = ()  # the probability of each answer

    @property
    def agreed(self) -> int:
        return sum(self.tally.agree)

    @property
    def asked(self) -> int:
        return len(self.tally.agree)

    @property
    def proved(self) -> float:
        """The agreement that these questions prove, with 95% confidence."""
        return lower_bound(self.agreed, self.asked)

    @property
    def tokens(self) -> float:
        """Visual tokens of an answer, averaged over layers, all tries together."""
        return mean(self.tally.tokens)

    @property
    def rank(self) -> tuple[int, float]:
        return self.agreed, self.similarity


@dataclass(frozen=True, slots=True)
class Tuned:
    """The end of a search: the best of each budget on unseen questions, the weakest first."""

    target: float
    searched: int  # questions that the search saw
    trials: tuple[Trial, ...]
    failed: int  # questions with a problem
    problem: Problem | None  # the first

    @property
    def best(self) -> Trial | None:
        """The strongest that keeps the promise: the last before the first that does not."""
        passed = list(takewhile(lambda one: one.proved >= self.target, self.trials))
        return passed[-1] if passed else None

    @property
    def chosen(self) -> Trial:
        """The best; without one, the trial that proves the most."""
        return self.best or max(self.trials, key=lambda one: (one.proved, -one.average))

    @property
    def missing(self) -> int:
        """The questions that there are too few of, even if all answers agree."""
        return max(0, enough(self.target) - self.searched - self.chosen.asked)


def tune(
    vlm: Model,
    ready: Iterable[Prepared],
    target: float,
    request: Request,
    *,
    seed: int = 0,
    limit: int | None = None,
    cascade: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """The search for a profile whose answers agree with `off` on a share of at least `target`.

    `seed` decides which of the first `limit` questions are searched with. With `cascade`, answers
    that are not certain are given again by `off`. `say` hears how far the search is. All images are
    held at once. Raises ProfileError if there are too few questions, or if none can be answered.
    """
    questions = list(islice(ready, limit))
    Random(seed).shuffle(questions)
    part = searched(len(questions))
    if not 0 < part < len(questions):
        raise ProfileError(
            f"Questions: {len(questions)}. Some are for the search and others for the proof; give "
            "a few dozen."
        )
    search = Search(vlm, request, say)
    plans = [(shape.profile(average), average) for shape in SHAPES for average in AVERAGES]
    seen = search.trials(questions[:part], [one for one in plans if able(vlm, one[0])])
    best = best_of_each(seen)
    if cascade:
        ladder = [(cascading(one, target), one.average) for one in best]
    else:
        hopeful = [one for one in best if possible(one, target)] or best[:1]
        ladder = [(one.profile, one.average) for one in hopeful]
    unseen = search.trials(questions[part:], ladder)
    return Tuned(target, part, tuple(unseen), search.failed, search.problem)


class Search:
    """Trials of profiles with one model; counts the questions that fail."""

    def __init__(self, vlm: Model, request: Request, say: Callable[[str], None]):
        self.vlm, self.request, self.say = vlm, request, say
        self.failed = 0
        self.problem: Problem | None = None

    def trials(
        self, questions: Sequence[Prepared], plans: Sequence[tuple[Profile, float]]
    ) -> list[Trial]:
        """Each profile on the same questions, beside `off`. Raises ProfileError if all fail."""
        mine = self.vlm.profile
        named = [
            replace(plan, quantize=mine.quantize, backend=mine.backend)
            for plan in (OFF, *(plan for plan, _ in plans))
        ]
        conditions = [Condition(plan) for plan in named]
        results, answered = Results(conditions), []
        found = answers(self.vlm, questions, conditions, self.request)
        for done, row in enumerate(found, 1):
            self.say(f"{len(plans)} profiles, {done} of {len(questions)} questions")
            if results.add(row):
                answered.append(row)
        self.failed += results.failed
        self.problem = self.problem or results.problem
        if not answered:
            assert self.problem is not None
            raise ProfileError(
                f"None of {len(questions)} questions could be answered; the first: "
                f"{self.problem.kind}: {self.problem.message}"
            )
        off, *columns = zip(*answered, strict=True)
        return [
            Trial(
                plan,
                average,
                kinds["all"],
                sum(token_f1(a.text or "", b.text or "") for a, b in zip(column, off, strict=True)),
                tuple(one.certainty.probability if one.certainty else 0.0 for one in column),
            )
            for (plan, average), kinds, column in zip(
                plans, results.tallies[1:], columns, strict=True
            )
        ]


def able(vlm: Model, profile: Profile) -> bool:
    """True if the model can honour the profile; with few layers, a second cut may not fit."""
    try:
        vlm.engine.check(profile)
    except ProfileError:
        return False
    return True


def best_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """For each budget the trial that agrees most, from the largest budget to the smallest."""
    best: dict[float, Trial] = {}
    for one in trials:
        if one.average not in best or one.rank > best[one.average].rank:
            best[one.average] = one
    return sorted(best.values(), key=lambda one: -one.average)


def possible(trial: Trial, target: float) -> bool:
    """False if the questions so far speak against the target."""
    return wilson(trial.agreed, trial.asked)[1] >= target


def cascading(trial: Trial, target: float) -> Profile:
    """The profile, whose answers are given again by `off` below a certainty that fits its trial.

    The certainty is the lowest with which half as many would differ as `target` allows: few
    questions have set it. Without a question that differs there is no second try.
    """
    below = threshold(trial.certainties, trial.tally.agree, (1 + target) / 2)
    if not below:
        return trial.profile
    again = Escalate(min(1.0, round(below, 4)), load_profile("off"))
    return replace(trial.profile, name=f"{trial.profile.name} to off", escalate=again)


def searched(questions: int) -> int:
    """The number of questions that are for the search."""
    return min(SEARCHED_AT_MOST, round(SEARCHED * questions))


def enough(target: float) -> int:
    """The fewest questions that can prove `target` < 1: if all unseen answers agree."""
    unseen = math.ceil(math.log(0.05) / math.log(target))
    return next(n for n in count(unseen) if n - searched(n) >= unseen)
