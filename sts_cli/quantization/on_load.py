"""Packs a language model's Linear layers while transformers loads them, one weight at a time.

transformers takes other packages' quantization methods as a config and a quantizer, registered by
name. The import of this module registers ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from sts_cli.machine.runtime import give_back_memory
from sts_cli.quantization.packed import PackedLinear, Precision, fits, pack

METHOD = "sts_packed"
SPARE = 64_000_000  # bytes of packed dense weights after which free memory is returned


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """The entry in a model's config: the precision of the weights, and the dtype of the scales."""

    def __init__(self, precision: Precision, dtype: str, **kwargs: Any):
        self.quant_method = METHOD
        self.precision: Precision = precision
        self.dtype = dtype


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Replaces Linear layers by packed ones, then packs each weight when it is loaded."""

    quantization_config: PackedConfig

    def __init__(self, quantization_config: PackedConfig, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        self.pack = Pack(quantization_config)

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        settings = self.quantization_config
        for name, layer in list(decoder_linears(model)):
            if fits(layer, settings.precision):
                with torch.device("meta"):
                    packed = PackedLinear(
                        layer.in_features,
                        layer.out_features,
                        layer.bias is not None,
                        settings.precision,
                        getattr(torch, settings.dtype),
                    )
                if not self.pre_quantized:  # some versions cast a weight to the dtype found here
                    packed.weight = layer.weight
                model.set_submodule(name, packed)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        give_back_memory()
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        layer, _, part = param_name.rpartition(".")
        return part == "weight" and isinstance(model.get_submodule(layer), PackedLinear)

    def get_quantize_ops(self) -> ConversionOps:
        return self.pack

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


class Pack(ConversionOps):
    """Converts the dense weight of one layer to its packed weight and scales."""

    def __init__(self, settings: PackedConfig):
        self.settings = settings
        self.converted = 0  # bytes of dense weights since memory was returned

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], model: Any = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        tensors = {}
        for name, value in input_dict.items():
            dense = value[0] if isinstance(value, list) else value
            layer = model.get_submodule(name.rpartition(".")[0])
            if dense.shape != (layer.out_features, layer.in_features):
                tensors[name] = dense  # `wrong_shapes` reports it
                continue
            packed, scales = pack(
                dense, self.settings.precision, getattr(torch, self.settings.dtype)
            )
            tensors[name] = packed
            tensors[f"{name.removesuffix('weight')}scales"] = scales
            self.converted += dense.nbytes
        if self.converted > SPARE:  # the free memory lies in pieces between packed weights
            give_back_memory()
            self.converted = 0
        return tensors


def decoder_linears(model: Any) -> list[tuple[str, nn.Linear]]:
    """Names and Linear layers of the language model, without head, projector and vision tower."""
    decoder = model.get_decoder()
    inside = {id(layer) for layer in decoder.modules()}
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and id(layer) in inside
    ]
