"""A Linear layer with int8 or int4 weights for CPUs, over PyTorch's own packed kernels.

PyTorch's kernels are fast for few rows of bfloat16, where reading the weights takes the time. They
are slow for many rows, and very slow in float32. There the weights are unpacked, slice by slice,
and multiplied as dense ones. `benchmarks/linear.py` measures both ways.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Precision = Literal["int8", "int4"]

FEW_ROWS = 12  # up to this number of bfloat16 rows the int8 kernel is faster; docs/quantization.md
# Up to this number of rows the int4 kernel is faster. For 96 rows of 4096x11008 the kernel and
# unpacking take 87 and 102 ms in bfloat16 with AVX512, 160 and 159 ms in float32 with AVX2.
FEW_ROWS_INT4 = 96
SLICE_BYTES = 16 << 20  # of unpacked int8 weights at a time
SLICE_BYTES_INT4 = 2 << 20  # smaller, as int4 passes over a slice more often
PACKED_BYTES = 4 << 20  # of float32 weights that are packed at a time, without temporary copies
GROUP = 32  # input features that share a scale and a zero point in int4
BLOCKS = {"AVX512": 64, "AVX2": 32}  # output features in one block of the int4 kernel
BLOCK = max(BLOCKS.values())  # also where the kernel is not used


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
            scales = torch.empty((in_features // GROUP, out_features, 2), dtype=torch.bfloat16)
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
            outputs = times_int4(rows, self.weight, self.scales)
        else:
            outputs = times_int8(rows, self.weight, self.scales)
        if self.bias is not None:
            outputs = outputs.add_(self.bias)
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.precision}"


def times_int8(rows: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """`rows` [R, K] times int8 `weight` [N, K] times `scales` [N]: [R, N]."""
    if len(rows) <= FEW_ROWS and rows.dtype == torch.bfloat16:
        return torch.ops.aten._weight_int8pack_mm(rows, weight, scales)
    return unpacked_int8(rows, weight).mul_(scales)


def times_int4(rows: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """`rows` [R, K] times int4 `weight` [N, K / 2] with `scales` [K / GROUP, N, 2]: [R, N].

    The kernel always computes in bfloat16, whose error is small beside that of 4 bits.
    """
    if len(rows) <= FEW_ROWS_INT4 and torch.backends.cpu.get_cpu_capability() in BLOCKS:
        few = rows.to(torch.bfloat16)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu(few, weight, GROUP, scales)
        return product.to(rows.dtype)
    return unpacked_int4(rows, weight, scales)


def unpacked_int8(rows: Tensor, weight: Tensor) -> Tensor:
    """`rows` [R, K] times int8 `weight` [N, K] without scales: [R, N] in the dtype of `rows`."""
    inputs = rows.to(product_dtype(rows.dtype))
    step = max(1, SLICE_BYTES // (weight.shape[1] * inputs.element_size()))
    parts = [linear(inputs, part.to(inputs.dtype)) for part in weight.split(step)]
    return joined(parts).to(rows.dtype)


def unpacked_int4(rows: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """`rows` [R, K] times int4 `weight` [N, K / 2]: [R, N] in the dtype of `rows`."""
    inputs = rows.to(product_dtype(rows.dtype))
    block = kernel_block()
    step = max(1, SLICE_BYTES_INT4 // (block * inputs.shape[1] * inputs.element_size())) * block
    parts = [
        inputs @ dense_int4(part, steps, block, inputs.dtype)
        for part, steps in zip(weight.split(step), scales.split(step, dim=1), strict=True)
    ]
    return joined(parts).to(rows.dtype)


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to multiply unpacked weights in: float32 where the CPU has no AVX512.

    There, 130 rows of 896x4864 take 63 ms or more in bfloat16, and 20 ms in float32.
    """
    return dtype if torch.backends.cpu.get_cpu_capability() == "AVX512" else torch.float32


def joined(parts: list[Tensor]) -> Tensor:
    """The parts [R, n] side by side."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def fits(layer: nn.Linear, precision: Precision) -> bool:
    """True if the kernel of `precision` accepts a layer of this shape."""
    if precision == "int8":
        return layer.in_features % 4 == 0
    return layer.in_features % GROUP == 0 and layer.out_features % 16 == 0


def pack(weight: Tensor, precision: Precision, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The packed weight and the scales for `PackedLinear`, from a dense weight [N, K]."""
    return pack_int8(weight, dtype) if precision == "int8" else pack_int4(weight)


def pack_int8(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights int8 [N, K] and scales [N]: symmetric, one scale per output feature."""
    scales = weight.abs().amax(1).float().div(127).clamp(min=1e-12).to(dtype)
    packed = torch.empty(weight.shape, dtype=torch.int8)
    for rows in slices(weight):
        steps = weight[rows].float() / scales[rows].float()[:, None]
        packed[rows] = steps.round_().clamp_(-127, 127)
    return packed, scales


def pack_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights uint8 [N, K / 2] and [K / GROUP, N, 2]: the scale and the value of level 8."""
    outputs, inputs = weight.shape
    packed = torch.empty((outputs, inputs // 2), dtype=torch.uint8)
    scales = torch.empty((inputs // GROUP, outputs, 2), dtype=torch.bfloat16)
    for rows in slices(weight):
        groups = weight[rows].float().view(-1, inputs // GROUP, GROUP)
        low, high = groups.aminmax(dim=-1)
        scale = (high - low).div_(15).clamp_(min=1e-12).to(scales.dtype)
        middle = (low + 8 * scale.float()).to(scales.dtype)
        steps = (groups - middle.float()[..., None]).div_(scale.float()[..., None]).add_(8)
        levels = steps.round_().clamp_(0, 15).view(-1, inputs).to(torch.uint8)
        packed[rows] = pack_levels(levels, kernel_block())
        scales[:, rows] = torch.stack([scale, middle], -1).transpose(0, 1)
    return packed, scales


def kernel_block() -> int:
    """The number of output features in one block of packed int4 weights on this CPU."""
    return BLOCKS.get(torch.backends.cpu.get_cpu_capability(), BLOCK)


def pack_levels(levels: Tensor, block: int) -> Tensor:
    """int4 levels uint8 [N, K] in the kernel's layout, [N, K / 2].

    A block has K rows of bytes. A byte holds a feature of the block's first half, and one of its
    second half in the high bits. The features after the last whole block are packed in pairs.
    """
    inputs, whole = levels.shape[1], len(levels) // block * block
    halves = levels[:whole].view(-1, 2, block // 2, inputs).unbind(1)
    pairs = levels[whole:].view(1, -1, 2, inputs).unbind(2)
    parts = [(low | high << 4).transpose(1, 2).reshape(-1) for low, high in (halves, pairs)]
    return torch.cat(parts).view(len(levels), inputs // 2)


def unpack_levels(packed: Tensor, block: int) -> Tensor:
    """The int4 levels uint8 [K, N] of weights from `pack_levels`."""
    inputs, whole = 2 * packed.shape[1], len(packed) // block * block
    halves = packed[:whole].view(-1, inputs, block // 2).transpose(0, 1).contiguous()
    levels = torch.stack([halves & 15, halves >> 4], 2).view(inputs, whole)
    if whole == len(packed):
        return levels
    pairs = packed[whole:].view(inputs, -1)
    rest = torch.stack([pairs & 15, pairs >> 4], 2).view(inputs, -1)
    return torch.cat([levels, rest], dim=1)


def dense_int4(packed: Tensor, scales: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """The dense weight [K, N] of packed int4 weights."""
    levels = unpack_levels(packed, block).view(torch.int8).sub_(8)
    dense = levels.to(dtype).view(-1, GROUP, len(packed))
    scale, middle = (part.to(dtype).contiguous()[:, None] for part in scales.unbind(-1))
    return torch.addcmul(middle, dense, scale, out=dense).view(levels.shape)


def slices(weight: Tensor) -> list[slice]:
    """Slices of rows of `weight`, PACKED_BYTES each, in whole blocks; the last may be smaller."""
    step = max(1, PACKED_BYTES // (4 * BLOCK * weight.shape[1])) * BLOCK
    return [slice(start, start + step) for start in range(0, len(weight), step)]
