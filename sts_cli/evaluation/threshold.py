"""The certainty under which an answer is asked again, from measured agreement. No torch."""

from __future__ import annotations

from collections.abc import Sequence


def threshold(
    certainties: Sequence[float],
    agree: Sequence[bool],
    target: float,
    again: Sequence[bool] | None = None,
) -> float | None:
    """The lowest `below` with which a cascade agrees with the reference on a share `target`.

    `certainties` (0..1) and `agree` are those of the first answers, `again` says if the answers of
    the next profile agree; without it they all do, as those of the reference itself. 0 asks nothing
    again. A limit lies half-way between the last certainty that is asked again and the first that
    is not. None if no limit reaches the target.
    """
    second = [True] * len(agree) if again is None else again
    rows = sorted(zip(certainties, agree, second, strict=True))
    agreed = sum(agree)
    if agreed >= target * len(rows):
        return 0.0
    for index, (certainty, first, then) in enumerate(rows):
        agreed += then - first
        following = rows[index + 1][0] if index + 1 < len(rows) else 1.0
        if following > certainty and agreed >= target * len(rows):
            return (certainty + following) / 2
    return None
