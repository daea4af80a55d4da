"""What transformers is told so that it quantizes a model while loading it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from sts_cli.families import skeleton
from sts_cli.profile import Quantize
from sts_cli.quantization.on_load import PackedConfig, decoder_linears


def quantization_config(
    quantize: Quantize, config: Any, device: torch.device, dtype: torch.dtype
) -> Any | None:
    """For `from_pretrained`: None without quantization, our own on a CPU, else bitsandbytes.

    Only the language model's layers are quantized: the vision tower, the projector and the head
    keep `dtype`. bitsandbytes does NF4 on a CPU too, slowly.
    """
    if quantize == "none":
        return None
    if device.type == "cpu" and quantize in ("int8", "int4"):
        return PackedConfig(quantize, str(dtype).removeprefix("torch."))
    kept = dense_linears(config)
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def dense_linears(config: Any) -> list[str]:
    """Names of the Linears that stay as they are: all outside the language model's layers."""
    model = skeleton(config)
    shrunk = {name for name, _ in decoder_linears(model)}
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name not in shrunk
    ]
