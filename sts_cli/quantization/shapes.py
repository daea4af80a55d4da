"""Whether quantized weights have the shapes that the model's config asks for."""

from __future__ import annotations

from typing import Any

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
