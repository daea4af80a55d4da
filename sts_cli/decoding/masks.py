"""Attention masks: what each token may see, for every kind of layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sts_cli.decoding.tokens import Keys, Tokens

KINDS = ("full_attention", "sliding_attention")


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


def attention_mask(
    tokens: Tokens, keys: Keys, window: int | None, both_ways: bool = False
) -> Tensor | None:
    """[B, 1, L, K]: what each of L tokens may see of the last K keys; None where it is causal.

    `keys` are all keys of a layer, the tokens' own last. A sliding `window` counts keys, so after a
    cut it reaches further back than before, and its cache holds the last `window` - 1 before the
    tokens. `both_ways` lets the tokens of an unbroken run of an image see each other (Gemma 3).
    The mask is bool, or where keys have sizes a bias in the precision of the hidden states: the
    log size of what may be seen, the least number elsewhere.
    """
    length, total = tokens.hidden.shape[1], keys.mask.shape[1]
    held = total if window is None else min(total, window - 1 + length)
    both_ways = both_ways and length > 1
    narrow = both_ways or length < total or (window is not None and length > window)
    if (length == 1 or not narrow) and not keys.padded and keys.log_size is None:
        return None
    device = tokens.hidden.device
    query = torch.arange(total - length, total, device=device)[:, None]
    key = torch.arange(total - held, total, device=device)
    allowed = (key <= query)[None]  # [1, L, held]
    if both_ways:
        run = tokens.run
        allowed = allowed | ((run[:, :, None] == run[:, None]) & (run >= 0)[:, :, None])
    if window is not None:
        allowed = allowed & (key > query - window)
    allowed = (allowed & keys.mask[:, None, -held:])[:, None]
    if keys.log_size is None:
        return allowed
    bias = keys.log_size[:, None, None, -held:].to(tokens.hidden.dtype)
    return torch.where(allowed, bias, torch.finfo(tokens.hidden.dtype).min)
