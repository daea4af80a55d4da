"""The agreement of two answers. Standard library only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from sts_cli.records import Answer, Comparison, Problem


def normalised(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends of words."""
    words = (word.strip(".,;:!?\"'()[]") for word in text.lower().split())
    return " ".join(word for word in words if word)


def same(a: str, b: str) -> bool:
    """True if two answers are equal but for case, spaces and punctuation around words."""
    return normalised(a) == normalised(b)


def exact_match(answer: str, accepted: Iterable[str]) -> bool:
    """True if an answer is one of those accepted, as `same` compares."""
    return normalised(answer) in {normalised(one) for one in accepted}


def token_f1(a: str, b: str) -> float:
    """Harmonic mean of word precision and recall, 0..1; word order does not count (SQuAD's F1)."""
    first, second = (Counter(re.findall(r"\w+", text.lower())) for text in (a, b))
    shared = sum((first & second).values())
    if shared == 0:
        return float(first == second)
    return 2 * shared / (first.total() + second.total())


def problem_among(answers: Iterable[Answer]) -> Problem | None:
    """The first problem of several answers to one question; None if all have a text."""
    return next((one.problem for one in answers if one.problem is not None), None)


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
