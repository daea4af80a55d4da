"""Profiles that answer the same questions with one model, and the controls beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from sts_cli.errors import ProfileError
from sts_cli.evaluation.conditions import Condition, controls, strongest
from sts_cli.openvino.ready import wished_backend
from sts_cli.profile import Profile, Quantize
from sts_cli.profile_files import load_profile

CONTROLS = ("strongest", "every", "none")


def on_one_model(
    plans: Sequence[Profile], quantize: str | None, backend: str | None
) -> list[Profile]:
    """The profiles with the precision and backend that all of them share. Raises ProfileError."""
    precision = quantize or shared_by(plans, "quantize") or "none"
    runs_layers = wished_backend(backend or shared_by(plans, "backend"), plans[0])
    return [
        replace(plan, quantize=cast(Quantize, precision), backend=runs_layers) for plan in plans
    ]


def controls_of(plans: Sequence[Profile], which: str) -> list[Condition]:
    """The controls that --controls asks for."""
    if which == "none":
        return []
    pruned = [plan for plan in plans if plan.cuts]
    found = controls(plans, pruned if which == "every" else strongest(plans))
    return [one for one in found if one.name not in {plan.name for plan in plans}]


def uniquely_named(names: Sequence[str]) -> list[Profile]:
    """The profiles of these names; files of the same name are named by their paths.

    Raises ProfileError.
    """
    plans = [load_profile(name) for name in names]
    uses = Counter(plan.name for plan in plans)
    unique = [
        plan if uses[plan.name] == 1 else replace(plan, name=name)
        for name, plan in zip(names, plans, strict=True)
    ]
    name, count = Counter(plan.name for plan in unique).most_common(1)[0]
    if count > 1:
        raise ProfileError(f"--profiles names '{name}' {count} times; once is enough.")
    return unique


def shared_by(plans: Sequence[Profile], setting: str) -> str | None:
    """The `setting` that profiles ask for, which share one model. Raises ProfileError for two."""
    asked = {getattr(plan, setting): plan.name for plan in plans if getattr(plan, setting)}
    if len(asked) > 1:
        wishes = " and ".join(f"'{name}' asks for {value}" for value, name in asked.items())
        raise ProfileError(f"{wishes}, but all profiles share one model; give --{setting}.")
    return next(iter(asked), None)
