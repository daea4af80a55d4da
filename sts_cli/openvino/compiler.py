"""Pieces of a vision tower: converted once, kept on the shelf, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn

from sts_cli.openvino.kept import Shelf
from sts_cli.openvino.spans import named, traceable, traced
from sts_cli.openvino.weights import Weights, compress


class Compiler:
    """Modules to compiled models, kept on the shelf by name."""

    def __init__(self, shelf: Shelf, settings: Mapping[str, str], weights: Weights):
        self.shelf, self.settings, self.weights = shelf, settings, weights
        self.done: dict[str, ov.CompiledModel] = {}

    def compile_kept(self, name: str) -> bool:
        """Compile the piece `name` if it is on the shelf, whole."""
        model = self.shelf.find(name)
        if model is not None:
            self.done[name] = self.shelf.compile(model, self.settings)
        return model is not None

    def tiles(self, name: str, module: nn.Module, given: Tensor) -> list[Tensor]:
        """The outputs of `module` for `given` [T, ...], of which T may change under one name."""

        def make() -> ov.Model:
            model = traced(traceable(module), (torch.randn(2, *given.shape[1:]),))
            named(model, ["given"], [[-1, *given.shape[1:]]], [])
            return compress(model, self.weights, module)

        return self.run(name, make, [given])

    def run(self, name: str, make: Callable[[], ov.Model], given: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for `given`, in the first one's dtype; `make` converts the piece."""
        if name not in self.done:
            model = self.shelf.read(name, make)
            self.done[name] = self.shelf.compile(model, self.settings)
        found = self.done[name]([as_array(one) for one in given], share_inputs=True)
        return [torch.from_numpy(found[place]).to(given[0].dtype) for place in range(len(found))]


def as_array(tensor: Tensor) -> Any:
    """What OpenVINO takes: floating-point numbers are float32."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.contiguous().numpy()
