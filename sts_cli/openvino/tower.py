"""Images to features with the vision tower and the projector compiled by OpenVINO."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn

from sts_cli.openvino.kept import Shelf
from sts_cli.openvino.ready import NotConvertible
from sts_cli.openvino.spans import named, traceable, traced
from sts_cli.openvino.weights import Weights, compress

TOWERS = ("vision_tower", "vision_model")
PROJECTORS = ("multi_modal_projector", "connector")


class OpenVinoTower:
    """A model's `get_image_features`, in which the tower and the projector are compiled.

    What a family does around them (tiles cut out, joined, and put in order) is transformers' own
    code, run on a twin of the model that has these two in their places. They are compiled for
    tiles of one shape, any number of them. Qwen's towers take patches of any number and are
    refused with NotConvertible.
    """

    def __init__(
        self, model: Any, shelf: Shelf, settings: Mapping[str, str], weights: Weights = "none"
    ):
        inner = model.model
        tower = next((name for name in TOWERS if name in inner._modules), None)
        projector = next((name for name in PROJECTORS if name in inner._modules), None)
        if tower is None or projector is None:
            kind = type(inner).__name__
            raise NotConvertible(f"OpenVINO cannot take the vision tower of {kind}.")
        self.compiler = Compiler(shelf, settings, weights)
        asked = getattr(model.config, "vision_feature_layer", None)
        layers = [] if asked is None else [asked] if isinstance(asked, int) else list(asked)
        self.twin = copy.copy(inner)
        self.twin._modules = {
            **inner._modules,
            tower: CompiledTower(getattr(inner, tower), self.compiler, layers),
            projector: CompiledProjector(getattr(inner, projector), self.compiler),
        }

    def compile_kept(self) -> bool:
        """Compile what earlier runs converted. False if they converted nothing."""
        kept = [*self.compiler.shelf.names("tower-*"), *self.compiler.shelf.names("projector-*")]
        return len(kept) > 1 and all(self.compiler.compile_kept(name) for name in kept)

    def get_image_features(self, **inputs: Tensor) -> Any:
        """As the model's own."""
        return self.twin.get_image_features(**inputs)


class Compiler:
    """Modules to compiled models, kept on the shelf by name."""

    def __init__(self, shelf: Shelf, settings: Mapping[str, str], weights: Weights):
        self.shelf, self.weights = shelf, weights
        self.settings = {"INFERENCE_NUM_THREADS": str(torch.get_num_threads()), **settings}
        self.done: dict[str, ov.CompiledModel] = {}

    def compile_kept(self, name: str) -> bool:
        """Compile the piece `name` if it is on the shelf, whole."""
        model = self.shelf.find(name)
        if model is not None:
            self.done[name] = self.shelf.compile(model, self.settings)
        return model is not None

    def run(self, name: str, module: nn.Module, given: Tensor) -> list[Tensor]:
        """The outputs of `module` for `given` [T, ...], of which T may change under one name."""

        def make() -> ov.Model:
            example = torch.randn(2, *given.shape[1:])
            model = traced(traceable(module), (example,))
            named(model, ["given"], [[-1, *given.shape[1:]]], [])
            return compress(model, self.weights, module)

        if name not in self.done:
            model = self.shelf.read(name, make)
            self.done[name] = self.shelf.compile(model, self.settings)
        found = self.done[name]([given.float().contiguous().numpy()], share_inputs=True)
        return [torch.from_numpy(found[place]).to(given.dtype) for place in range(len(found))]


class CompiledTower(nn.Module):
    """In a tower's place: only the layers that the family reads are computed."""

    def __init__(self, tower: nn.Module, compiler: Compiler, layers: list[int]):
        super().__init__()
        self.inside = [
            TowerOutputs(tower, layers)
        ]  # in a list: no submodule, no weights of its own
        self.compiler, self.layers = compiler, layers

    def forward(
        self, pixel_values: Tensor, patch_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        (inside,) = self.inside
        if patch_attention_mask is not None and not patch_attention_mask.all():
            return inside.tower(pixel_values, patch_attention_mask=patch_attention_mask, **kwargs)
        name = "tower-" + "x".join(str(size) for size in pixel_values.shape[1:])
        found = self.compiler.run(name, inside, pixel_values)
        return SimpleNamespace(
            hidden_states=dict(zip(self.layers, found, strict=False)),
            last_hidden_state=found[-1] if inside.last else None,
            pooler_output=None,
        )


class TowerOutputs(nn.Module):
    """The outputs of a tower that a family may read: hidden states, and the last after its norm."""

    def __init__(self, tower: nn.Module, layers: list[int]):
        super().__init__()
        self.tower, self.layers = tower, layers
        self.last = not layers or -1 in layers

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        found = self.tower(given, output_hidden_states=bool(self.layers), return_dict=True)
        hidden = [found.hidden_states[layer] for layer in self.layers]
        return (*hidden, *[found.last_hidden_state] * self.last)


class CompiledProjector(nn.Module):
    """In a projector's place."""

    def __init__(self, projector: nn.Module, compiler: Compiler):
        super().__init__()
        self.inside, self.compiler = [projector], compiler

    def forward(self, hidden: Tensor) -> Tensor:
        name = "projector-" + "x".join(str(size) for size in hidden.shape[1:])
        return self.compiler.run(name, self.inside[0], hidden)[0]
