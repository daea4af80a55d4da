"""Ways to run a language model's layers: one protocol, one file each.

To add one, write a file here and add a line to the table of decoders in tests/test_parity.py. The
tests compare it with the model's own `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from sts_cli.decoding.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Watch:
    """The queries whose attention is wanted, among the last R tokens of each prompt.

    Prompts are padded on the left, so the instruction is at the end.
    """

    queries: Tensor  # [B, R] bool


class NotWatchable(RuntimeError):
    """Raised for a layer whose attention cannot be watched."""


class Cache(Protocol):
    """The keys and values of a batch, with their masks and sizes.

    After a cut, the layers above it hold fewer tokens than those below.
    """

    def keep(self, rows: Tensor) -> None:
        """Keep only the batch's rows `rows` [K], in this order."""
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

    def prepare(self, *spans: range) -> None:
        """Make ready to run `spans`: compile what must be compiled."""
        ...

    def cache(self, rows: int, room: int) -> C:
        """An empty cache for `rows` prompts of at most `room` tokens each, answer included."""
        ...

    def run(
        self, tokens: Tokens, span: range, cache: C, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the layers `span`, and attention scores [B, L] float32 from `watch`.

        The tokens attend to each other and to the keys in `cache`, which then holds their keys too.
        The scores are the attention of the watched queries to each token in the last layer: the
        softmax over all visible keys, its mean over heads, then over the queries. None without a
        `watch`. Raises NotWatchable.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [B, V] of each row's last token, for hidden states [B, L, D] of the last layer."""
        ...
