"""The PyTorch part of a converted model on disk: all that OpenVINO's pieces do not hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GenerationConfig

from sts_cli.families import skeleton

FILE = "rest.safetensors"


def keep_rest(model: Any, folder: Path) -> None:
    """Write the tensors of `model` that are not on the meta device, at once or not at all."""
    tensors: dict[str, Tensor] = {}
    places = set[int]()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_meta:
            shared = tensor.data_ptr() in places
            places.add(tensor.data_ptr())
            tensors[name] = tensor.clone() if shared else tensor.contiguous()
    with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as part:
        save_file(tensors, Path(part) / FILE)
        (Path(part) / FILE).replace(folder / FILE)


def read_rest(config: Any, checkpoint: Path, folder: Path, dtype: torch.dtype) -> Any | None:
    """The model of `config` whose layers and head have no weights; the others are mapped.

    None if they are not on disk, or not all of them.
    """
    try:
        tensors = load_file(folder / FILE)
    except (OSError, SafetensorError):
        return None
    model = skeleton(config, dtype)
    for name, tensor in tensors.items():
        place, _, leaf = name.rpartition(".")
        module = model.get_submodule(place)
        is_parameter = leaf in module._parameters
        setattr(module, leaf, nn.Parameter(tensor, False) if is_parameter else tensor)
    text, head = model.get_decoder(), model.get_output_embeddings()
    without = {id(part) for top in (text.layers, text.norm, head) for part in top.modules()}
    others = [module for module in model.modules() if id(module) not in without]
    if any(tensor.is_meta for module in others for tensor in tensors_of(module)):
        return None
    if (checkpoint / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(checkpoint)
    return model.eval().requires_grad_(False)


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that are mere attributes of a module."""
    for values in (module._parameters, module._buffers, vars(module)):
        yield from (value for value in values.values() if isinstance(value, Tensor))
