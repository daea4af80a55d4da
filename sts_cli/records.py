"""Questions and answers: frozen records, standard library only."""

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

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason that a row has no answer."""

    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one or more images: a row of the input.

    A row that could not be read is also an Item, with its `problem`, so that every input row
    becomes exactly one output row.
    """

    id: str
    images: tuple[Any, ...] = ()  # as the user wrote them; from Python also bytes, PIL, numpy
    question: str = ""
    folder: Path = Path()  # relative image names start here
    answers: tuple[str, ...] = ()  # accepted answers, for evaluation
    extra: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    problem: Problem | None = None
    image_at: tuple[int, ...] = ()  # the character that each image stands before; (): all at 0
    max_new_tokens: int | None = None  # of this answer, before what the run says

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
    """The places of one image's visual tokens: all of them, and those left after each cut."""

    every: tuple[Place, ...]
    left: tuple[tuple[Place, ...], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Figures of the tokens that a cut kept of one image; docs/method.md explains them."""

    kept: int
    alike: float  # mean cosine of two kept tokens
    alike_before: float  # of two of those before the cut
    rank: float  # effective rank, as a share of that of as many random tokens
    bare: float  # share of the image that no kept token is near
    row: float  # mean place of the kept tokens minus that of all: > 0 is low
    column: float  # > 0 is right


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one question; `average` is the mean number of visual tokens over layers.

    Of an answer that was asked for again under another profile, they are those of the last try,
    but `average` is the sum over all tries: what the answer cost.
    """

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
class Certainty:
    """The certainty of the model about its answer, each figure in 0..1."""

    probability: float  # geometric mean of the chosen tokens' probabilities, the end's included
    margin: float  # the first token's probability less that of the second-best


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall-clock seconds of a question's phases.

    Under one profile they are the question's own share of those phases: divided by the rows of the
    prefill, and of each decoding step. Compared with others, those of its whole batch.
    `total` is the sum of the phases; `first_token` is its part until the first token is known.
    If an earlier question already encoded the image, `encode` is 0. Of an answer that was asked for
    again under another profile, they are the sums over all tries.
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
    """A pruned answer compared with the unpruned answer to the same question."""

    full: Answer
    agree: bool
    similarity: float  # token F1, 0..1
    speedup_prefill: float
    speedup_total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The result for one Item: a text, or the problem that prevented it."""

    item: Item
    model: str
    profile: str
    text: str | None = None
    tokens: TokenCounts | None = None
    seconds: Seconds | None = None
    rows: int = 1  # the most questions that it was computed with
    finish: Literal["stop", "length"] | None = None
    certainty: Certainty | None = None
    escalated: str | None = None  # the profile that was asked first, if `profile` is another
    problem: Problem | None = None
    comparison: Comparison | None = None
    kept: tuple[KeptTokens, ...] | None = None  # of each image, if places were asked for
    looks: tuple[Look, ...] = ()  # after each cut; of a run's first few images
    notes: tuple[str, ...] = ()  # on the profile: what this answer is the first of its run to show


def printable(text: str) -> str:
    """`text` in valid UTF-8: bytes of a file name that are not text become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def label(image: object) -> str:
    """An image's name for people; for a data: URL, its kind and a digest of its content."""
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
    """The answer as one JSON object: an output row, as docs/formats.md describes it.

    `image` is text or null and `images` a list, so that a column has one type, as pyarrow needs.
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
        "escalated": answer.escalated,
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
    """Answer, certainty, tokens and seconds; a comparison has them twice, also in `full`."""
    tokens, seconds, certainty = answer.tokens, answer.seconds, answer.certainty
    return {
        "answer": answer.text,
        "certainty": None
        if certainty is None
        else {
            "probability": round(certainty.probability, 4),
            "margin": round(certainty.margin, 4),
        },
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
