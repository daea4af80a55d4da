"""The vision tower without the layers that nobody reads."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


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


def encoder_of(model: Any) -> Any:
    """The object that computes `get_image_features`: the model, or a ShorterEncoder of it."""
    tower: Any = getattr(getattr(model, "model", None), "vision_tower", None)
    state = getattr(model.config, "vision_feature_layer", None)
    if (
        tower is None
        or not isinstance(state, int)
        or tower.config.model_type != "clip_vision_model"
    ):
        return model  # most other towers normalize their last hidden state
    every: int = tower.config.num_hidden_layers
    read = state if state >= 0 else every + 1 + state
    return ShorterEncoder(model, read) if 0 < read < every else model


def cut_off(tower: Any, layers: int) -> Any:
    """A copy of a vision tower without its layers from `layers` on; it shares all weights."""
    tensors = [*tower.parameters(), *tower.buffers()]
    twin = copy.deepcopy(tower, {id(tensor): tensor for tensor in tensors})
    lists = [name for name, module in twin.named_modules() if isinstance(module, nn.ModuleList)]
    (place,) = lists
    twin.set_submodule(place, twin.get_submodule(place)[:layers])
    twin.config.num_hidden_layers = layers
    return twin
