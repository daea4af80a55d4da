"""Ways to run a language model's layers: one protocol, one file each.

To add one: a file here, and a line in the tests' table of decoders (tests/test_parity.py), which
hold it against the model's own `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from sts_cli.decoding.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Watch:
    """Tokens whose attention is asked for: of the last R of each row those where `rows` is True.

    Prompts are packed right, so the instruction's words are a row's last tokens.
    """

    rows: Tensor  # [B, R] bool


class NotWatchable(RuntimeError):
    """A layer that does not attend in a way that can be watched."""


class Cache(Protocol):
    """The keys and values of a batch. It owns masks, sizes, and which rows are left.

    After a cut, layers above it hold fewer tokens than those below.
    """

    def keep(self, rows: Tensor) -> None:
        """Only the rows at `rows` [K] stay, in this order."""
        ...


C = TypeVar("C")  # a decoder's own kind of Cache


class Decoder(Protocol[C]):
    """A VLM's language model, run a span of layers at a time."""

    layers: int

    def prepare(self, *spans: range) -> None:
        """Make ready to run `spans`: compile what must be compiled."""
        ...

    def cache(self, rows: int, room: int) -> C:
        """An empty cache for so many rows, each of at most `room` tokens: prompt and answer."""
        ...

    def run(
        self, tokens: Tokens, span: range, cache: C, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the layers `span`, and what the watched ones paid to each: [B, L] float32.

        The tokens attend to what `cache` holds for these layers and to each other, and are added to
        it. The scores are of the last layer of the span: the softmax over all keys that a token may
        see, its mean over heads, then over the watched tokens. None without a `watch`.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, V] of each row's last token, from hidden states [B, L, D] after the last layer."""
        ...
