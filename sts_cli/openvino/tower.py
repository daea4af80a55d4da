"""Images to features with the vision tower and the projector compiled by OpenVINO."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from sts_cli.openvino.compiler import Compiler
from sts_cli.openvino.kept import Shelf
from sts_cli.openvino.patches import CompiledPatches
from sts_cli.openvino.ready import NotConvertible
from sts_cli.openvino.weights import Weights

TOWERS = ("vision_tower", "vision_model")
PROJECTORS = ("multi_modal_projector", "connector")
PATCHES = "visual"  # a tower with its own projector


class OpenVinoTower:
    """A model's `get_image_features`, in which the tower and the projector are compiled.

    What a family does around them (tiles cut out, joined, and put in order) is transformers' own
    code, run on a twin of the model that has these two in their places. They are compiled for
    tiles of one shape, any number of them; Qwen's towers for images of any sizes.
    """

    def __init__(
        self, model: Any, shelf: Shelf, settings: Mapping[str, str], weights: Weights = "none"
    ):
        inner = model.model
        self.compiler = Compiler(shelf, settings, weights)
        self.twin = copy.copy(inner)
        self.compiled = compiled(model.config, inner, self.compiler)
        self.twin._modules = {**inner._modules, **self.compiled}

    def compile_kept(self) -> bool:
        """Compile what earlier runs converted. False if they converted nothing."""
        kept = [*self.compiler.shelf.names("tower-*"), *self.compiler.shelf.names("projector-*")]
        return len(kept) >= len(self.compiled) and all(
            self.compiler.compile_kept(name) for name in kept
        )

    def get_image_features(self, **inputs: Tensor) -> Any:
        """As the model's own."""
        return self.twin.get_image_features(**inputs)


def compiled(config: Any, inner: Any, compiler: Compiler) -> dict[str, nn.Module]:
    """What takes the places of a model's tower and projector. Raises NotConvertible."""
    if hasattr(inner, PATCHES):
        return {PATCHES: CompiledPatches(getattr(inner, PATCHES), compiler)}
    tower = next((name for name in TOWERS if name in inner._modules), None)
    projector = next((name for name in PROJECTORS if name in inner._modules), None)
    if tower is None or projector is None:
        raise NotConvertible(f"OpenVINO cannot take the vision tower of {type(inner).__name__}.")
    asked = getattr(config, "vision_feature_layer", None)
    layers = [] if asked is None else [asked] if isinstance(asked, int) else list(asked)
    return {
        tower: CompiledTower(getattr(inner, tower), compiler, layers),
        projector: CompiledProjector(getattr(inner, projector), compiler),
    }


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
        found = self.compiler.tiles(name, inside, pixel_values)
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
        return self.compiler.tiles(name, self.inside[0], hidden)[0]
