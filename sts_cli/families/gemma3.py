"""Gemma 3: an image's tokens attend to each other both ways; RoPE differs by kind of layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.masking_utils import (
    blockwise_overlay,
    create_causal_mask,
    sliding_window_overlay,
)

from sts_cli.engine.decoder import Decoder
from sts_cli.engine.tokens import Tokens
from sts_cli.families.default import Family


class GemmaDecoder(Decoder):
    """After a cut, the sliding window counts kept tokens: it reaches further back than before."""

    def causal(self, kind: str, tokens: Tokens, mask: Tensor, cache: Cache, layer: int) -> Any:
        if tokens.hidden.shape[1] == 1:
            return super().causal(kind, tokens, mask, cache, layer)
        window = {}
        if kind == "sliding_attention":
            window["and_mask_function"] = sliding_window_overlay(self.config.sliding_window)
        return create_causal_mask(
            self.config,
            tokens.hidden,
            mask,
            cache,
            layer_idx=layer,
            or_mask_function=blockwise_overlay(tokens.run),
            **window,
        )

    def rotation(self, kind: str, hidden: Tensor, positions: Tensor) -> Any:
        return self.text.rotary_emb(hidden, positions[0], kind)


class Gemma3(Family):
    decoder_class = GemmaDecoder
