"""Scaled dot-product attention that can report how much chosen rows attend to each key."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sts_sdpa"


class Observer:
    """Collects what the rows `rows` [B, L] attend to, while one layer runs.

    After the layer, `scores` [B, L] is the softmax attention over all keys that a row may see,
    reduced over heads and then rows. Queries and keys are the layer's own, after RoPE and any
    normalisation, so this equals what eager attention would return, at the cost of those rows.
    `seconds` is what observing took.
    """

    def __init__(
        self,
        rows: Tensor,
        heads: Literal["mean", "max"] = "mean",
        clock: Callable[[], float] = perf_counter,
    ):
        self.rows = rows
        self.heads = heads
        self.clock = clock
        self.scores: Tensor | None = None
        self.seconds = 0.0

    def found(self) -> Tensor:
        """The scores [B, L]. Raises RuntimeError if the model's attention never called `see`."""
        if self.scores is None:
            raise RuntimeError(f"the model was not loaded with attention '{NAME}'")
        return self.scores

    def see(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> None:
        """`query` [B, H, L, d], `key` [B, G, L, d], `mask` [B, 1, L, L] or None if causal.

        A bool mask says what may be seen; any other is added to the logits.
        """
        started = self.clock()
        batch, heads, length, dim = query.shape
        count = self.rows.sum(1)  # [B]
        index = self.rows.int().argsort(dim=1, stable=True)[:, -max(1, int(count.max())) :]
        chosen = self.rows.gather(1, index)  # [B, R]
        picked = query.gather(2, index[:, None, :, None].expand(-1, heads, -1, dim))
        groups = key.shape[1]
        picked = picked.reshape(batch, groups, -1, dim)  # a group's heads share its keys
        logits = (picked @ key.mT).float().view(batch, heads, -1, length)
        logits = logits * (dim**-0.5 if scaling is None else scaling)  # [B, H, R, L]
        if mask is None:
            allowed = torch.arange(length, device=query.device) <= index[:, None, :, None]
        else:
            allowed = mask.expand(batch, 1, length, length).gather(
                2, index[:, None, :, None].expand(-1, 1, -1, length)
            )
            if allowed.dtype != torch.bool:
                logits = logits + allowed
                allowed = allowed > torch.finfo(allowed.dtype).min
        weights = logits.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num()
        weights = weights.mean(1) if self.heads == "mean" else weights.amax(1)  # [B, R, L]
        self.scores = (weights * chosen[..., None]).sum(1) / count.clamp(min=1)[:, None]
        self.seconds = self.clock() - started


def observed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    observer: Observer | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA; `observer`, a call argument of one layer, sees queries and keys."""
    if observer is not None:
        observer.see(query, key, attention_mask, scaling)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )


AttentionInterface.register(NAME, observed_sdpa)
# Without a mask function of the same name, padding is attended, silently.
AttentionMaskInterface.register(NAME, sdpa_mask)
