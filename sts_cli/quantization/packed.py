"""A Linear layer with int8 or int4 weights for CPUs, over PyTorch's own packed kernels.

PyTorch's kernels are fast for few rows, where reading the weights takes the time, and slow for many
rows. For many rows, int8 weights are unpacked to the inputs' dtype, slice by slice; this is cheap,
because a slice stays in the CPU's cache. Unpacking int4 is slow, so int4 always uses its kernel.
`benchmarks/linear.py` measures both ways and the number of rows where they are equal.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Precision = Literal["int8", "int4"]

FEW_ROWS = 12  # up to this number of rows the int8 kernel is faster; docs/quantization.md
SLICE_BYTES = 16 << 20  # of unpacked weights at a time
PACKED_BYTES = 4 << 20  # of float32 weights that are packed at a time, without temporary copies
GROUP = 32  # input features that share a scale and a zero point in int4
BLOCK = 64  # output features in one block of the int4 kernel
TILES = 1  # the kernel's layout of int4 weights; the CPU kernel has only this one


class PackedLinear(nn.Module):
    """`nn.Linear` for inference. Weights: int8 with a scale per output, int4 with one per group."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        precision: Precision,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.in_features, self.out_features, self.precision = in_features, out_features, precision
        if precision == "int8":
            packed = torch.empty(self.packed_shape, dtype=torch.int8)
            scales = torch.empty(out_features, dtype=dtype)
        else:
            packed = torch.empty(self.packed_shape, dtype=torch.uint8)
            scales = torch.empty((in_features // GROUP, out_features, 2), dtype=dtype)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scales", scales)
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None

    @property
    def packed_shape(self) -> tuple[int, int]:
        """The shape of `weight`; one byte holds two int4 numbers."""
        inputs = self.in_features if self.precision == "int8" else self.in_features // 2
        return self.out_features, inputs

    def forward(self, inputs: Tensor) -> Tensor:
        """`inputs` [..., in_features] -> [..., out_features]."""
        rows = inputs.reshape(-1, self.in_features)
        if self.precision == "int4":
            outputs = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rows, self.weight, GROUP, self.scales
            )
        elif len(rows) <= FEW_ROWS:
            outputs = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scales)
        else:
            outputs = unpacked(rows, self.weight).mul_(self.scales)
        if self.bias is not None:
            outputs = outputs.add_(self.bias)
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.precision}"


def unpacked(rows: Tensor, weight: Tensor) -> Tensor:
    """`rows` [R, K] times int8 `weight` [N, K] without scales: [R, N] in the dtype of `rows`."""
    step = max(1, SLICE_BYTES // (weight.shape[1] * rows.element_size()))
    parts = [linear(rows, part.to(rows.dtype)) for part in weight.split(step)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def fits(layer: nn.Linear, precision: Precision) -> bool:
    """True if the kernel of `precision` accepts a layer of this shape."""
    if precision == "int8":
        return layer.in_features % 4 == 0
    return layer.in_features % GROUP == 0 and layer.out_features % 16 == 0


def pack(weight: Tensor, precision: Precision, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The packed weight and the scales for `PackedLinear`, from a dense weight [N, K]."""
    return pack_int8(weight, dtype) if precision == "int8" else pack_int4(weight, dtype)


def pack_int8(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights int8 [N, K] and scales [N]: symmetric, one scale per output feature."""
    scales = weight.abs().amax(1).float().div(127).clamp(min=1e-12).to(dtype)
    packed = torch.empty(weight.shape, dtype=torch.int8)
    for rows in slices(weight):
        steps = weight[rows].float() / scales[rows].float()[:, None]
        packed[rows] = steps.round_().clamp_(-127, 127)
    return packed, scales


def pack_int4(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights uint8 [N, K / 2] and [K / GROUP, N, 2]: the scale and the value of level 8."""
    outputs, inputs = weight.shape
    packed = torch.empty((outputs, inputs // 2), dtype=torch.uint8)
    scales = torch.empty((inputs // GROUP, outputs, 2), dtype=dtype)
    for rows in slices(weight):
        groups = weight[rows].float().view(-1, inputs // GROUP, GROUP)
        low, high = groups.aminmax(dim=-1)
        scale = (high - low).div_(15).clamp_(min=1e-12).to(dtype)
        middle = (low + 8 * scale.float()).to(dtype)
        steps = (groups - middle.float()[..., None]).div_(scale.float()[..., None]).add_(8)
        levels = steps.round_().clamp_(0, 15).view(-1, inputs).int()
        packed[rows] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, TILES)
        scales[:, rows] = torch.stack([scale, middle], -1).transpose(0, 1)
    return packed, scales


def slices(weight: Tensor) -> list[slice]:
    """Slices of rows of `weight`, PACKED_BYTES each, in whole blocks; the last may be smaller."""
    step = max(1, PACKED_BYTES // (4 * BLOCK * weight.shape[1])) * BLOCK
    return [slice(start, start + step) for start in range(0, len(weight), step)]
