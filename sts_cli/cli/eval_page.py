"""The page of sts eval: the table, and every question with all of its answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sts_cli.answering.agreement import problem_among, same
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.metrics import METRICS, NAMES
from sts_cli.outputs.disk import replacing
from sts_cli.outputs.settings import link_target
from sts_cli.records import Answer
from sts_cli.report.html import thumbnail, write_evaluation

if TYPE_CHECKING:
    from sts_cli.inputs.images import Prepared

HALF = 0.5  # the score from which an answer counts as right in the page


class EvalPage:
    """The rows of the page: texts, and a thumbnail of each question's first image."""

    def __init__(self, metric: str, conditions: Sequence[Condition]):
        self.metric, self.conditions = metric, conditions
        self.profiles = {one.name for one in conditions if not one.control}
        self.rows: list[dict[str, Any]] = []
        self._ahead: deque[bytes | None] = deque()
        self._last: tuple[str, bytes] = "", b""  # questions about an image often come together

    def seen(self, ready: Iterable[Prepared]) -> Iterator[Prepared]:
        """The questions again, after their thumbnails were made."""
        for one in ready:
            if one.digests and one.digests[0] != self._last[0]:
                self._last = one.digests[0], thumbnail(one.images[0])
            self._ahead.append(self._last[1] if one.digests else None)
            yield one

    def add(self, answers: Sequence[Answer]) -> None:
        """Add the answers to the next question, one for each condition."""
        item, image = answers[0].item, self._ahead.popleft()
        problem = problem_among(answers)
        texts = {} if problem else {one.profile: one.text or "" for one in answers}
        metric = METRICS[self.metric]
        scores = {name: metric(text, item.answers) for name, text in texts.items() if item.answers}
        right = {name: score >= HALF for name, score in scores.items()}
        self.rows.append(
            {
                "id": item.id,
                "question": item.question,
                "accepted": item.answers,
                "kind": item.extra.get("kind"),
                "answers": texts,
                "right": right,
                "differs": self._differ(texts, right),
                "image": image,
                "images": item.labels,
                "error": f"{problem.kind}: {problem.message}" if problem else None,
            }
        )

    def _differ(self, texts: Mapping[str, str], right: Mapping[str, bool]) -> bool:
        """True if some profiles are right and others not; without a truth, if texts do not agree.

        Controls do not count.
        """
        if right:
            return len({right[name] for name in self.profiles}) > 1
        own = [texts[name] for name in self.profiles if name in texts]
        return not all(same(one, own[0]) for one in own)

    def write(
        self,
        path: Path,
        figures: Mapping[str, Mapping[str, Mapping[str, Any]]],
        subtitle: str,
    ) -> None:
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
        with replacing(link_target(path)) as file:
            write_evaluation(
                file,
                lines,
                self.rows,
                subtitle=subtitle,
                notes=[f"Accuracy is {NAMES[self.metric]}."],
            )
