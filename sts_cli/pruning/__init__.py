"""The pruning methods by name, with their options. No torch here: profiles are checked before it.

A method is one file with one pure function. A structure method takes one image's tokens,
`(features [N, D], grid [N, 2], count, **options) -> sorted indices [count]`; a semantics method
takes what the instruction's attention gave, `(scores [N], grid [N, 2], count, **options) ->
sorted indices [count]`, and if it `looks` also `features` [N, D] and `sure` [S], indices to keep.
`proportional` is no method: it says how much what any method leaves counts for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Choice:
    """An option that takes one of a few words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """An option that takes a number in a closed range."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Method:
    """Where a method lives and which options a profile may set for it."""

    about: str
    options: Mapping[str, Choice | Number] = field(default_factory=dict)
    looks: bool = False


STRUCTURE: Mapping[str, Method] = {
    "repulsion": Method(
        "greedy repulsion sampling: tokens that differ in content and place (STS, our choice)",
        {
            "potential": Choice(("riesz", "cos", "gauss")),
            "spatial": Number(0, 10),
            "exponent": Number(0.1, 64),
            "seed": Choice(("isolated", "mean")),
        },
    ),
    "random": Method("uniformly at random, seeded: a control", {"draw": Number(0, 2**31)}),
    "grid": Method("a regular grid: a control"),
}

SEMANTICS: Mapping[str, Method] = {
    "relevance": Method(
        "repulsion again, eased by what the instruction's words attend to (STS, our choice)",
        {
            "rows": Choice(("all", "last")),
            "heads": Choice(("mean", "max")),
            "weight": Number(0, 16),
            "spatial": Number(0, 10),
            "exponent": Number(0.1, 64),
        },
        looks=True,
    ),
    "instruction": Method(
        "tokens that the instruction's words attend to, and nothing else",
        {
            "rows": Choice(("all", "last")),
            "heads": Choice(("mean", "max")),
        },
        looks=True,
    ),
    "random": Method("uniformly at random, seeded: a control", {"draw": Number(0, 2**31)}),
    "grid": Method("a regular grid: a control"),
}


def function(name: str) -> Callable[..., Any]:
    """The function of a method of either table; its file and its name are the method's name."""
    return getattr(import_module(f"sts_cli.pruning.{name}"), name)
