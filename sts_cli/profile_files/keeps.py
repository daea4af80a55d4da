"""What a cut keeps: a share, a number, or a rule."""

from __future__ import annotations

import math
from typing import Any

from sts_cli.errors import ProfileError
from sts_cli.profile import Amount, Energy, Keep, Left
from sts_cli.profile_files.keys import BOUNDS, RULES
from sts_cli.profile_files.mistakes import Mistakes, Place
from sts_cli.profile_files.values import check_keys, is_number


def read_keep(value: Any, where: Place) -> Keep:
    """A share, a number, or a rule: `{energy: 0.95, at_most: 0.25}` or `{left: 0.5}`."""
    if not isinstance(value, dict):
        return _amount(value, where)
    rules = [name for name in RULES if name in value]
    mistakes = Mistakes()
    mistakes.of(check_keys, value, (*RULES, *BOUNDS), where)
    misspelt = bool(mistakes.found)  # then what is missing may be there under that name
    if len(rules) != 1 and not misspelt:
        raise ProfileError(
            f"{where} must look like {{energy: 0.95, at_most: 0.25}} or {{left: 0.5}}."
        )
    share = [mistakes.of(_share, value[name], where.at(name)) for name in rules]
    needed = ("at_most",) if rules == ["energy"] and not misspelt else ()
    bounds = {
        name: mistakes.of(_amount, value.get(name), where.at(name))
        for name in BOUNDS
        if name in needed or value.get(name) is not None
    }
    mistakes.end()
    if {*BOUNDS} <= {*bounds} and keeps_more(bounds["at_least"], bounds["at_most"]):
        raise ProfileError(
            f"{where.at('at_least')} is {bounds['at_least']}, more than at_most, which is "
            f"{bounds['at_most']}."
        )
    rule: Energy | Left = (Energy if rules == ["energy"] else Left)(*share, **bounds)
    return rule


def _share(value: Any, where: Place) -> float:
    if not is_number(value) or not 0 < value <= 1:
        raise ProfileError(f"{where} is {value!r}. Give a share above 0, at most 1.")
    return float(value)


def _amount(value: Any, where: Place) -> Amount:
    if not is_number(value) or not math.isfinite(value):
        given = "is missing" if value is None else f"is {value!r}"
        raise ProfileError(
            f"{where} {given}. Give a share of the image's visual tokens (0 < x <= 1) "
            "or a whole number of them (2 or more)."
        )
    if isinstance(value, int) and value >= 2:
        return value
    if 0 < value <= 1:
        return float(value)
    raise ProfileError(
        f"{where} is {value}. A share is above 0 and at most 1; "
        "a number of tokens is whole and at least 2."
    )


def keeps_more(a: Keep, b: Keep) -> bool:
    """True if `a` surely keeps more than `b`; a share and a number cannot be compared."""
    if isinstance(b, Energy | Left):
        return b.at_most is not None and keeps_more(a, b.at_most)
    if isinstance(a, Energy | Left):
        return a.at_least is not None and keeps_more(a.at_least, b)
    return isinstance(a, int) == isinstance(b, int) and a > b
