"""Images to features with the vision tower and the projector compiled by OpenVINO."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sts_cli.families.encoder import (
    PATCHES,
    PROJECTORS,
    NarrowTower,
    as_output,
    narrowable,
    read_by,
    tower_name,
)
from sts_cli.openvino.compiler import Compiler
from sts_cli.openvino.kept import Shelf
from sts_cli.openvino.patches import CompiledPatches
from sts_cli.openvino.ready import NotConvertible
from sts_cli.openvino.weights import Weights
from sts_cli.profile import Narrowing


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
        self.model = model
        self.compiler = Compiler(shelf, settings, weights)
        self.twin = copy.copy(inner)
        self.compiled = compiled(model, self.compiler)
        self.twin._modules = {**inner._modules, **self.compiled}

    def narrowed(self, cut: Narrowing) -> OpenVinoTower:
        """The same with patches dropped inside the tower, compiled for the same shapes of tiles."""
        name = f"narrow-{cut.method}-{cut.keep:g}-{cut.layer(narrowable(self.model) or 0)}"
        inside = CompiledTower(NarrowTower(self.model, cut), self.compiler, name)
        for known in [name for name in self.compiler.done if name.startswith("tower-")]:
            shape = [int(size) for size in known.removeprefix("tower-").split("x")]
            inside(torch.zeros(1, *shape))
        other = copy.copy(self)
        other.twin = copy.copy(self.twin)
        other.twin._modules = {**self.twin._modules, str(tower_name(self.model)): inside}
        return other

    def compile_kept(self) -> bool:
        """Compile what earlier runs converted. False if they converted nothing."""
        kept = [*self.compiler.shelf.names("tower-*"), *self.compiler.shelf.names("projector-*")]
        return len(kept) >= len(self.compiled) and all(
            self.compiler.compile_kept(name) for name in kept
        )

    def get_image_features(self, **inputs: Tensor) -> Any:
        """As the model's own."""
        return self.twin.get_image_features(**inputs)


def compiled(model: Any, compiler: Compiler) -> dict[str, nn.Module]:
    """What takes the places of a model's tower and projector. Raises NotConvertible."""
    inner = model.model
    if hasattr(inner, PATCHES):
        return {PATCHES: CompiledPatches(getattr(inner, PATCHES), compiler)}
    tower = tower_name(model)
    projector = next((name for name in PROJECTORS if name in inner._modules), None)
    if tower is None or projector is None:
        raise NotConvertible(f"OpenVINO cannot take the vision tower of {type(inner).__name__}.")
    outputs = TowerOutputs(getattr(inner, tower), read_by(model))
    return {
        tower: CompiledTower(outputs, compiler, "tower"),
        projector: CompiledProjector(getattr(inner, projector), compiler),
    }


class CompiledTower(nn.Module):
    """In a tower's place: only the layers that the family reads are computed."""

    def __init__(self, inside: TowerOutputs | NarrowTower, compiler: Compiler, name: str):
        super().__init__()
        self.inside = [inside]  # in a list: no submodule, no weights of its own
        self.compiler, self.name = compiler, name

    def forward(
        self, pixel_values: Tensor, patch_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        (inside,) = self.inside
        if patch_attention_mask is not None and not patch_attention_mask.all():
            return as_output(
                inside, inside(pixel_values, patch_attention_mask=patch_attention_mask)
            )
        name = f"{self.name}-" + "x".join(str(size) for size in pixel_values.shape[1:])
        return as_output(inside, self.compiler.tiles(name, inside, pixel_values))


class TowerOutputs(nn.Module):
    """The outputs of a tower that a family may read: hidden states, and the last after its norm."""

    def __init__(self, tower: nn.Module, layers: list[int]):
        super().__init__()
        self.tower, self.layers = tower, layers
        self.last = not layers or -1 in layers

    def forward(self, given: Tensor, **more: Any) -> tuple[Tensor, ...]:
        asked = bool(self.layers)
        found = self.tower(given, output_hidden_states=asked, return_dict=True, **more)
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
