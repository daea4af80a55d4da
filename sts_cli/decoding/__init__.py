"""Ways to run a language model's layers: one protocol, one file each.

To add one, write a file here and add a line to the table of decoders in tests/test_parity.py. The
tests compare it with the model's own `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from sts_cli.decoding.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Watch:
    """The queries whose attention is wanted, among the last R tokens of each prompt.

    Prompts are padded on the left, so the instruction is at the end.
    """

    queries: Tensor  # [B, R] bool
    by_head: bool = False  # the attention of each head, not their mean


class NotWatchable(RuntimeError):
    """Raised for a layer whose attention cannot be watched."""


class Cache(Protocol):
    """The keys and values of a batch, with their masks and sizes.

    After a cut, the layers above it hold fewer tokens than those below.
    """

    def keep(self, rows: Tensor) -> None:
        """Keep only the batch's rows `rows` [K], in this order.

        Until the first new token, one may come several times: it began several prompts.
        """
        ...

    def join(self, other: Any) -> None:
        """Add the rows of `other`, a cache of the same decoder and spans, behind these.

        The shorter rows are padded on the left. `other` must not be used any more.
        """
        ...


C = TypeVar("C")  # a decoder's own kind of Cache


class Decoder(Protocol[C]):
    """A VLM's language model, which runs some layers at a time."""

    layers: int
    joins: bool  # True if rows may be added to a cache of other rows

    def prepare(self, *spans: range) -> None:
        """Make ready to run `spans`: compile what must be compiled."""
        ...

    def cache(self, rows: int, new: int) -> C:
        """An empty cache for `rows` prompts, and at most `new` tokens after each."""
        ...

    def run(
        self, tokens: Tokens, span: range, cache: C, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the layers `span`, and attention scores [B, K] float32 from `watch`.

        The tokens attend to each other and to the keys in `cache`, which then holds their keys too.
        Prompts run whole, or in two parts. The scores are the attention of the watched queries to
        each of the K keys in the last layer: the softmax over all visible keys, its mean over
        heads, then over the queries. [B, H, K] by head. None without a `watch`. Raises
        NotWatchable.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [B, V] of each row's last token, for hidden states [B, L, D] of the last layer."""
        ...


@runtime_checkable
class WholeSteps(Protocol):
    """A decoder that can run a new token through all layers and the head at once."""

    def step(self, tokens: Tokens, spans: Sequence[range], cache: Any) -> Tensor:
        """Logits [B, V] after one new token in each row has run through all `spans`."""
        ...


@runtime_checkable
class Compares(Protocol):
    """A decoder that can compare tokens by a layer's queries and keys, without running it."""

    comparable: bool  # False if its layers do not compute queries and keys apart

    def products(self, tokens: Tokens, layer: int, queries: Tensor) -> Tensor:
        """[B, H, L] float32: the watched tokens' mean query . key / sqrt(d) of each token, by head.

        Without RoPE; `queries` [B, R] as of a Watch. Only if `comparable`.
        """
        ...


def next_logits(decoder: Decoder[C], tokens: Tokens, spans: Sequence[range], cache: C) -> Tensor:
    """Logits [B, V] after one new token in each row, run whole or span by span."""
    if isinstance(decoder, WholeSteps):
        return decoder.step(tokens, spans, cache)
    for span in spans:
        tokens, _ = decoder.run(tokens, span, cache)
    return decoder.logits(tokens.hidden)
