"""A VLM's language model, run a span of layers at a time."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from sts_cli.engine.attention import Observer
from sts_cli.engine.tokens import Keys, Tokens

MASKS = {
    "full_attention": create_causal_mask,
    "sliding_attention": create_sliding_window_causal_mask,
}


class Decoder:
    """The layers of a transformers text model, called in our own order, unchanged."""

    def __init__(self, text: nn.Module):
        self.text: Any = text
        self.config = self.text.config
        self.layers = self.text.layers
        self.norm = self.text.norm
        self.kinds = layer_kinds(self.config)
        self.takes_cache_as = cache_argument(self.layers[0])

    def cache(self) -> Cache:
        """An empty KV cache. Its layers may come to hold different numbers of tokens."""
        return DynamicCache(config=self.config)

    def run(
        self,
        tokens: Tokens,
        span: range,
        cache: Cache,
        keys: Keys | None = None,
        observer: Observer | None = None,
    ) -> Tokens:
        """`tokens` after the layers `span`.

        `keys` are all that these layers attend to: what `cache` holds for them, and `tokens`;
        `observer` watches the last layer of the span.
        """
        if not span:
            return tokens
        keys = tokens.keys if keys is None else keys
        hidden = tokens.hidden
        first: dict[str, int] = {}
        for layer in span:
            first.setdefault(self.kinds[layer], layer)
        masks = {
            kind: proportional(
                self.causal(kind, tokens, keys.mask, cache, layer), keys.log_size, hidden
            )
            for kind, layer in first.items()
        }
        rotations = {kind: self.rotation(kind, hidden, tokens.positions) for kind in first}
        for layer in span:
            kind = self.kinds[layer]
            hidden = self.layers[layer](
                hidden,
                attention_mask=masks[kind],
                position_embeddings=rotations[kind],
                observer=observer if layer == span[-1] else None,
                **{self.takes_cache_as: cache},
            )
            if layer < len(tokens.residuals):
                hidden = hidden + tokens.residuals[layer]
        return replace(tokens, hidden=hidden)

    def causal(self, kind: str, tokens: Tokens, mask: Tensor, cache: Cache, layer: int) -> Any:
        """The attention mask for layers of this kind, sized on `layer`'s part of the cache.

        No position ids: gaps in them would be read as the borders of packed sequences.
        """
        return MASKS[kind](self.config, tokens.hidden, mask, cache, layer_idx=layer)

    def rotation(self, kind: str, hidden: Tensor, positions: Tensor) -> Any:
        """RoPE's cosines and sines at `positions` [P, B, L]."""
        return self.text.rotary_emb(hidden, positions[0] if len(positions) == 1 else positions)


def proportional(mask: Tensor | None, log_size: Tensor | None, hidden: Tensor) -> Tensor | None:
    """The mask as a bias: a key's log size where it may be seen, the least number elsewhere.

    Without sizes the mask as it is. `mask` [B, 1, L, K] bool, or None where attention is causal;
    `log_size` [B, >= K], of which a sliding window holds the last; `hidden` [B, L, D], whose
    precision SDPA wants of a bias.
    """
    if log_size is None:
        return mask
    rows, total = hidden.shape[1], log_size.shape[1]
    if mask is None:
        mask = torch.ones((rows, total), dtype=torch.bool, device=hidden.device).tril(total - rows)
    bias = log_size[:, None, None, -mask.shape[-1] :].to(hidden.dtype)
    return torch.where(mask, bias, torch.finfo(hidden.dtype).min)


def cache_argument(layer: nn.Module) -> str:
    """What a layer calls its KV cache: `cache`; before transformers 5.24 `past_key_values`."""
    return "cache" if "cache" in signature(layer.forward).parameters else "past_key_values"


def layer_kinds(config: Any) -> list[str]:
    """The kind of every layer, such as full_attention; where no list says, as transformers infers.

    transformers' cache infers the same, so that masks and cache agree.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return list(kinds)
    if getattr(config, "sliding_window", None) is not None:
        kind = "sliding_attention"
    elif getattr(config, "attention_chunk_size", None) is not None:
        kind = "chunked_attention"
    else:
        kind = "full_attention"
    return [kind] * config.num_hidden_layers
