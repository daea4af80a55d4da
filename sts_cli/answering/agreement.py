"""The agreement of two answers. Standard library only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable


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
