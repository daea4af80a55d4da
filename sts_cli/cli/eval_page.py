"""The page of sts eval: the table, and every question with all of its answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sts_cli.answering.agreement import problem_among, same
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.metrics import METRICS, NAMES
from sts_cli.outputs.disk import replacing, write_errors
from sts_cli.outputs.settings import link_target
from sts_cli.records import Answer
from sts_cli.report.evaluation import write_evaluation
from sts_cli.report.html import Page
from sts_cli.report.visible import in_line

if TYPE_CHECKING:
    from sts_cli.inputs.images import Prepared

HALF = 0.5  # the score from which an answer counts as right in the page


class EvalPage:
    """The page at `path`: its rows and thumbnails are in temporary files until `write`.

    Raises OutputError.
    """

    def __init__(self, path: Path, metric: str, conditions: Sequence[Condition]):
        self.path = link_target(path)
        self.metric, self.conditions = metric, conditions
        self.profiles = {one.name for one in conditions if not one.control}
        with write_errors(path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.page = Page(self.path.parent)
        self._ahead: deque[list[int]] = deque()  # thumbnails of questions without answers

    def seen(self, ready: Iterable[Prepared]) -> Iterator[Prepared]:
        """The questions again, after their thumbnails were made."""
        for one in ready:
            with write_errors(self.path):
                pairs = zip(one.digests, one.images, strict=True)
                self._ahead.append([self.page.picture(digest, image) for digest, image in pairs])
            yield one

    def add(self, answers: Sequence[Answer]) -> None:
        """Add the answers to the next question, one for each condition."""
        with write_errors(self.path):
            row = row_of(answers, self.metric, self.profiles)
            self.page.row(pictures=self._ahead.popleft(), **row)

    def write(self, figures: Mapping[str, Mapping[str, Mapping[str, Any]]], subtitle: str) -> None:
        """Write the page. Raises OutputError."""
        lines = [
            {
                **figures[one.name]["all"],
                "name": one.name,
                "kind": "control" if one.control else "profile",
                "accuracy": figures[one.name]["all"][self.metric],
                "accuracy_low": figures[one.name]["all"]["low"],
                "accuracy_high": figures[one.name]["all"]["high"],
            }
            for one in self.conditions
        ]
        notes = [f"Accuracy is {NAMES[self.metric]}."]
        with replacing(self.path) as file:
            write_evaluation(file, self.page, lines, subtitle=subtitle, notes=notes)
        self.page.close()


def row_of(answers: Sequence[Answer], metric: str, profiles: set[str]) -> dict[str, Any]:
    """One question with its answer under each condition, as a row of the page.

    It `differs` if some `profiles` are right and others not; without a truth, if their texts do not
    agree. Controls do not count. Its kept tokens are those of the first profile that cuts and whose
    answer is not that of the reference, else those of the reference.
    """
    item, problem = answers[0].item, problem_among(answers)
    texts = {} if problem else {one.profile: one.text or "" for one in answers}
    right = {
        name: METRICS[metric](text, item.answers) >= HALF
        for name, text in texts.items()
        if item.answers
    }
    own = [] if problem else [one for one in answers if one.profile in profiles]
    unlike = [one for one in own if not alike(one, own[0], right)]
    pruned = (one for one in [*unlike, *own[:1]] if any(kept.left for kept in one.kept or ()))
    shown = next(pruned, None) if unlike else None
    return {
        "id": item.id,
        "question": item.question,
        "answers": [
            {"name": name, "text": text, "right": right.get(name)} for name, text in texts.items()
        ],
        "images": item.labels,
        "error": f"{problem.kind}: {problem.message}" if problem else None,
        "differs": bool(unlike),
        "kept": shown.kept if shown else (),
        "facts": [kept_by(shown)] if shown else [],
        "kind": str(item.extra.get("kind") or ""),
        "expected": item.answers,
    }


def alike(one: Answer, other: Answer, right: Mapping[str, bool]) -> bool:
    """True if both are right or both wrong; without a truth, if their texts agree."""
    if right:
        return right[one.profile] == right[other.profile]
    return same(one.text or "", other.text or "")


def kept_by(answer: Answer) -> str:
    """`kept by aggressive: 576 -> 70 -> 58 visual tokens`"""
    tokens = answer.tokens
    counts = (tokens.visual, *tokens.left) if tokens else ()
    return f"kept by {in_line(answer.profile)}: {' -> '.join(map(str, counts))} visual tokens"
