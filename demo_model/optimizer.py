"""AdamW on float32 copies of bfloat16 weights, averaged over processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


class Optimizer:
    """One learning rate for a group of named weights, times the step's own factor."""

    def __init__(self, groups: Iterable[tuple[float, Iterable[tuple[str, nn.Parameter]]]]):
        self.weights: list[nn.Parameter] = []
        self.copies: list[Tensor] = []
        self.rates: list[float] = []
        settings: list[dict[str, Any]] = []
        for rate, named in groups:
            for decay, chosen in split(named):
                copies = [weight.detach().float().clone() for weight in chosen]
                if not chosen:
                    continue
                self.weights += chosen
                self.copies += copies
                self.rates.append(rate)
                settings.append({"params": copies, "weight_decay": decay, "lr": rate})
        self.inner = torch.optim.AdamW(settings, betas=(0.9, 0.98), fused=True)

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
        for group, rate in zip(self.inner.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.inner.step()
        with torch.no_grad():
            torch._foreach_copy_([w.data for w in self.weights], self.copies)
        return float(norm)


def split(
    named: Iterable[tuple[str, nn.Parameter]],
) -> list[tuple[float, list[nn.Parameter]]]:
    """Matrices decay; norms, biases, positions and embeddings do not."""
    decays: list[nn.Parameter] = []
    stays: list[nn.Parameter] = []
    for name, weight in named:
        matrix = weight.ndim >= 2 and "position" not in name and "embed_tokens" not in name
        (decays if matrix else stays).append(weight)
    return [(0.05, decays), (0.0, stays)]


def schedule(done: float, warm: float = 0.02) -> float:
    """The learning rate's factor when a share `done` of a phase is over: up, flat, down a third."""
    if done < warm:
        return done / warm + 0.01
    return 1.0 if done < 2 / 3 else max(0.03, (1 - done) * 3)
