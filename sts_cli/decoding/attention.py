"""Scaled dot-product attention whose queries and keys can be watched, and what they say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sts_sdpa"
CHUNK_BYTES = 64 << 20  # of the watched rows' logits at a time

# Queries, keys, mask and scale of one layer, as its attention was given them.
Seen = tuple[Tensor, Tensor, Tensor | None, float | None]


def watched_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    seen: list[Seen] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA; `seen`, a call argument of one layer, is given what it attends with."""
    if seen is not None:
        seen.append((query, key, attention_mask, scaling))
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )


def attention_paid(seen: Seen, rows: Tensor) -> Tensor:
    """[B, K] float32: the attention that the watched of the last R queries paid to each key.

    `seen` holds queries [B, H, L, d], keys [B, G, K, d], a mask [B, 1, L, K] or None where
    attention is causal, and a scale; `rows` [B, R] bool says which are watched. Queries and keys
    are the layer's own, after RoPE and any normalisation, so this is what eager attention would
    give: the softmax over all keys that a query may see, its mean over heads and then over the
    watched rows. A bool mask says what may be seen; any other is added to the logits. Some rows at
    a time, so that a long question does not need memory for all of its rows at once.
    """
    query, key, mask, scaling = seen
    batch, heads, length, dim = query.shape
    groups, total, watched = key.shape[1], key.shape[2], rows.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    step = max(1, CHUNK_BYTES // (4 * batch * heads * total))
    paid = torch.zeros((batch, total), device=query.device)
    for start in range(length - watched, length, step):
        part = slice(start, min(start + step, length))
        picked = query[:, :, part].reshape(batch, groups, -1, dim)  # a group's heads share its keys
        logits = (picked @ key.mT).float().view(batch, heads, -1, total) * scale  # [B, H, r, K]
        if mask is None:
            place = torch.arange(part.start, part.stop, device=query.device) + total - length
            allowed = torch.arange(total, device=query.device) <= place[:, None]
        else:
            allowed = mask[:, :, part]
            if allowed.dtype != torch.bool:
                logits = logits + allowed
                allowed = allowed > torch.finfo(allowed.dtype).min
        weights = logits.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num().mean(1)
        chosen = rows[:, part.start - (length - watched) : part.stop - (length - watched)]
        paid += (weights * chosen[..., None]).sum(1)
    return paid / rows.sum(1).clamp(min=1)[:, None]


AttentionInterface.register(NAME, watched_sdpa)
# Without a mask function of the same name, padding is attended, silently.
AttentionMaskInterface.register(NAME, sdpa_mask)
