"""What transformers is told so that it quantizes a model while loading it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from sts_cli.errors import ModelError
from sts_cli.families import skeleton
from sts_cli.profile import Quantize
from sts_cli.quantization.on_load import PackedConfig, decoder_linears
from sts_cli.quantization.packed import fits

LEAST = 0.5  # of the layers' parameters: quantizing fewer would not be what the user asked for


def quantization_config(
    quantize: Quantize, config: Any, device: torch.device, dtype: torch.dtype
) -> Any:
    """For `from_pretrained`: our own config on a CPU, else that of bitsandbytes.

    Only the language model's layers are quantized: the vision tower, the projector and the head
    keep `dtype`. bitsandbytes does NF4 on a CPU too, slowly. Raises ModelError for a model most of
    whose layers would stay as they are.
    """
    model = skeleton(config)
    packed = device.type == "cpu" and quantize in ("int8", "int4")
    shrunk = {
        name: layer
        for name, layer in decoder_linears(model)
        if not packed or fits(layer, quantize)  # type: ignore[arg-type]
    }
    check_share(shrunk, model, quantize)
    if packed:
        return PackedConfig(quantize, str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
    dense = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name not in shrunk
    ]
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=dense)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=dense,
    )


def check_share(shrunk: dict[str, torch.nn.Linear], model: Any, quantize: Quantize) -> None:
    """Raise ModelError unless the Linears `shrunk` hold most of the language model's layers."""
    held = sum(layer.weight.numel() for layer in shrunk.values())
    every = sum(one.numel() for one in model.get_decoder().layers.parameters())
    if held < LEAST * every:
        raise ModelError(
            f"--quantize {quantize} would reach only {held / every:.0%} of the language model's "
            f"layers: the rest are no Linear layers, as in a mixture of experts, or of widths that "
            f"{quantize} does not take. Use --quantize none or a smaller model."
        )
