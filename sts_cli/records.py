"""What goes in and what comes out: frozen records, standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

ProblemKind = Literal[
    "image_missing",
    "image_unreadable",
    "image_too_large",
    "row_invalid",
    "out_of_memory",
    "internal",
]

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one row has no answer."""

    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one or more images: a row of the input.

    A row that could not be read is an Item too, with its `problem`, so that every input row
    ends as exactly one output row.
    """

    id: str
    images: tuple[Any, ...] = ()  # as the user wrote them; from Python also bytes, PIL, numpy
    question: str = ""
    folder: Path = Path()  # what relative image names are relative to
    answers: tuple[str, ...] = ()  # accepted answers, for evaluation
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    problem: Problem | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The images as output rows name them."""
        return tuple(label(name) for name in self.images)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in self.images if isinstance(name, str | Path))


Place = tuple[float, float]  # row and column of a token's centre in its image, each in 0..1


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Where the visual tokens of one image are: all of them, and those left after each cut."""

    every: tuple[Place, ...]
    left: tuple[tuple[Place, ...], ...]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one question; `average` is the mean number of visual tokens over layers."""

    visual: int  # from the encoder
    left: tuple[int, ...]  # visual tokens after each cut
    average: float
    text: int
    generated: int

    @property
    def structure(self) -> int:
        """Visual tokens after the first cut; all without one."""
        return self.left[0] if self.left else self.visual

    @property
    def semantics(self) -> int:
        """Visual tokens after the last cut; all without one."""
        return self.left[-1] if self.left else self.visual


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall seconds of one question's phases; in a batch, the seconds its rows shared.

    `total` is the sum of the phases, `first_token` the part of it until the first token is known.
    An image that was encoded for an earlier question costs this one nothing: encode is 0.
    """

    image: float
    encode: float
    select: float
    prefill: float
    decode: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a pruned answer compares with the unpruned answer to the same question."""

    full: Answer
    agree: bool
    similarity: float  # token F1, 0..1
    speedup_prefill: float
    speedup_total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one Item: a text, or the problem that prevented it."""

    item: Item
    model: str
    profile: str
    text: str | None = None
    tokens: TokenCounts | None = None
    seconds: Seconds | None = None
    rows: int = 1  # questions in the batch that shared the seconds
    finish: Literal["stop", "length"] | None = None
    problem: Problem | None = None
    comparison: Comparison | None = None
    kept: tuple[KeptTokens, ...] | None = None  # of each image, if it was asked for


def printable(text: str) -> str:
    """`text` as UTF-8 can carry it: bytes of a file name that are not text become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def label(image: object) -> str:
    """An image's name for people; of a data: address its kind and a digest of the content."""
    if isinstance(image, Path):
        image = str(image)
    if not isinstance(image, str):
        return f"({type(image).__name__})"
    if not image.startswith("data:"):
        return printable(image)
    kind = printable(image[5:].partition(",")[0].partition(";")[0])[:40]
    digest = hashlib.blake2b(image.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"data:{kind};{digest}"


def answer_row(answer: Answer) -> dict[str, Any]:
    """The answer as one JSON object, the output row of the command-line contract.

    `image` is text or null and `images` a list, so that a column has one type (pyarrow asks it).
    """
    item = answer.item
    row: dict[str, Any] = {
        "id": item.id,
        "image": item.labels[0] if len(item.images) == 1 else None,
        **({"images": list(item.labels)} if len(item.images) > 1 else {}),
        "question": item.question or None,
        **_measured(answer),
        "model": answer.model,
        "profile": answer.profile,
        "rows": answer.rows,
        "finish": answer.finish,
        "error": None
        if answer.problem is None
        else {"kind": answer.problem.kind, "message": answer.problem.message},
        "extra": dict(item.extra),
    }
    if item.answers:
        row["expected"] = list(item.answers)
    if answer.comparison is not None:
        versus = answer.comparison
        row["full"] = _measured(versus.full)
        row["agree"] = versus.agree
        row["similarity"] = round(versus.similarity, 4)
        row["speedup"] = {
            "prefill": round(versus.speedup_prefill, 3),
            "total": round(versus.speedup_total, 3),
        }
    return row


def _measured(answer: Answer) -> dict[str, Any]:
    """Answer, tokens and seconds: the part of a row that a comparison repeats for `full`."""
    tokens, seconds = answer.tokens, answer.seconds
    return {
        "answer": answer.text,
        "tokens": None
        if tokens is None
        else {
            "visual": tokens.visual,
            "left": list(tokens.left),
            "structure": tokens.structure,
            "semantics": tokens.semantics,
            "average": round(tokens.average, 2),
            "text": tokens.text,
            "generated": tokens.generated,
        },
        "seconds": None
        if seconds is None
        else {
            name: round(getattr(seconds, name), 6)
            for name in (
                "image",
                "encode",
                "select",
                "prefill",
                "decode",
                "first_token",
                "total",
            )
        },
    }
