"""Attention masks: the keys that each token may attend to, for every kind of layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sts_cli.decoding.tokens import Keys, Tokens

KINDS = ("full_attention", "sliding_attention")


def layer_kinds(config: Any) -> list[str]:
    """The kind of every layer, such as full_attention, from the config's list or inferred.

    transformers' cache infers kinds in the same way, so masks and cache agree.
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


def sliding_window(config: Any) -> int | None:
    """The keys that the layers with a sliding window see; None if there are no such layers."""
    return config.sliding_window if "sliding_attention" in layer_kinds(config) else None


def readers(config: Any) -> tuple[int, ...]:
    """The layers of a language model that read visual tokens: all, or its cross-attention."""
    crossing = getattr(config, "cross_attention_layers", None)
    return tuple(sorted(crossing) if crossing else range(config.num_hidden_layers))


def attention_mask(
    tokens: Tokens, keys: Keys, window: int | None, both_ways: bool = False
) -> Tensor | None:
    """The mask [B, 1, L, K] of L tokens over the last K keys; None if plain causal is enough.

    `keys` are all keys of a layer; the tokens' own come last. A sliding `window` counts keys, so
    after a cut it reaches further back; the cache holds the last `window` - 1 keys before the
    tokens. With `both_ways`, the tokens of one segment of an image see each other (Gemma 3). The
    mask is bool. If keys have sizes, it is a bias in the dtype of the hidden states: the log size
    of each visible key, and the dtype's least number for all others.
    """
    length, total = tokens.hidden.shape[1], keys.mask.shape[1]
    held = total if window is None else min(total, window - 1 + length)
    both_ways = both_ways and 1 < length == total  # later tokens are text
    narrow = both_ways or length < total or (window is not None and length > window)
    if (length == 1 or not narrow) and not keys.padded and keys.log_size is None:
        return None
    device = tokens.hidden.device
    query = torch.arange(total - length, total, device=device)[:, None]
    key = torch.arange(total - held, total, device=device)
    allowed = (key <= query)[None]  # [1, L, held]
    if both_ways:
        segment = tokens.segment
        allowed = allowed | ((segment[:, :, None] == segment[:, None]) & (segment >= 0)[:, :, None])
    if window is not None:
        allowed = allowed & (key > query - window)
    allowed = (allowed & keys.mask[:, None, -held:])[:, None]
    if keys.log_size is None:
        return allowed
    bias = keys.log_size[:, None, None, -held:].to(tokens.hidden.dtype)
    return torch.where(allowed, bias, torch.finfo(tokens.hidden.dtype).min)
