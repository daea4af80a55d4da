"""The attention inside a vision encoder, for methods that ask for it.

It is computed from the queries and keys of the pass that gives the features, and becomes one number
a visual token by the way that patches become tokens: where several patches make one, it is their
mean; a newline token gets none.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from sts_cli.decoding.attention import NAME, AttentionInputs, attention_paid
from sts_cli.families.encoder import (
    PATCHES,
    PROJECTORS,
    ShorterEncoder,
    encoder_of,
    layers_run,
    read_by,
    tower_name,
)
from sts_cli.pruning import Need

LAYERS = ("layers", "layer", "blocks")
ATTENTIONS = ("self_attn", "attention", "attn")
CLASS_TOKENS = ("class_embedding", "cls_token")


class Observer:
    """A model's `get_image_features`, with the attention inside its vision encoder, in PyTorch.

    The encoder's attention becomes `decoding.attention`'s, which computes the same numbers.
    """

    def __init__(self, model: Any, encoder: Any):
        """`encoder` has the model's `get_image_features`; if OpenVINO's, the model's own is run."""
        own = encoder is model or isinstance(encoder, ShorterEncoder)
        self.encoder = encoder if own else encoder_of(model)
        short = isinstance(self.encoder, ShorterEncoder)
        self.inner: Any = self.encoder.twin if short else model.model
        self.place = tower_name(model) or PATCHES
        self.tower: Any = self.inner._modules[self.place]
        self.tower.set_attn_implementation(NAME)
        layers = next(
            module
            for name, module in self.tower.named_modules()
            if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in LAYERS
        )
        attention = [
            next(layer._modules[name] for name in ATTENTIONS if name in layer._modules)
            for layer in layers
        ]
        asked = [] if short else read_by(model)
        read = layers_run(len(layers), asked) or len(layers)
        whole = getattr(self.tower, "fullatt_block_indexes", None) or range(len(layers))
        last = max(layer for layer in whole if layer < read)
        early = min(layer for layer in whole if layer >= min(last, round(read / 4) - 1))
        self.watched: Mapping[Need, Any] = {
            "encoder": attention[last],
            "patches": attention[last],
            "shallow": attention[early],
        }
        self.first = any(name.endswith(CLASS_TOKENS) for name, _ in self.tower.named_parameters())

    def run(
        self, inputs: Mapping[str, Tensor], watch: Collection[Need]
    ) -> tuple[Any, dict[Need, Any]]:
        """The output of `get_image_features`, and what `watch` names in the shape of its features.

        A token's attention is [1], float32.
        """
        records: dict[Any, list[AttentionInputs]] = {self.watched[need]: [] for need in watch}
        for module, record in records.items():
            module.record = record
        try:
            output = self.encoder.get_image_features(**inputs)
        finally:
            for module in records:
                del module.record
        seen: dict[Need, Any] = {}
        for need in watch:
            by_class = self.first and need != "patches"
            rows = slice(1) if by_class else slice(int(self.first), None)
            got = [received(one, rows) for one in records[self.watched[need]]]
            seen[need] = self.per_token(got, inputs)
        return output, seen

    def per_token(self, got: list[Tensor], inputs: Mapping[str, Tensor]) -> Any:
        """What each token got, from what each patch got: [T, P] for every call of the attention."""
        if self.place == PATCHES:  # the patches of all images in one row, blocks of them a token
            return merged_blocks(self.tower, torch.cat(got, dim=1)[0], inputs)
        (values,) = got
        twin = copy.copy(self.inner)
        projector = next(name for name in PROJECTORS if name in self.inner._modules)
        twin._modules = {
            **self.inner._modules,
            self.place: Echo(values[..., None]),
            projector: Pooled(self.inner._modules[projector]),
        }
        twin._parameters = dict(self.inner._parameters)
        if twin._parameters.get("image_newline") is not None:
            nothing = torch.zeros(1, device=values.device)
            twin._parameters["image_newline"] = nn.Parameter(nothing, requires_grad=False)
        return twin.get_image_features(**inputs).pooler_output


def received(inputs: AttentionInputs, rows: slice) -> Tensor:
    """[T, P] float32: the attention that each patch gets from `rows`, mean over heads and rows."""
    query, key, mask, scale = inputs
    if mask is None:
        mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=query.device)
    mask = mask.expand(-1, -1, query.shape[2], key.shape[2])[:, :, rows]
    query = query[:, :, rows]
    every = torch.ones((len(query), query.shape[2]), dtype=torch.bool, device=query.device)
    return attention_paid((query, key, mask, scale), every)


class Echo(nn.Module):
    """In a tower's place: every hidden state is the same values [T, P, 1]."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = values

    def forward(self, *given: Any, **settings: Any) -> Any:
        states = SimpleNamespace(last_hidden_state=self.values, pooler_output=None)
        states.hidden_states = Every(self.values)
        return states


class Every:
    """A sequence of which every item is the same."""

    def __init__(self, item: Any):
        self.item = item

    def __getitem__(self, index: int) -> Any:
        return self.item


class Pooled(nn.Module):
    """In a projector's place: the mean over the patches that it makes one token of."""

    def __init__(self, projector: Any):
        super().__init__()
        self.inside = [projector]  # in a list: no submodule, no weights of its own

    def forward(self, values: Tensor) -> Tensor:
        """[T, N, 1] from [T, P, C]; C is 1, or the patches that were put together before."""
        (inside,) = self.inside
        if hasattr(inside, "pixel_shuffle"):
            values = inside.pixel_shuffle(values, inside.scale_factor)
        elif hasattr(inside, "avg_pool"):
            side = inside.patches_per_image
            values = inside.avg_pool(values.mT.unflatten(-1, (side, side))).flatten(2).mT
        return values.mean(-1, keepdim=True)


def merged_blocks(tower: Any, got: Tensor, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """[N, 1] for each image, from what the patches got [P], in the order that Qwen's tower has."""
    grids = inputs["image_grid_thw"]
    block = tower.spatial_merge_size**2
    means = got.view(-1, block).mean(1, keepdim=True)
    if hasattr(tower, "fullatt_block_indexes"):  # it puts the blocks of a window together
        order, _ = get_vision_window_index(
            grids, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        means = torch.empty_like(means).index_copy_(0, order.to(means.device), means)
    counts = (grids.prod(-1) // block).tolist()
    return list(means.split(counts))
