"""Vision towers without the layers that nobody reads, and on fewer patches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from sts_cli.families.narrow import Narrow
from sts_cli.profile import Narrowing

TOWERS = ("vision_tower", "vision_model")
PATCHES = "visual"  # a tower for patches, with its own projector
PROJECTORS = ("multi_modal_projector", "connector")
OF_TILES = (  # model_types of towers whose layers take one tile a row
    "clip_vision_model",
    "siglip_vision_model",
    "internvl_vision",
    "idefics3_vision",
    "smolvlm_vision",
)


class ShorterEncoder:
    """A model's `get_image_features`, up to the hidden state that the family reads.

    LLaVA reads the last but one, so its tower's last layer is computed for nothing. The features
    are the same numbers.
    """

    def __init__(self, model: Any, layers: int):
        """`layers` of the vision tower are run."""
        inner = model.model
        self.layers = layers
        self.twin = copy.copy(inner)
        self.twin._modules = {**inner._modules, "vision_tower": cut_off(inner.vision_tower, layers)}

    def get_image_features(self, **inputs: Any) -> Any:
        """As the model's own."""
        return self.twin.get_image_features(**inputs, vision_feature_layer=self.layers)


class NarrowEncoder:
    """A model's `get_image_features`, with patches dropped inside its vision tower."""

    def __init__(self, model: Any, cut: Narrowing):
        inner = model.model
        self.twin = copy.copy(inner)
        tower = NarrowTower(model, cut)
        self.twin._modules = {**inner._modules, tower_name(model): InPlace(tower)}

    def get_image_features(self, **inputs: Any) -> Any:
        """As the model's own."""
        return self.twin.get_image_features(**inputs)


class NarrowTower(nn.Module):
    """A vision tower's outputs that the family may read, with patches dropped inside.

    Only for a model that has `narrowable` layers. It shares all weights.
    """

    def __init__(self, model: Any, cut: Narrowing):
        super().__init__()
        name = tower_name(model)
        layers = narrowable(model)
        assert name is not None and layers is not None
        self.layers = read_by(model)
        self.last = not self.layers or -1 in self.layers
        self.tower = twin_of(getattr(model.model, name))
        place = layers_place(self.tower)
        every = list(self.tower.get_submodule(place))  # type: ignore[arg-type]
        first = cut.layer(layers) - 1
        self.narrow = Narrow(every[first:layers], cut)
        self.tower.set_submodule(place, nn.ModuleList([*every[:first], self.narrow]))

    def forward(self, given: Tensor, **more: Any) -> tuple[Tensor, ...]:
        """The hidden state that the family reads, if any, and the last one after its norm."""
        found: list[Tensor] = []
        hook = self.narrow.register_forward_hook(lambda _, __, left: found.append(left))
        last = self.tower(given, **more).last_hidden_state
        hook.remove()
        return (*found[: len(self.layers)], *[last] * self.last)


class InPlace(nn.Module):
    """In a tower's place: its outputs by name."""

    def __init__(self, inside: NarrowTower):
        super().__init__()
        self.inside = inside

    def forward(
        self, pixel_values: Tensor, patch_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        masked = patch_attention_mask is not None
        more = {"patch_attention_mask": patch_attention_mask} if masked else {}
        return as_output(self.inside, self.inside(pixel_values, **more))


def as_output(tower: Any, found: Sequence[Tensor]) -> Any:
    """What `tower`, with its `layers` and `last`, has found, in the form of a tower's output."""
    return SimpleNamespace(
        hidden_states=dict(zip(tower.layers, found, strict=False)),
        last_hidden_state=found[-1] if tower.last else None,
        pooler_output=None,
    )


def encoder_of(model: Any) -> Any:
    """The object that computes `get_image_features`: the model, or a ShorterEncoder of it."""
    tower: Any = getattr(getattr(model, "model", None), "vision_tower", None)
    if tower is None or tower.config.model_type != "clip_vision_model":
        return model  # most other towers normalize their last hidden state
    asked = read_by(model)
    every: int = tower.config.num_hidden_layers
    layers = layers_run(every, asked)
    return ShorterEncoder(model, layers) if len(asked) == 1 and layers < every else model


def narrowed(model: Any, encoder: Any, cut: Narrowing) -> Any:
    """`encoder` of `model`, with patches dropped inside its vision tower, which is narrowable."""
    own = getattr(encoder, "narrowed", None)  # of a compiled one
    return NarrowEncoder(model, cut) if own is None else own(cut)


def narrowable(model: Any) -> int | None:
    """The number of layers that a vision tower is run for; None if no patches can be dropped.

    They can in towers whose layers take one tile [N, D] a row, if one hidden state is read.
    """
    name, asked = tower_name(model), read_by(model)
    if name is None or len(asked) > 1:
        return None
    config: Any = getattr(model.model, name).config
    return layers_run(config.num_hidden_layers, asked) if config.model_type in OF_TILES else None


def tower_name(model: Any) -> str | None:
    """The name in `model.model` of a vision tower for tiles; None if its tower takes patches."""
    modules = getattr(getattr(model, "model", None), "_modules", {})
    return next((name for name in TOWERS if name in modules), None)


def read_by(model: Any) -> list[int]:
    """The hidden states that the family reads; none if it reads the last, after its norm."""
    asked = getattr(model.config, "vision_feature_layer", None)
    return [] if asked is None else [asked] if isinstance(asked, int) else list(asked)


def layers_run(every: int, asked: Sequence[int]) -> int:
    """The layers of `every` that must be run for the hidden states `asked`."""
    return max((state if state >= 0 else every + 1 + state for state in asked), default=every)


def cut_off(tower: Any, layers: int) -> Any:
    """A copy of a vision tower without its layers from `layers` on; it shares all weights."""
    twin = twin_of(tower)
    place = layers_place(twin)
    twin.set_submodule(place, twin.get_submodule(place)[:layers])
    twin.config.num_hidden_layers = layers
    return twin


def twin_of(tower: Any) -> Any:
    """A copy of a module that shares all weights."""
    tensors = [*tower.parameters(), *tower.buffers()]
    return copy.deepcopy(tower, {id(tensor): tensor for tensor in tensors})


def layers_place(tower: nn.Module) -> str:
    """The name of a vision tower's list of layers; raises ValueError if it has more lists."""
    lists = [name for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)]
    (place,) = lists
    return place
