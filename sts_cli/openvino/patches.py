"""The towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, which take patches of images of any sizes.

What is traced is transformers' own code. All that depends on sizes is computed before, in PyTorch,
and given: rotary positions, groups of patches that attend to each other, the order of windows, the
places of position embeddings.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from sts_cli.openvino.compiler import Compiler
from sts_cli.openvino.spans import named, traceable, traced
from sts_cli.openvino.weights import compress

PACKED = "sts_flash_packed"  # only with "flash" in its name attention gets all images at once
WHOLE = ("whole_index", "whole_bias", "whole_back")
WINDOW = ("window_index", "window_bias", "window_back")
UNUSED = 1  # where a number is asked for that our attention does not read


class CompiledPatches(nn.Module):
    """In a tower's place, for images of any number and sizes."""

    def __init__(self, tower: Any, compiler: Compiler):
        super().__init__()
        self.inside, self.compiler = [tower], compiler  # in a list: no submodule
        self.dtype, self.spatial_merge_size = tower.dtype, tower.spatial_merge_size
        self.rotary = [type(tower.rotary_pos_emb)(tower.config)]  # in float32 for any tower

    def forward(self, pixels: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
        (tower,), (rotary,) = self.inside, self.rotary
        cos, sin = rotary(pixels, get_vision_position_ids(grid_thw, tower.spatial_merge_size))
        given = {"pixels": pixels.float(), "cos": cos, "sin": sin, **around(tower, grid_thw)}

        def make() -> ov.Model:
            model = traced(PatchTower(tower, list(given)), tuple(given.values()))
            named(model, list(given), [free(*one) for one in given.items()], [])
            return compress(model, self.compiler.weights, tower)

        found = self.compiler.run("tower-patches", make, list(given.values()))
        features, *deepstack = (one.to(self.dtype) for one in found)
        return SimpleNamespace(pooler_output=features, deepstack_features=deepstack)


class PatchTower(nn.Module):
    """A tower that takes what depends on sizes as inputs, in the order of `names`."""

    def __init__(self, tower: nn.Module, names: list[str]):
        super().__init__()
        self.tower: Any = traceable(tower, PACKED)
        self.tower.patch_embed = as_linear(self.tower.patch_embed.proj)
        self.tower.rotary_pos_emb = AsGiven()
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, inputs, strict=True))
        more: dict[str, Any] = {}
        if "order" in given:
            more |= {"window_index": given["order"], "max_window_seqlen": UNUSED}
            more["cu_window_seqlens"] = [given[name] for name in WINDOW]
        if "places" in given:
            more |= {"interp_indices": given["places"], "interp_weights": given["shares"]}
        found = self.tower(
            given["pixels"],
            grid_thw=None,
            position_ids=(given["cos"], given["sin"]),
            cu_seqlens=[given[name] for name in WHOLE],
            max_seqlen=UNUSED,
            **more,
        )
        return (found.pooler_output, *(getattr(found, "deepstack_features", None) or ()))


class AsGiven(nn.Module):
    """In place of rotary embeddings: the positions are the cosines and sines themselves."""

    def forward(self, hidden: Tensor, given: Any) -> Any:
        return given


def as_linear(convolution: nn.Conv3d) -> nn.Linear:
    """The same for patches of one step; a convolution would be a tenth of the tower's time."""
    weight = convolution.weight.flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0], convolution.bias is not None)
    linear.weight, linear.bias = nn.Parameter(weight, False), convolution.bias
    return linear


def around(tower: Any, grids: Tensor) -> dict[str, Tensor]:
    """What a tower needs besides pixels and positions for images with these `grids` [I, 3]."""
    given = dict(zip(WHOLE, groups(get_vision_cu_seqlens(grids)), strict=True))
    if hasattr(tower, "fullatt_block_indexes"):
        order, bounds = get_vision_window_index(
            grids, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        given |= {"order": order, **dict(zip(WINDOW, groups(bounds), strict=True))}
    if hasattr(tower, "pos_embed"):
        given["places"], given["shares"] = get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=tower.spatial_merge_size,
        )
    return given


def groups(bounds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How to cut N patches at `bounds` [W + 1] into W groups, each padded to the S of the longest.

    The patch in each slot [W, S]; what is added to its logits [W, S]; the slot of each patch [N].
    """
    lengths = bounds.diff()
    slots = torch.arange(int(lengths.max()))
    real = slots < lengths[:, None]
    index = (bounds[:-1, None] + slots).where(real, 0).long()
    bias = torch.zeros(real.shape).masked_fill(~real, torch.finfo(torch.float32).min)
    return index, bias, real.flatten().nonzero()[:, 0]


def free(name: str, value: Tensor) -> list[int]:
    """The shape of an input; -1 is any length."""
    return [-1, -1] if name.endswith(("_index", "_bias")) else [-1, *value.shape[1:]]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: tuple[Tensor, Tensor, Tensor],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention inside each group of patches: [1, H, N, d] to [1, N, H, d]."""
    index, bias, back = cu_seq_lens_q
    _, heads, _, dim = query.shape

    def cut(part: Tensor) -> Tensor:
        packed = part[0].transpose(0, 1).index_select(0, index.flatten())
        return packed.view(index.shape[0], index.shape[1], heads, dim).transpose(1, 2)

    outputs = torch.nn.functional.scaled_dot_product_attention(
        cut(query), cut(key), cut(value), attn_mask=bias[:, None, None], scale=scaling
    )
    return outputs.transpose(1, 2).reshape(-1, heads, dim).index_select(0, back)[None], None


AttentionInterface.register(PACKED, packed_attention)
