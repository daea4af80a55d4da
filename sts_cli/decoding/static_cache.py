"""Keys and values in memory that stays where it is, so that one graph serves every new token."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sts_cli.decoding.tokens import Tokens

BUCKET = 64  # slots of a buffer are a multiple, so that few shapes occur


class Buffers:
    """Memory that stays from batch to batch: per name, as much as the largest request so far."""

    def __init__(self, device: torch.device, on_move: Callable[[], None]):
        self.device, self.on_move = device, on_move
        self.flat: dict[Hashable, Tensor] = {}

    def view(self, name: Hashable, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor at the front of the memory `name`; what it holds is finite."""
        size = math.prod(shape)
        if name not in self.flat or self.flat[name].numel() < size:
            self.on_move()
            self.flat.pop(name, None)  # freed before more is allocated
            self.flat[name] = torch.zeros(size, dtype=dtype, device=self.device)
        return self.flat[name][:size].view(*shape)

    def filled(self, name: Hashable, values: Tensor, slots: int, dim: int) -> Tensor:
        """A view that holds `values`, then zeros up to `slots` along `dim`."""
        length = values.shape[dim]
        shape = [*values.shape[:dim], slots, *values.shape[dim + 1 :]]
        buffer = self.view(name, shape, values.dtype)
        buffer.narrow(dim, 0, length).copy_(values)
        buffer.narrow(dim, length, slots - length).zero_()
        return buffer


@dataclass(eq=False)
class Held:
    """The keys that the layers of a span hold, in R rows of K slots."""

    length: int  # slots in use; known without waiting for the device
    place: Tensor  # [1] long; the same number on the device
    real: Tensor  # [R, K] bool; False is padding, or free
    log_size: Tensor | None  # [R, K]

    def mask(self, window: int | None, dtype: torch.dtype, new: int = 1) -> Tensor:
        """The mask [R, 1, L, K] of `new` tokens, L; see `masks.attention_mask`."""
        allowed = self.real[:, None, None]
        slots = torch.arange(allowed.shape[-1], device=allowed.device)
        places = self.places(new)[:, None]
        if new > 1:
            allowed = allowed & (slots <= places)
        if window is not None:
            allowed = allowed & (slots > places - window)
        if self.log_size is None:
            return allowed
        bias = self.log_size[:, None, None].to(dtype)
        return torch.where(allowed, bias, torch.finfo(dtype).min)

    def places(self, new: int) -> Tensor:
        """The slots [L] of the next `new` tokens, L."""
        return self.place if new == 1 else self.place + torch.arange(new, device=self.place.device)

    def advance(self, new: int = 1) -> None:
        """Count `new` tokens."""
        self.length += new
        self.place.add_(new)


class StaticCache:
    """The keys and values of a batch in buffers that stay where they are."""

    def __init__(self, buffers: Buffers, layers: int, rows: int, new: int):
        self.buffers, self.rows, self.new = buffers, rows, new
        self.live = torch.arange(rows, device=buffers.device)  # the buffers' row of each prompt
        self.held: list[Held | None] = [None] * layers
        self.pairs: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def hold(self, span: range, tokens: Tokens) -> None:
        """Reserve slots for `tokens`, the prompts of the layers `span`, and for what follows."""
        length = tokens.hidden.shape[1]
        slots = math.ceil((length + self.new) / BUCKET) * BUCKET
        held = Held(
            length,
            self.buffers.view(("place", span.start), (1,), torch.long).fill_(length),
            self.buffers.filled(("real", span.start), tokens.mask, slots, 1),
            None
            if tokens.log_size is None
            else self.buffers.filled(("size", span.start), tokens.log_size, slots, 1),
        )
        self.held[span.start : span.stop] = [held] * len(span)

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values [R, G, L, d]; returns what to attend to. A layer calls this."""
        held, pair = self.held[layer], self.pairs[layer]
        assert held is not None
        if pair is None:
            slots = held.real.shape[1]
            self.pairs[layer] = (
                self.buffers.filled(("keys", layer), keys, slots, 2),
                self.buffers.filled(("values", layer), values, slots, 2),
            )
            return keys, values
        for buffer, new in zip(pair, (keys, values), strict=True):
            buffer.index_copy_(2, held.places(new.shape[2]), new)
        return pair

    def keep(self, rows: Tensor) -> None:
        """Keep only the batch's rows `rows` [K], in this order.

        The others stay in the buffers until half of them or more are gone: few shapes occur.
        """
        if len(rows) > len(self.live):
            return self._repeat(rows)
        self.live = self.live.index_select(0, rows)
        slots = self.rows
        while slots >= 2 * len(rows):
            slots //= 2
        if slots == self.rows:
            return
        chosen = torch.cat([self.live, self.live[:1].expand(slots - len(rows))])
        self.live, self.rows = torch.arange(len(rows), device=self.live.device), slots
        self.pairs = [
            None if pair is None else (compact(pair[0], chosen), compact(pair[1], chosen))
            for pair in self.pairs
        ]
        for held in distinct(self.held):
            held.real = compact(held.real, chosen)
            held.log_size = None if held.log_size is None else compact(held.log_size, chosen)

    def _repeat(self, rows: Tensor) -> None:
        """Give each of the prompts `rows` [K] its own copy of a row, before any token is new."""

        def copies(name: Hashable, values: Tensor) -> Tensor:
            return self.buffers.filled(name, values.index_select(0, rows), values.shape[1], 1)

        self.rows, self.live = len(rows), torch.arange(len(rows), device=rows.device)
        for layer, pair in enumerate(self.pairs):
            if pair is not None:
                keys, values = pair
                self.pairs[layer] = copies(("keys", layer), keys), copies(("values", layer), values)
        for held in distinct(self.held):
            start, size = self.held.index(held), held.log_size
            held.real = copies(("real", start), held.real)
            held.log_size = None if size is None else copies(("size", start), size)

    def join(self, other: StaticCache) -> None:
        """Impossible: both would need the same memory."""
        raise ValueError("A static cache takes no rows in.")

    def spread(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Hidden states [R, 1, D] and positions [P, R] of new tokens, in the buffers' rows."""
        width, axes = tokens.hidden.shape[2], len(tokens.positions)
        hidden = self.buffers.view("hidden", (self.rows, 1, width), tokens.hidden.dtype)
        positions = self.buffers.view("positions", (axes, self.rows), tokens.positions.dtype)
        hidden.index_copy_(0, self.live, tokens.hidden)
        positions.index_copy_(1, self.live, tokens.positions[..., 0])
        return hidden, positions

    def reserve(self, spans: Sequence[range]) -> tuple[Hashable, ...]:
        """The shapes of a new token's run through `spans`. Raises ValueError if there is no room.

        The layers of a span share what they hold from now on.
        """
        shapes = list[Hashable]()
        for span in spans:
            held = self.held[span.start]
            assert held is not None
            self.held[span.start : span.stop] = [held] * len(span)
            slots = held.real.shape[1]
            if held.length == slots:
                raise ValueError(f"The cache has no slot left of {slots}: ask for more new tokens.")
            shapes.append((span, slots, held.log_size is not None))
        return (self.rows, *shapes)

    def advance(self, spans: Sequence[range]) -> None:
        """Count the new token in the layers `spans`."""
        for held in distinct([self.held[span.start] for span in spans]):
            held.advance()


def compact(buffer: Tensor, rows: Tensor) -> Tensor:
    """The rows `rows` [K] of a buffer, moved to its front."""
    front = buffer[: len(rows)]
    front.copy_(buffer.index_select(0, rows))
    return front


def distinct(held: Sequence[Held | None]) -> list[Held]:
    """Each of `held` once: the layers of a span share one object."""
    return list({id(keys): keys for keys in held if keys is not None}.values())
