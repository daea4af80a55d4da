"""Scaled dot-product attention that records its inputs, and attention scores from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sts_sdpa"
CHUNK_BYTES = 64 << 20  # of the watched queries' logits at a time

# Queries, keys, mask and scale that one layer's attention got.
AttentionInputs = tuple[Tensor, Tensor, Tensor | None, float | None]


def watched_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    record: list[AttentionInputs] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA. Appends its inputs to `record`, an argument of one layer's call.

    Layers of vision encoders do not pass such an argument on: there it is the module's attribute.
    """
    record = vars(module).get("record") if record is None else record
    if record is not None:
        record.append((query, key, attention_mask, scaling))
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )


def attention_paid(inputs: AttentionInputs, queries: Tensor, by_head: bool = False) -> Tensor:
    """The attention of the watched queries to each key, [B, K] float32; [B, H, K] if `by_head`.

    `inputs` are queries [B, H, L, d], keys [B, G, K, d], a mask [B, 1, L, K] (None: causal) and a
    scale. `queries` [B, R] bool marks the watched ones among the last R. Queries and keys come
    after RoPE and normalisation, so the result is that of eager attention: the softmax over all
    visible keys, its mean over heads, unless `by_head`, then over the watched queries. A bool mask
    marks the visible keys; any other mask is added to the logits. The work is done in chunks of
    queries, so that a long question needs little memory.
    """
    query, key, mask, scaling = inputs
    batch, heads, length, dim = query.shape
    groups, total, watched = key.shape[1], key.shape[2], queries.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    step = max(1, CHUNK_BYTES // (4 * batch * heads * total))
    heads_left = heads if by_head else 1
    paid = torch.zeros((batch, heads_left, total), device=query.device)
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
        weights = logits.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num()
        weights = weights if by_head else weights.mean(1, keepdim=True)
        chosen = queries[:, part.start - (length - watched) : part.stop - (length - watched)]
        paid += (weights * chosen[:, None, :, None]).sum(2)
    paid = paid / queries.sum(1).clamp(min=1)[:, None, None]
    return paid if by_head else paid[:, 0]


AttentionInterface.register(NAME, watched_sdpa)
# Without a mask function of the same name, tokens attend to padding, and there is no error.
AttentionMaskInterface.register(NAME, sdpa_mask)
