"""A second decoder: no cache of keys, eager attention, masks of its own. The oracle of the first.

It remembers the tokens that entered each span and runs them again from the start whenever one is
added, on a copy of the model. It shares nothing with sts_cli.decoding but the protocol's records.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sts_cli.decoding import Watch
from sts_cli.decoding.tokens import Tokens

LEAST = -1e9


@dataclass
class Memory:
    """The tokens that entered each span, by its first layer."""

    spans: dict[int, Tokens] = field(default_factory=dict)

    def keep(self, rows: Tensor) -> None:
        self.spans = {start: chosen(tokens, rows) for start, tokens in self.spans.items()}

    def join(self, other: Memory) -> None:
        self.spans = {
            start: beside(tokens, other.spans[start]) for start, tokens in self.spans.items()
        }


class Recomputing:
    """Runs all tokens of a span again for every new one."""

    joins = True

    def __init__(self, model: Any):
        self.model = copy.deepcopy(model)
        self.model.set_attn_implementation({"text_config": "eager"})
        self.text = self.model.get_decoder()
        self.config = self.text.config
        self.layers = len(self.text.layers)

    def prepare(self, *spans: range) -> None:
        pass

    def cache(self, rows: int, new: int) -> Memory:
        return Memory()

    def run(
        self, tokens: Tokens, span: range, cache: Memory, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        before = cache.spans.get(span.start)
        every = tokens if before is None else behind(before, tokens)
        cache.spans[span.start] = every
        hidden, new = every.hidden, tokens.hidden.shape[1]
        weights: list[Tensor] = []
        for layer in span:
            module = self.text.layers[layer]
            handle = module.self_attn.register_forward_hook(
                lambda _, __, given: weights.append(given[1])
            )
            hidden = module(
                hidden,
                attention_mask=self.bias(every, layer),
                position_embeddings=self.rotation(every, layer),
            )
            handle.remove()
            if layer < len(every.residuals):
                hidden = hidden + every.residuals[layer]
        scores = None
        if watch is not None:
            wide = watch.queries.float()
            paid = weights[-1].float()[:, :, -wide.shape[1] :]  # [B, H, R, L]
            scores = (paid * wide[:, None, :, None]).sum(2) / wide.sum(1)[:, None, None]
            scores = scores if watch.by_head else scores.mean(1)
        return replace(tokens, hidden=hidden[:, -new:]), scores

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(self.text.norm(hidden[:, -1]))
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def bias(self, tokens: Tokens, layer: int) -> Tensor:
        """[B, 1, L, L]: a key's log size where a token may see it, else a very small number."""
        length = tokens.hidden.shape[1]
        place = torch.arange(length, device=tokens.hidden.device)
        seen = (place[None] <= place[:, None]).expand(len(tokens.hidden), -1, -1)
        if self.config.model_type == "gemma3_text":
            same = tokens.segment[:, None] == tokens.segment[:, :, None]
            seen = seen | (same & (tokens.segment[:, None] >= 0))
        kinds = getattr(self.config, "layer_types", None) or ["full_attention"] * self.layers
        if kinds[layer] == "sliding_attention":
            seen = seen & (place[:, None] - place[None] < self.config.sliding_window)
        seen = seen & tokens.mask[:, None]
        size = torch.zeros(tokens.mask.shape, device=place.device)
        size = size if tokens.log_size is None else tokens.log_size
        bias = torch.where(seen, size[:, None], torch.tensor(LEAST, device=place.device))
        return bias[:, None].to(tokens.hidden.dtype)

    def rotation(self, tokens: Tokens, layer: int) -> Any:
        positions = tokens.positions[0] if len(tokens.positions) == 1 else tokens.positions
        kinds = getattr(self.config, "layer_types", None)
        takes = inspect.signature(self.text.rotary_emb.forward).parameters
        more = (kinds[layer],) if kinds and "layer_type" in takes else ()
        return self.text.rotary_emb(tokens.hidden, positions, *more)


def behind(before: Tokens, new: Tokens) -> Tokens:
    """The tokens `new` after those of `before`."""
    size = None
    if before.log_size is not None:
        size = torch.cat([before.log_size, torch.zeros(new.mask.shape).to(before.log_size)], 1)
    none = torch.zeros_like(new.hidden)
    return Tokens(
        hidden=torch.cat([before.hidden, new.hidden], 1),
        mask=torch.cat([before.mask, new.mask], 1),
        padded=before.padded,
        positions=torch.cat([before.positions, new.positions], 2),
        image=torch.cat([before.image, new.image], 1),
        segment=torch.cat([before.segment, new.segment], 1),
        grid=torch.cat([before.grid, new.grid], 1),
        log_size=size,
        residuals=tuple(torch.cat([one, none], 1) for one in before.residuals),
    )


def beside(one: Tokens, other: Tokens) -> Tokens:
    """The rows of both, padded on the left to the longer."""
    length = max(one.mask.shape[1], other.mask.shape[1])

    def both(first: Tensor, second: Tensor, rows: int = 0, fill: float = 0) -> Tensor:
        long = []
        for values in (first, second):
            shape = list(values.shape)
            shape[rows + 1] = length - shape[rows + 1]
            long.append(torch.cat([torch.full(shape, fill).to(values), values], rows + 1))
        return torch.cat(long, rows)

    size = None
    if one.log_size is not None or other.log_size is not None:
        size = both(
            *(
                torch.zeros(part.mask.shape) if part.log_size is None else part.log_size
                for part in (one, other)
            )
        )
    return Tokens(
        hidden=both(one.hidden, other.hidden),
        mask=both(one.mask, other.mask),
        padded=True,
        positions=both(one.positions, other.positions, rows=1),
        image=both(one.image, other.image, fill=-1),
        segment=both(one.segment, other.segment, fill=-1),
        grid=both(one.grid, other.grid),
        log_size=size,
        residuals=tuple(map(both, one.residuals, other.residuals)),
    )


def chosen(tokens: Tokens, rows: Tensor) -> Tokens:
    """The tokens of the rows `rows`."""
    return Tokens(
        hidden=tokens.hidden[rows],
        mask=tokens.mask[rows],
        padded=tokens.padded,
        positions=tokens.positions[:, rows],
        image=tokens.image[rows],
        segment=tokens.segment[rows],
        grid=tokens.grid[rows],
        log_size=None if tokens.log_size is None else tokens.log_size[rows],
        residuals=tuple(one[rows] for one in tokens.residuals),
    )
