"""Settings with which transformers quantizes a model while loading it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from sts_cli.errors import ModelError
from sts_cli.families import skeleton
from sts_cli.profile import Quantize
from sts_cli.quantization.on_load import PackedConfig, decoder_linears
from sts_cli.quantization.packed import fits

LEAST = 0.5  # share of the layers' parameters; if fewer can be quantized, that is an error


def quantization_config(
    quantize: Quantize, config: Any, device: torch.device, dtype: torch.dtype
) -> Any:
    """The config for `from_pretrained`: ours for int8 and int4 on a CPU, else bitsandbytes' one.

    Only the language model's layers are quantized; vision tower, projector and head keep `dtype`.
    bitsandbytes runs NF4 on a CPU too, but slowly. Raises ModelError if less than half of the
    layers' parameters can be quantized.
    """
    model = skeleton(config)
    packed = device.type == "cpu" and quantize in ("int8", "int4")
    quantized = {
        name: layer
        for name, layer in decoder_linears(model)
        if not packed or fits(layer, quantize)  # type: ignore[arg-type]
    }
    check_share(quantized, model, quantize)
    if packed:
        return PackedConfig(quantize, str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
    dense = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name not in quantized
    ]
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=dense)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=dense,
    )


def check_share(quantized: dict[str, torch.nn.Linear], model: Any, quantize: Quantize) -> None:
    """Raise ModelError if `quantized` has less than LEAST of the language model's parameters."""
    part = sum(layer.weight.numel() for layer in quantized.values())
    total = sum(parameter.numel() for parameter in model.get_decoder().layers.parameters())
    if part < LEAST * total:
        raise ModelError(
            f"--quantize {quantize} would reach only {part / total:.0%} of the language model's "
            f"layers. The others are no Linear layers (as in a mixture of experts), or {quantize} "
            f"does not support their widths. Use --quantize none or a smaller model."
        )
