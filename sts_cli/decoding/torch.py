"""The reference decoder: transformers' own layers, unchanged, called one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from sts_cli.decoding import NotWatchable, Watch
from sts_cli.decoding.attention import NAME, AttentionInputs, attention_paid
from sts_cli.decoding.masks import attention_mask, layer_kinds
from sts_cli.decoding.tokens import Keys, Tokens, last

BOTH_WAYS = ("gemma3_text",)  # language models whose visual tokens see later ones of the image


class TorchCache:
    """transformers' dynamic cache, with the keys of each layer."""

    def __init__(self, config: Any, layers: int):
        self.layers = DynamicCache(config=config)
        self.keys: list[Keys | None] = [None] * layers

    def add(self, span: range, new: Keys) -> Keys:
        """Add `new` to the keys of the layers `span`; returns all their keys."""
        earlier = self.keys[span.start]
        keys = new if earlier is None else earlier.appended(new)
        self.keys[span.start : span.stop] = [keys] * len(span)
        return keys

    def keep(self, rows: Tensor) -> None:
        """Keep only the batch's rows `rows` [K], in this order."""
        self.layers.batch_select_indices(rows)
        left: dict[int, Keys] = {}  # the layers of a span share one object
        for keys in self.keys:
            if keys is not None and id(keys) not in left:
                left[id(keys)] = keys.rows(rows)
        self.keys = [None if keys is None else left[id(keys)] for keys in self.keys]

    def join(self, other: TorchCache) -> None:
        """Add the rows of `other` behind these; see the protocol."""
        joined: dict[int, Keys] = {}  # the layers of a span share one object
        for index, (mine, theirs) in enumerate(zip(self.keys, other.keys, strict=True)):
            if mine is None or theirs is None:
                continue
            keys = joined[id(mine)] = joined.get(id(mine)) or mine.joined(theirs)
            held, new = self.layers.layers[index], other.layers.layers[index]
            length = keys.mask.shape[1]
            if held.is_sliding:
                held.cumulative_length = length
                length = min(length, held.sliding_window - 1)
            held.keys = torch.cat([last(part, length, 2) for part in (held.keys, new.keys)])
            held.values = torch.cat([last(part, length, 2) for part in (held.values, new.values)])
            new.keys = new.values = None
            self.keys[index] = keys


class HeldLayers:
    """The parts of a transformers language model that a decoder in PyTorch calls."""

    joins = True

    def __init__(self, model: Any):
        decoder: Any = model.get_decoder()
        self.config = decoder.config
        self.head = model.get_output_embeddings()
        self.norm, self.rotary = decoder.norm, decoder.rotary_emb
        self.modules = decoder.layers
        self.cache_name = cache_argument(decoder.layers[0])

    def prepare(self, *spans: range) -> None:
        """Nothing: layers run as they are."""

    def cache(self, rows: int, new: int) -> TorchCache:
        """An empty cache. It grows as needed, so `rows` and `new` are ignored."""
        return TorchCache(self.config, len(self.modules))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [B, V] of each row's last token, from `hidden` [B, L, D]."""
        logits: Tensor = self.head(self.norm(hidden[:, -1]))
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


class TorchDecoder(HeldLayers):
    """The language model of `model`, a transformers vision-language model."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.layers = len(self.modules)
        self.kinds = layer_kinds(self.config)
        self.both_ways = self.config.model_type in BOTH_WAYS
        self.comparable = hasattr(getattr(self.modules[0], "self_attn", None), "q_proj")
        self.rotates_by_kind = "layer_type" in signature(self.rotary.forward).parameters

    def run(
        self, tokens: Tokens, span: range, cache: TorchCache, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the layers `span`, and the scores from `watch`; see the protocol.

        Raises NotWatchable if the model was loaded with another attention implementation.
        """
        if not span:
            return tokens, None
        keys = cache.add(span, tokens.keys)
        return self.run_layers(tokens, span, keys, cache.layers, watch)

    def run_layers(
        self, tokens: Tokens, span: range, keys: Keys, cache: Any, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """As `run`, for all `keys` of these layers and a `cache` that transformers' layers take."""
        masks = {kind: self.mask(kind, tokens, keys) for kind in self.kinds_of(span)}
        return self.through(tokens, span, masks, cache, watch)

    def through(
        self,
        tokens: Tokens,
        span: range,
        masks: Mapping[str, Tensor | None],
        cache: Any,
        watch: Watch | None = None,
    ) -> tuple[Tokens, Tensor | None]:
        """As `run_layers`, for `masks` by kind of layer."""
        rotations = {kind: self.rotation(kind, tokens) for kind in masks}
        hidden, record = tokens.hidden, list[AttentionInputs]()
        for layer in span:
            kind = self.kinds[layer]
            hidden = self.modules[layer](
                hidden,
                attention_mask=masks[kind],
                position_embeddings=rotations[kind],
                record=record if watch is not None and layer == span[-1] else None,
                **{self.cache_name: cache},
            )
            if layer < len(tokens.residuals):
                hidden = hidden + tokens.residuals[layer]
        if watch is not None and not record:
            raise NotWatchable(f"layer {span[-1]} does not use the attention '{NAME}'")
        scores = None if watch is None else attention_paid(record[0], watch.queries, watch.by_head)
        return replace(tokens, hidden=hidden), scores

    def products(self, tokens: Tokens, layer: int, queries: Tensor) -> Tensor:
        """[B, H, L] float32: queries times keys of a layer, without RoPE; see `Compares`."""
        module = self.modules[layer]
        attention = module.self_attn
        hidden = module.input_layernorm(tokens.hidden)
        shape = (*hidden.shape[:2], -1, attention.head_dim)
        asked = hidden[:, -queries.shape[1] :]
        query = attention.q_proj(asked).view(*asked.shape[:2], -1, attention.head_dim)
        key = attention.k_proj(hidden).view(shape)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        weight = queries / queries.sum(1, keepdim=True).clamp(min=1)
        mean = (query.float() * weight[..., None, None]).sum(1)  # [B, H, d]
        grouped = mean.unflatten(1, (key.shape[2], -1))  # a group's heads share its keys
        found = torch.einsum("bghd,blgd->bghl", grouped, key.float()).flatten(1, 2)
        return found * attention.scaling

    def mask(self, kind: str, tokens: Tokens, keys: Keys) -> Tensor | None:
        """The attention mask of layers of this kind; None for plain causal attention."""
        return attention_mask(tokens, keys, self.window(kind), self.both_ways)

    def window(self, kind: str) -> int | None:
        """The sliding window of layers of this kind; None if they see all keys."""
        return self.config.sliding_window if kind == "sliding_attention" else None

    def kinds_of(self, span: range) -> set[str]:
        """The kinds of the layers `span`."""
        return {self.kinds[layer] for layer in span}

    def rotation(self, kind: str, tokens: Tokens) -> Any:
        """The cosines and sines of RoPE for layers of this kind."""
        positions = tokens.positions[0] if len(tokens.positions) == 1 else tokens.positions
        by_kind = (kind,) if self.rotates_by_kind else ()
        return self.rotary(tokens.hidden, positions, *by_kind)


def cache_argument(layer: nn.Module) -> str:
    """The name of a layer's argument for the cache; before transformers 5.24 it was another."""
    return "cache" if "cache" in signature(layer.forward).parameters else "past_key_values"
