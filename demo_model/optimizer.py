"""Muon and AdamW on float32 copies of bfloat16 weights, with gradients averaged over processes.

The matrices inside the layers use Muon (Jordan and others, 2024): its steps are orthogonal, so rare
directions, such as the differences between letters, learn as fast as common ones. All other weights
use AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


class Optimizer:
    """An optimizer for groups of named weights, each with its own learning rate."""

    def __init__(self, groups: Iterable[tuple[float, Iterable[tuple[str, nn.Parameter]]]]):
        self.weights: list[nn.Parameter] = []
        self.copies: list[Tensor] = []
        muon: list[dict[str, Any]] = []
        adamw: list[dict[str, Any]] = []
        for rate, named in groups:
            for settings, decay, chosen in zip(
                (muon, adamw, adamw), (0.02, 0.05, 0.0), split(named), strict=True
            ):
                copies = [weight.detach().float().clone() for weight in chosen]
                self.weights += chosen
                self.copies += copies
                if copies:
                    settings.append(
                        {"params": copies, "weight_decay": decay, "lr": rate, "rate": rate}
                    )
        self.inner: list[torch.optim.Optimizer] = []
        if muon:
            self.inner.append(torch.optim.Muon(muon, ns_steps=4, adjust_lr_fn="match_rms_adamw"))
        self.inner.append(torch.optim.AdamW(adamw, betas=(0.9, 0.98), fused=True))

    def step(self, factor: float) -> float:
        """Average the gradients over processes, clip them to norm 1, update; returns the norm."""
        for weight, copy in zip(self.weights, self.copies, strict=True):
            copy.grad = torch.zeros_like(copy) if weight.grad is None else weight.grad.float()
            weight.grad = None
        if torch.distributed.is_initialized():
            flat = torch.cat([copy.grad.view(-1) for copy in self.copies if copy.grad is not None])
            torch.distributed.all_reduce(flat)
            flat /= torch.distributed.get_world_size()
            parts = flat.split([copy.numel() for copy in self.copies])
            for copy, part in zip(self.copies, parts, strict=True):
                copy.grad = part.view_as(copy)
        norm = nn.utils.clip_grad_norm_(self.copies, 1.0)
        for inner in self.inner:
            for group in inner.param_groups:
                group["lr"] = group["rate"] * factor
            inner.step()
        with torch.no_grad():
            torch._foreach_copy_([w.data for w in self.weights], self.copies)
        return float(norm)

    def state(self) -> dict[str, Any]:
        """The state for `load`."""
        return {"inner": [inner.state_dict() for inner in self.inner], "copies": self.copies}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a `state`, with this optimizer's own learning rates."""
        for inner, saved in zip(self.inner, state["inner"], strict=True):
            rates = [group["rate"] for group in inner.param_groups]
            inner.load_state_dict(saved)
            for group, rate in zip(inner.param_groups, rates, strict=True):
                group["rate"] = rate
        with torch.no_grad():
            torch._foreach_copy_(self.copies, state["copies"])


def split(
    named: Iterable[tuple[str, nn.Parameter]],
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Three lists: matrices inside layers; other matrices; norms, biases and embeddings."""
    inside: list[nn.Parameter] = []
    outside: list[nn.Parameter] = []
    stays: list[nn.Parameter] = []
    for name, weight in named:
        if weight.ndim < 2 or "position" in name or "embed_tokens" in name:
            stays.append(weight)
        elif ".layers." in name or "projector" in name:
            inside.append(weight)
        else:
            outside.append(weight)
    return inside, outside, stays


def schedule(done: float, warm: float = 0.02, flat: float = 0.4) -> float:
    """The learning rate's factor after a share `done` of a phase: it rises, stays, then falls."""
    if done < warm:
        return done / warm + 0.01
    return 1.0 if done < flat else max(0.03, (1 - done) / (1 - flat))
