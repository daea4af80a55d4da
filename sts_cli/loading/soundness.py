"""Checks of loaded weights: their shapes, and that all values are finite."""

from __future__ import annotations

from typing import Any

import torch

from sts_cli.quantization.packed import PackedLinear

BITSANDBYTES = ("Linear4bit", "Linear8bitLt")


def wrong_shapes(model: Any) -> list[str]:
    """Names of quantized weights of a wrong shape; transformers only checks dense ones."""
    return [f"{name}.weight" for name, layer in model.named_modules() if has_wrong_shape(layer)]


def has_wrong_shape(layer: Any) -> bool:
    if isinstance(layer, PackedLinear):
        return layer.weight.is_floating_point() or layer.weight.shape != layer.packed_shape
    if type(layer).__name__ not in BITSANDBYTES:
        return False
    state = getattr(layer.weight, "quant_state", None)  # holds the shape of flat 4-bit weights
    shape = layer.weight.shape if state is None else state.shape
    return tuple(shape) != (layer.out_features, layer.in_features)


def non_finite(model: Any) -> list[str]:
    """Names of the weights with a NaN or an infinity. Reads about 15 GB a second."""
    return [
        name
        for name, weight in model.state_dict().items()
        if isinstance(weight, torch.Tensor)
        and weight.is_floating_point()
        and weight.itemsize > 1  # 8-bit floats belong to other quantization methods
        and weight.numel()
        and not torch.stack(torch.aminmax(weight)).isfinite().all()
    ]
