"""Profiles: how many visual tokens to keep, where, and by which method. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

Amount = float | int  # a share of the image's visual tokens (0 < x <= 1), or a number (>= 2)
Attention = Literal["plain", "proportional"]  # a token counts as one, or as all it stands for
ATTENTION: tuple[Attention, ...] = ("plain", "proportional")
Quantize = Literal["auto", "none", "int8", "int4", "nf4"]
QUANTIZE: tuple[Quantize, ...] = ("auto", "none", "int8", "int4", "nf4")
Backend = Literal["auto", "torch", "openvino"]  # runs the layers
BACKEND: tuple[Backend, ...] = ("auto", "torch", "openvino")
Measure = Literal["probability", "margin"]  # of an answer's certainty
MEASURE: tuple[Measure, ...] = ("probability", "margin")
Choice = Literal["likeness", "change"]  # of patches inside the vision tower
CHOICES: tuple[Choice, ...] = ("likeness", "change")
VISUAL, LAYERS = 576, 32  # of LLaVA-1.5-7B, to compare profiles


@dataclass(frozen=True, slots=True)
class Energy:
    """A budget that follows the image: as many tokens as hold this share of its energy.

    For cuts before the first layer, by a method that `pruning.follows` knows.
    """

    energy: float  # 0 < x <= 1; at 1, all of `at_most`
    at_most: Amount
    at_least: Amount | None = None  # None: 1

    def bounds(self, visual: int) -> tuple[int, int]:
        """The fewest and the most tokens of an image of `visual` tokens."""
        most = budget(self.at_most, visual)
        return least(self.at_least, visual, most), most


@dataclass(frozen=True, slots=True)
class Left:
    """A budget that follows the cut before: a share of the tokens that it left of the image."""

    left: float  # 0 < x <= 1
    at_most: Amount | None = None  # of the image, as the others
    at_least: Amount | None = None

    def of(self, before: int, visual: int) -> int:
        """The number of tokens, where `before` of an image's `visual` tokens are left."""
        most = before if self.at_most is None else min(before, budget(self.at_most, visual))
        return max(least(self.at_least, visual, most), min(most, rounded(self.left * before)))


Keep = Amount | Energy | Left


@dataclass(frozen=True, slots=True)
class Cut:
    """One place where visual tokens are dropped."""

    method: str
    keep: Keep
    depth: float = 0.0  # share of the language model's layers that run before; 0: before the first
    options: Mapping[str, float | str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # digest of each file of an option

    def layer(self, layers: int) -> int:
        """The number of layers that run before this cut."""
        return min(layers, max(1, round(self.depth * layers))) if self.depth else 0

    def settings(self) -> dict[str, Any]:
        """All that its choice depends on, as JSON values: of files the content, not the name."""
        return {
            "method": self.method,
            "keep": spelled(self.keep),
            "depth": self.depth,
            "options": {**self.options, **self.files},
        }


@dataclass(frozen=True, slots=True)
class Escalate:
    """The next profile of a cascade, which answers again what the one before was not sure of."""

    below: float  # certainty, 0..1, under which an answer counts as not sure
    to: Profile  # keeps more tokens
    measure: Measure = "probability"
    at_most: float | None = None  # share of the rows, in the order of the input

    def doubts(self, certainty: Any) -> bool:
        """True if the certainty of an answer, a `records.Certainty`, is below the limit."""
        return certainty is not None and getattr(certainty, self.measure) < self.below

    def allows(self, number: int, before: int) -> bool:
        """True if the row `number`, from 0, may escalate after `before` earlier ones.

        So of the first n rows at most n times the share do, rounded up.
        """
        return self.at_most is None or before < round(self.at_most * (number + 1), 9)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """The place in the vision tower where patches are dropped; at its end they are rebuilt."""

    method: Choice
    keep: float  # share of the patches that go on
    depth: float  # share of the tower's layers that run on all patches

    def layer(self, layers: int) -> int:
        """The number of layers that run on all patches: at least one."""
        return min(layers, max(1, round(self.depth * layers)))


@dataclass(frozen=True, slots=True)
class Profile:
    """A named list of cuts, with settings. `off` is the profile without cuts."""

    name: str
    about: str = ""
    cuts: tuple[Cut, ...] = ()  # from the first layer to the last
    encoder: Narrowing | None = None  # None: the vision tower runs on all patches
    guide: str | None = None  # a smaller model that answers first, for methods that ask for one
    attention: Attention = "plain"
    quantize: Quantize | None = None
    backend: Backend | None = None
    batch_size: int | None = None
    max_new_tokens: int | None = None
    escalate: Escalate | None = None

    @property
    def ladder(self) -> tuple[Profile, ...]:
        """This profile, and those that its answers escalate to, one after the other."""
        return (self, *(self.escalate.to.ladder if self.escalate else ()))

    def stops(self, layers: int) -> tuple[int, ...]:
        """The number of language model layers that run before each cut."""
        return tuple(cut.layer(layers) for cut in self.cuts)

    @property
    def follows(self) -> bool:
        """True if the tokens that a cut keeps depend on what the image shows."""
        return any(isinstance(cut.keep, Energy) for cut in self.cuts)

    def budgets(self, visual: int) -> tuple[int, ...]:
        """The most tokens left of an image's `visual` tokens after each cut; they never grow.

        It is the number that is left, but where a cut follows the image.
        """
        left = [visual]
        for cut in self.cuts:
            left.append(min(most(cut.keep, visual, left[-1]), left[-1]))
        return tuple(left[1:])

    def average(self, visual: int, left: Sequence[int], layers: int) -> float:
        """Visual tokens per layer, averaged over `layers`; `left` of them after each cut."""
        edges = pairwise([0, *self.stops(layers), layers])
        counts = zip(edges, [visual, *left], strict=True)
        return sum((end - start) * count for (start, end), count in counts) / layers

    def planned(self, visual: int, layers: int) -> float:
        """The average for one image that is cut to the budgets: the most that it can be."""
        return self.average(visual, self.budgets(visual), layers)

    def steps(self, layers: int) -> Iterator[tuple[Cut | None, range, Cut | None]]:
        """The prefill in order: a cut (first None), the layers after it, the next cut."""
        edges = pairwise([0, *self.stops(layers), layers])
        for before, (start, end), after in zip(
            (None, *self.cuts), edges, (*self.cuts, None), strict=True
        ):
            yield before, range(start, end), after

    def settings(self) -> dict[str, Any]:
        """All settings that answers depend on, as JSON values."""
        # The backend that ran is told with the precision.
        apart = ("about", "backend", "encoder", "escalate", "guide")
        encoder, next_ = self.encoder, self.escalate
        return {
            **{f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart},
            "cuts": [cut.settings() for cut in self.cuts],
            # Without them, as in the settings of versions that had none.
            **({"guide": self.guide} if self.guide else {}),
            **({"encoder": asdict(encoder)} if encoder else {}),
            **({"escalate": {**asdict(next_), "to": next_.to.settings()}} if next_ else {}),
        }

    def idle(self, visual: int) -> list[str]:
        """Notes on cuts that drop nothing of an image of `visual` tokens."""
        idle = f"profile '{self.name}': encoder keeps 1, so it drops no patch"
        notes = [idle] if self.encoder and self.encoder.keep == 1 else []
        if not self.cuts:
            nothing = self.name != "off" and self.encoder is None
            return [f"profile '{self.name}' has no cuts"] if nothing else notes
        left = [visual, *self.budgets(visual)]
        return notes + [
            f"profile '{self.name}': {cut.method} keeps {in_words(cut.keep)}, so it drops none of "
            f"the {before} visual tokens there"
            for cut, before in zip(self.cuts, left, strict=False)
            if fewest(cut.keep, visual, before) >= before > 1
        ]


def budget(keep: Amount, visual: int) -> int:
    """The number of tokens that `keep` means for an image of `visual` tokens; at least 1."""
    if visual == 0:
        return 0
    return max(1, min(visual, keep if isinstance(keep, int) else rounded(keep * visual)))


def rounded(tokens: float) -> int:
    """The nearest number; of two, the larger."""
    return math.floor(tokens + 0.5)


def least(bound: Amount | None, visual: int, most: int) -> int:
    """The number that a lower bound means, where `most` may be kept."""
    return min(most, 1 if bound is None else budget(bound, visual))


def most(keep: Keep, visual: int, before: int) -> int:
    """The most tokens that `keep` can mean, where `before` of an image's `visual` are left."""
    if isinstance(keep, Left):
        return keep.of(before, visual)
    return budget(keep.at_most if isinstance(keep, Energy) else keep, visual)


def fewest(keep: Keep, visual: int, before: int) -> int:
    """The fewest tokens that `keep` can mean, where `before` of an image's `visual` are left."""
    if isinstance(keep, Energy) and keep.energy < 1:
        return keep.bounds(visual)[0]
    return most(keep, visual, before)


def spelled(keep: Keep) -> Any:
    """`keep` as profiles write it, in JSON values."""
    if not isinstance(keep, Energy | Left):
        return keep
    return {key: value for key, value in asdict(keep).items() if value is not None}


def in_words(keep: Keep) -> str:
    """`keep` as a message shows it."""
    if not isinstance(keep, Energy | Left):
        return str(keep)
    return f"{{{', '.join(f'{key}: {value}' for key, value in spelled(keep).items())}}}"
