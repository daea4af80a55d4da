"""A decoder for language models that read images through cross-attention: Mllama.

Visual tokens stand in the sequence as in other families, before their image's word, but only the
cross-attention layers read them, as keys and values; they stay what the projector made of them. So
this decoder's layers are blocks: layers of text, and at their end one that reads the image. Depths
and averages count blocks. transformers' own layers are called one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sts_cli.decoding import NotWatchable, Watch
from sts_cli.decoding.attention import NAME, AttentionInputs, attention_paid
from sts_cli.decoding.masks import attention_mask, readers
from sts_cli.decoding.tokens import Keys, Tokens, sizes_of
from sts_cli.decoding.torch import HeldLayers, TorchCache


@dataclass(frozen=True)
class Reading:
    """How the T tokens of a text read what L tokens hold of images."""

    features: Tensor | None  # [B, L, D]; None: their keys are in the cache
    bias: Tensor  # [B, 1, T, L]; on attention logits
    after: Tensor  # [B, T] bool; False for text before the first image
    images: Tensor  # [B] bool; False for prompts without images

    @property
    def rows(self) -> Tensor:
        """`after` as transformers' layers take it, [B, 1, T, 1]."""
        return self.after[:, None, :, None].to(self.bias.dtype)


class CrossDecoder(HeldLayers):
    """The language model of `model`, a transformers model with cross-attention layers."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.reads = readers(self.config)
        edges = [0, *(layer + 1 for layer in self.reads[:-1]), len(self.modules)]
        self.blocks = [range(*edge) for edge in pairwise(edges)]
        self.layers = len(self.blocks)

    def run(
        self, tokens: Tokens, span: range, cache: TorchCache, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the blocks `span`, and the scores from `watch`; see the protocol.

        Scores are of the block's cross-attention; 0 for text. Raises NotWatchable if the model was
        loaded with another attention implementation.
        """
        if not span:
            return tokens, None
        layers = range(self.blocks[span[0]].start, self.blocks[span[-1]].stop)
        first = self.reads[span[0]]
        held = cache.keys[first]
        if held is None:
            words = tokens.mask & ~tokens.visual & ~tokens.idle
            text = replace(tokens.keep(words, words.sum(1).tolist()), log_size=None)
            reading = read_first(tokens, text, words)
            images = Keys(read_later(tokens), True, tokens.log_size)
        else:
            words, text = tokens.mask, replace(tokens, log_size=None)
            reading, images = read_again(held, text), held
        own = [layer for layer in layers if layer not in self.reads]
        before = cache.keys[own[0]] if own else None
        texts = text.keys if before is None else before.appended(text.keys)
        for layer in layers:
            cache.keys[layer] = images if layer in self.reads else texts
        record = list[AttentionInputs]()
        watched = None if watch is None else self.reads[span[-1]]
        hidden = self._through(text, texts, layers, reading, cache, record, watched)
        if watch is not None and not record:
            raise NotWatchable(f"layer {watched} does not use the attention '{NAME}'")
        scores = None
        if watch is not None:
            scores = attention_paid(record[0], watch.queries, by_head=watch.by_head)
            if held is not None:  # the text itself follows the keys that it read
                scores = torch.nn.functional.pad(scores, (0, text.hidden.shape[1]))
        if held is None:
            hidden = tokens.hidden.masked_scatter(words[..., None], hidden[text.mask])
        return replace(tokens, hidden=hidden), scores

    def _through(
        self,
        text: Tokens,
        keys: Keys,
        layers: range,
        reading: Reading,
        cache: TorchCache,
        record: list[AttentionInputs],
        watched: int | None,
    ) -> Tensor:
        """The hidden states [B, T, D] of `text` after `layers`."""
        hidden = text.hidden
        shared = {self.cache_name: cache.layers}
        mask = attention_mask(text, keys, None)
        rotation = self.rotary(hidden, text.positions[0])
        for layer in layers:
            module = self.modules[layer]
            if layer not in self.reads:
                hidden = module(hidden, attention_mask=mask, position_embeddings=rotation, **shared)
                continue
            seen = module(
                hidden,
                cross_attention_states=reading.features,
                cross_attention_mask=reading.bias,
                attention_mask=None,
                full_text_row_masked_out_mask=reading.rows,
                record=record if layer == watched else None,
                **shared,
            )
            # transformers passes over these layers where a prompt has no image.
            hidden = torch.where(reading.images[:, None, None], seen, hidden)
        return hidden


def read_first(tokens: Tokens, text: Tokens, words: Tensor) -> Reading:
    """The reading of prompts `tokens` [B, L] by their own words [B, L] bool, gathered in `text`.

    As in transformers, a token reads the images of the last group before it, where images with no
    word between them are one group. Text before the first image reads everything, also `idle`
    features.
    """
    there = tokens.mask & ~words
    earlier = there[:, None] & (tokens.positions[0][:, None] <= text.positions[0][..., None])
    group = tokens.segment[:, None].expand_as(earlier)  # [B, T, L]
    last = group.masked_fill(~earlier, -1).amax(-1)  # [B, T]
    allowed = earlier & (group == last[..., None]) & (group >= 0)
    allowed = allowed | ((last < 0)[..., None] & there[:, None])
    bias = as_bias(allowed, tokens.keys, tokens.hidden.dtype)
    return Reading(tokens.hidden, bias, last >= 0, there.any(1))


def read_later(tokens: Tokens) -> Tensor:
    """[B, L] bool: the features of prompts that later tokens read, those of the last group."""
    last = tokens.segment.amax(1, keepdim=True)
    return tokens.mask & tokens.visual & (tokens.segment == last)


def read_again(keys: Keys, text: Tokens) -> Reading:
    """The reading of images whose `keys` [B, L] are in the cache by `text` that follows them."""
    length = text.hidden.shape[1]
    seen = keys.mask.any(1)
    allowed = keys.mask[:, None].expand(-1, length, -1)
    bias = as_bias(allowed, keys, text.hidden.dtype)
    return Reading(None, bias, seen[:, None].expand(-1, length), seen)


def as_bias(allowed: Tensor, keys: Keys, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, L]: each key's log size where it is `allowed` [B, T, L], else the least number."""
    size = sizes_of(keys)[:, None].to(dtype)
    return torch.where(allowed, size, torch.finfo(dtype).min)[:, None]
