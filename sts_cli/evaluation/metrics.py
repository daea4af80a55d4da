"""Measures of one answer against the accepted answers, each in 0..1. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from sts_cli.answering.agreement import exact_match, normalised, token_f1

ARTICLES = {"a", "an", "the"}
DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
HALF = 0.5  # of the characters: an answer farther off than that scores nothing in ANLS


def exact(answer: str, accepted: Sequence[str]) -> float:
    """1 for an accepted answer, but for case, spaces and punctuation around words."""
    return float(exact_match(answer, accepted))


def contains(answer: str, accepted: Sequence[str]) -> float:
    """1 if an accepted answer stands in the answer, as whole words."""
    text = f" {normalised(answer)} "
    return float(any(f" {normalised(one)} " in text for one in accepted))


def vqa(answer: str, accepted: Sequence[str]) -> float:
    """The soft accuracy of VQA (arXiv 1505.00468): three people who say the same are right.

    The mean of min(1, matches / 3) over all but one of the accepted answers, as the official
    evaluation has it. Fewer than four of them are a list of right answers: one match is enough.
    Case, punctuation, articles and number words do not count; contractions are left as they are.
    """
    given, truths = plain(answer), [plain(one) for one in accepted]
    if len(truths) < 4:
        return float(given in truths)
    matches = truths.count(given)
    left = [matches - (truth == given) for truth in truths]  # without each of them
    return sum(min(1.0, count / 3) for count in left) / len(left)


def plain(text: str) -> str:
    """Words in lower case, number words as digits, no articles and no punctuation."""
    words = re.sub(r"[^\w\s]", "", re.sub(r"(?<=\w)[-/](?=\w)", " ", text.lower())).split()
    return " ".join(DIGITS.get(word, word) for word in words if word not in ARTICLES)


def anls(answer: str, accepted: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity (arXiv 1907.00490), of one answer.

    1 - distance / length of the longer, for the nearest accepted answer; 0 below a half.
    """
    given = " ".join(answer.lower().split())
    nearest = max(similarity(given, " ".join(one.lower().split())) for one in accepted)
    return nearest if nearest >= HALF else 0.0


def similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance / length of the longer text; 1 for two empty ones."""
    row = list(range(len(b) + 1))  # distances of what was read of `a` to each start of `b`
    for i, letter in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != other))
    return 1 - row[-1] / max(1, len(a), len(b))


def f1(answer: str, accepted: Sequence[str]) -> float:
    """Token F1 with the nearest accepted answer."""
    return max(token_f1(answer, one) for one in accepted)


METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact,
    "contains": contains,
    "vqa": vqa,
    "anls": anls,
    "f1": f1,
}
NAMES: Mapping[str, str] = {  # for people
    "exact": "exact match",
    "contains": "contains",
    "vqa": "VQA accuracy",
    "anls": "ANLS",
    "f1": "token F1",
}
