"""The decoder for CUDA: a cache of fixed size, so that every new token runs the same graph.

Layers below and above a cut hold different numbers of tokens, each rounded up to a bucket. The
prompt runs as in TorchDecoder. A new token runs all layers and the head as one function of tensors
that stay where they are. The captured path was not run here: we had no GPU (decoding/graphs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sts_cli.decoding import Watch
from sts_cli.decoding.graphs import Capture, Graphs, cuda_capture
from sts_cli.decoding.static_cache import Buffers, StaticCache
from sts_cli.decoding.tokens import Tokens, text_tokens
from sts_cli.decoding.torch import TorchDecoder


class StaticDecoder:
    """The language model of `model`, for one batch at a time: a new one takes the memory over."""

    joins = False

    def __init__(self, model: Any, new_capture: Callable[[], Capture] | None = None):
        """`new_capture` makes what captures a new token's run; without it, CUDA graphs on CUDA."""
        self.torch = TorchDecoder(model)
        self.layers = self.torch.layers
        self.comparable = self.torch.comparable
        if new_capture is None and model.device.type == "cuda":
            new_capture = partial(cuda_capture, model.device)
        self.graphs = Graphs(new_capture)
        self.buffers = Buffers(model.device, self.graphs.clear)
        self.owner: StaticCache | None = None

    def prepare(self, *spans: range) -> None:
        """Nothing: graphs are captured when their shapes first occur."""

    def cache(self, rows: int, new: int) -> StaticCache:
        """An empty cache. Its buffers are reserved when a span first runs."""
        return StaticCache(self.buffers, self.layers, rows, new)

    def run(
        self, tokens: Tokens, span: range, cache: StaticCache, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the layers `span`, and the scores from `watch`; see the protocol.

        The prompts come first, whole or in two parts, then one token at a time.
        """
        if not span:
            return tokens, None
        with self._lent_to(cache):
            if cache.held[span.start] is None:
                cache.hold(span, tokens)
                return self.torch.run_layers(tokens, span, tokens.keys, cache, watch)
            cache.reserve([span])
            if watch is not None or tokens.hidden.shape[1] > 1:
                return self._second_part(tokens, span, cache, watch)
            hidden = self._through(*cache.spread(tokens), [span], cache)
            cache.advance([span])
            return replace(tokens, hidden=hidden.index_select(0, cache.live)), None

    def step(self, tokens: Tokens, spans: Sequence[range], cache: StaticCache) -> Tensor:
        """Logits [B, V] after one new token in each row has run through all `spans`."""
        with self._lent_to(cache):
            shapes = cache.reserve(spans)
            hidden, positions = cache.spread(tokens)
            logits = self.graphs.run(
                (len(positions), shapes),
                lambda: self.logits(self._through(hidden, positions, spans, cache)),
            )
            cache.advance(spans)
            return logits.index_select(0, cache.live)

    def products(self, tokens: Tokens, layer: int, queries: Tensor) -> Tensor:
        """[B, H, L] float32: queries times keys of a layer, without RoPE; see `Compares`."""
        return self.torch.products(tokens, layer, queries)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [B, V] of each row's last token, from `hidden` [B, L, D]."""
        return self.torch.logits(hidden)

    def _second_part(
        self, tokens: Tokens, span: range, cache: StaticCache, watch: Watch | None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` behind what the cache holds of their prompts, and the scores from `watch`."""
        held, length = cache.held[span.start], tokens.hidden.shape[1]
        assert held is not None
        held.real.index_copy_(1, held.places(length), tokens.mask)
        masks = {
            kind: held.mask(self.torch.window(kind), tokens.hidden.dtype, length)
            for kind in self.torch.kinds_of(span)
        }
        tokens, scores = self.torch.through(tokens, span, masks, cache, watch)
        held.advance(length)
        return tokens, None if scores is None else scores[..., : held.length]

    def _through(
        self, hidden: Tensor, positions: Tensor, spans: Sequence[range], cache: StaticCache
    ) -> Tensor:
        """Hidden states [R, 1, D] of new tokens after `spans`: shapes and memory never change."""
        tokens = text_tokens(hidden, positions)
        for span in spans:
            held = cache.held[span.start]
            assert held is not None
            held.real.index_fill_(1, held.place, True)
            masks = {
                kind: held.mask(self.torch.window(kind), hidden.dtype)
                for kind in self.torch.kinds_of(span)
            }
            tokens, _ = self.torch.through(tokens, span, masks, cache)
        return tokens.hidden

    @contextmanager
    def _lent_to(self, cache: StaticCache) -> Iterator[None]:
        """Give the memory to `cache`. Raises ValueError if a later cache has it.

        If the device is full, all of it is freed: the same questions come back in smaller batches.
        """
        if self.owner is not cache:
            if any(cache.held):
                raise ValueError("A later batch has taken this cache's memory.")
            self.owner = cache
        try:
            yield
        except torch.OutOfMemoryError:
            self.owner = None
            self.graphs.clear()
            self.buffers.flat.clear()
            raise
