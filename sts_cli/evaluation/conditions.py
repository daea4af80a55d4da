"""Conditions that questions are answered under: profiles, and controls with as many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sts_cli.answering.request import OFF
from sts_cli.profile import LAYERS, VISUAL, Amount, Cut, Energy, Keep, Left, Profile

View = Literal["whole", "downsampled", "another", "none"]
METHODS = ("random", "grid", "pooling")  # controls that are methods of pruning


@dataclass(frozen=True, slots=True)
class Condition:
    """A profile, named as the condition, and the view of the images that the model gets.

    `whole`: the images as they are; `downsampled`: with so few pixels that `keep` tokens would do
    for them; `another`: the images of another question; `none`: no image.
    """

    profile: Profile
    view: View = "whole"
    keep: Amount = 1.0
    control: bool = False  # not a profile that was asked for

    @property
    def name(self) -> str:
        return self.profile.name


def controls(plans: Sequence[Profile], matched: Sequence[Profile]) -> list[Condition]:
    """The controls: each method at the average tokens of each of `matched`, and no true image."""
    found: list[Condition] = []
    settings = replace(plans[0], guide=None)  # of the model that all profiles share
    for keep in dict.fromkeys(average(plan) for plan in matched):
        share = f"{100 * keep:.2g}%" if isinstance(keep, float) else f"{keep}"
        for method in METHODS:
            cut = Cut(method, keep)
            plan = replace(settings, cuts=(cut,), attention="proportional", about="")
            found.append(Condition(replace(plan, name=f"{method} {share}"), control=True))
        small = replace(settings, name=f"downsampling {share}", cuts=OFF.cuts, attention="plain")
        found.append(Condition(small, "downsampled", keep, control=True))
    for name, view in (("another image", "another"), ("no image", "none")):
        whole = replace(settings, name=name, cuts=OFF.cuts, attention="plain")
        found.append(Condition(whole, view, control=True))  # type: ignore[arg-type]
    return found


def average(plan: Profile) -> Amount:
    """The tokens of a profile, averaged over layers: a share, or a number if it keeps numbers.

    Of one that follows the image it is the most, so that its controls have no fewer.
    """
    tokens = plan.planned(VISUAL, LAYERS)
    if any(isinstance(counted(cut.keep), int) for cut in plan.cuts):
        return max(2, round(tokens))
    return tokens / VISUAL


def counted(keep: Keep) -> Amount | None:
    """The upper bound of `keep`, as it was given."""
    return keep.at_most if isinstance(keep, Energy | Left) else keep


def strongest(plans: Sequence[Profile]) -> list[Profile]:
    """The profile that keeps the fewest tokens, if any drops some."""
    pruned = [plan for plan in plans if plan.cuts]
    return sorted(pruned, key=lambda plan: plan.planned(VISUAL, LAYERS))[:1]
