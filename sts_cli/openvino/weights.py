"""Small weights in OpenVINO's models: constants that its CPU plugin multiplies as they are."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import openvino as ov
import torch
from openvino import op
from openvino import opset13 as ops
from torch import Tensor, nn

from sts_cli.quantization.packed import GROUP, pack_int8, slices

Weights = Literal["none", "int8", "int4"]
HALVES = {torch.bfloat16: ov.Type.bf16, torch.float16: ov.Type.f16}
TINY = 1e-6  # the least scale: float16 holds it, and its inverse is finite


def compress(model: ov.Model, weights: Weights, layer: nn.Module) -> ov.Model:
    """The model of `layer` with the matrices of its Linears in `weights`.

    With "none" they keep the layer's own precision.
    """
    dtype = next(layer.parameters()).dtype
    if weights == "none" and dtype not in HALVES:
        return model
    for constant in model.get_ops():
        if constant.get_type_name() == "Constant" and is_linear(constant):
            weight = torch.from_numpy(np.array(constant.data))
            constant.output(0).replace(small(weight, weights, dtype).output(0))
    model.validate_nodes_and_infer_types()
    return model


def is_linear(constant: Any) -> bool:
    """A matrix [N, K] that rows [..., K] are multiplied with."""
    users = list(constant.output(0).get_target_inputs())
    return (
        len(constant.shape) == 2
        and len(users) == 1
        and users[0].get_index() == 1
        and users[0].get_node().get_type_name() == "MatMul"
    )


def small(weight: Tensor, weights: Weights, dtype: torch.dtype) -> Any:
    """A node that gives `weight` [N, K], of the layer's `dtype`, out of fewer bytes."""
    if weights == "int4" and weight.shape[1] % GROUP == 0:
        return int4(weight)
    if weights != "none":
        return int8(weight)
    bits = weight.to(dtype).view(torch.uint16).numpy()
    return ops.convert(raw(bits, weight.shape, HALVES[dtype]), "f32")


def int8(weight: Tensor) -> Any:
    packed, scales = pack_int8(weight, torch.float32)
    return ops.multiply(
        ops.convert(raw(packed.numpy(), weight.shape, ov.Type.i8), "f32"),
        ops.constant(scales[:, None].numpy()),
    )


def int4(weight: Tensor) -> Any:
    """Levels 0 to 15 with a scale and a zero point, itself a level, for each group of a row.

    Not `pack_int4`: with zero points between the levels the CPU plugin cannot multiply integers,
    and a layer takes three times as long.
    """
    outputs, groups = weight.shape[0], weight.shape[1] // GROUP
    levels = np.empty((outputs, groups, GROUP), dtype=np.uint8)
    zeros = np.empty((outputs, groups, 1), dtype=np.uint8)
    scales = np.empty((outputs, groups, 1), dtype=np.float16)
    for rows in slices(weight):
        part = weight[rows].view(-1, groups, GROUP)
        low, high = part.aminmax(dim=-1, keepdim=True)
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low).div_(15).clamp_(min=TINY).half()
        zero = (-low / scale).round_().clamp_(0, 15)
        scales[rows], zeros[rows] = scale.numpy(), zero.numpy()
        levels[rows] = (part / scale).round_().add_(zero).clamp_(0, 15).numpy()
    steps = ops.subtract(ops.convert(nibbles(levels), "f16"), ops.convert(nibbles(zeros), "f16"))
    whole = ops.reshape(ops.multiply(steps, ops.constant(scales)), list(weight.shape), False)
    return ops.convert(whole, "f32")


def nibbles(values: np.ndarray) -> Any:
    """A constant of `values` below 16, two in a byte."""
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, dtype=np.uint8))
    return raw(flat[0::2] | flat[1::2] << 4, values.shape, ov.Type.u4)


def raw(values: np.ndarray, shape: Any, kind: ov.Type) -> Any:
    """A constant that owns its bytes."""
    values = np.ascontiguousarray(values)
    return op.Constant(ov.Tensor(values, ov.Shape(list(shape)), kind), shared_memory=False)
