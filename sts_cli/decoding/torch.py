"""The layers as transformers has them, called in our own order, unchanged: the reference."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from sts_cli.decoding import NotWatchable, Watch
from sts_cli.decoding.attention import NAME, Seen, attention_paid
from sts_cli.decoding.masks import attention_mask, layer_kinds
from sts_cli.decoding.tokens import Keys, Tokens

BOTH_WAYS = ("gemma3_text",)  # language models in which an image's tokens attend to each other


class TorchCache:
    """transformers' dynamic cache, and what each of its layers holds."""

    def __init__(self, config: Any, layers: int):
        self.layers = DynamicCache(config=config)
        self.keys: list[Keys | None] = [None] * layers

    def add(self, span: range, new: Keys) -> Keys:
        """All keys of the layers `span`, once `new` are among them."""
        held = self.keys[span.start]
        keys = new if held is None else held.followed(new)
        self.keys[span.start : span.stop] = [keys] * len(span)
        return keys

    def keep(self, rows: Tensor) -> None:
        """Only the rows at `rows` stay."""
        self.layers.batch_select_indices(rows)
        left: dict[int, Keys] = {}  # layers of a span share what they hold
        for keys in self.keys:
            if keys is not None and id(keys) not in left:
                left[id(keys)] = keys.rows(rows)
        self.keys = [None if keys is None else left[id(keys)] for keys in self.keys]


class TorchDecoder:
    """The language model of `model`, a transformers vision-language model."""

    def __init__(self, model: Any):
        text: Any = model.get_decoder()
        self.config = text.config
        self.head = model.get_output_embeddings()
        self.norm, self.rotary = text.norm, text.rotary_emb
        self.modules = text.layers
        self.layers = len(text.layers)
        self.kinds = layer_kinds(self.config)
        self.both_ways = self.config.model_type in BOTH_WAYS
        self.cache_name = cache_argument(text.layers[0])
        self.rotates_by_kind = "layer_type" in signature(self.rotary.forward).parameters

    def prepare(self, *spans: range) -> None:
        """Nothing: layers run as they are."""

    def cache(self, rows: int, room: int) -> TorchCache:
        """An empty cache, which grows as it is filled."""
        return TorchCache(self.config, self.layers)

    def run(
        self, tokens: Tokens, span: range, cache: TorchCache, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the layers `span`, and what `watch` asks for; see the protocol.

        Raises NotWatchable if the model was not loaded with attention that can be watched.
        """
        if not span:
            return tokens, None
        keys = cache.add(span, tokens.keys)
        kinds = {self.kinds[layer] for layer in span}
        masks = {kind: self.mask(kind, tokens, keys) for kind in kinds}
        rotations = {kind: self.rotation(kind, tokens) for kind in kinds}
        hidden, seen = tokens.hidden, list[Seen]()
        for layer in span:
            kind = self.kinds[layer]
            hidden = self.modules[layer](
                hidden,
                attention_mask=masks[kind],
                position_embeddings=rotations[kind],
                seen=seen if watch is not None and layer == span[-1] else None,
                **{self.cache_name: cache.layers},
            )
            if layer < len(tokens.residuals):
                hidden = hidden + tokens.residuals[layer]
        if watch is not None and not seen:
            raise NotWatchable(f"layer {span[-1]} does not attend through {NAME}")
        scores = None if watch is None else attention_paid(seen[0], watch.rows)
        return replace(tokens, hidden=hidden), scores

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, V] of each row's last token."""
        logits: Tensor = self.head(self.norm(hidden[:, -1]))
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def mask(self, kind: str, tokens: Tokens, keys: Keys) -> Tensor | None:
        """The attention mask for layers of this kind."""
        window = self.config.sliding_window if kind == "sliding_attention" else None
        return attention_mask(tokens, keys, window, self.both_ways)

    def rotation(self, kind: str, tokens: Tokens) -> Any:
        """RoPE's cosines and sines for layers of this kind."""
        positions = tokens.positions[0] if len(tokens.positions) == 1 else tokens.positions
        by_kind = (kind,) if self.rotates_by_kind else ()
        return self.rotary(tokens.hidden, positions, *by_kind)


def cache_argument(layer: nn.Module) -> str:
    """What a layer calls its KV cache: `cache`; before transformers 5.24 `past_key_values`."""
    return "cache" if "cache" in signature(layer.forward).parameters else "past_key_values"
