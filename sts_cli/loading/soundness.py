"""Whether weights that were read are sound: of the shapes asked for, and numbers at all."""

from __future__ import annotations

from typing import Any

import torch

from sts_cli.quantization.packed import PackedLinear

BITSANDBYTES = ("Linear4bit", "Linear8bitLt")


def misshapen(model: Any) -> list[str]:
    """Names of quantized weights of a wrong shape; transformers compares only dense ones."""
    return [f"{name}.weight" for name, layer in model.named_modules() if is_misshapen(layer)]


def is_misshapen(layer: Any) -> bool:
    if isinstance(layer, PackedLinear):
        return layer.weight.is_floating_point() or layer.weight.shape != layer.packed_shape
    if type(layer).__name__ not in BITSANDBYTES:
        return False
    state = getattr(layer.weight, "quant_state", None)  # of 4 bits, which are kept in one row
    shape = layer.weight.shape if state is None else state.shape
    return tuple(shape) != (layer.out_features, layer.in_features)


def not_numbers(model: Any) -> list[str]:
    """Names of the weights that hold a NaN or an infinity. Reads some 15 GB a second."""
    return [
        name
        for name, weight in model.state_dict().items()
        if isinstance(weight, torch.Tensor)
        and weight.is_floating_point()
        and weight.itemsize > 1  # 8 bits: those of others' quantization
        and weight.numel()
        and not torch.stack(torch.aminmax(weight)).isfinite().all()
    ]
