"""Patches dropped inside a vision tower: as if they were masked, and rebuilt by our arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import tiny
import torch
from torch import Tensor

from sts_cli.checkpoints.sources import find
from sts_cli.engine.engine import Engine
from sts_cli.errors import ProfileError
from sts_cli.families.encoder import NarrowTower, narrowable, narrowed
from sts_cli.loading.model import load
from sts_cli.profile import CHOICES, Choice, Narrowing, Profile

FAMILIES = [name for name in tiny.FAMILIES if "qwen" not in name]
READ = {"llava": 2, "llava_next": 2}  # layers, of 3
CLASS_TOKEN = ("llava", "llava_next", "internvl")
NORMS = {"internvl": "layernorm", "gemma3": "post_layernorm"}  # of the families that read the last
NORMS |= {"smolvlm": "post_layernorm", "idefics3": "post_layernorm"}
GRID = [5, 7, 13, 15]  # every second patch of every second row of 4 x 4


def built(family: str) -> Any:
    """A model whose tower is calm, so that rounding does not grow, and has no matrix of zeros."""
    model = tiny.build(family)
    with torch.no_grad():
        for parameter in tower_of(model).parameters():
            if parameter.ndim > 1:
                parameter.div_(4)
        for parameter in model.model.parameters():
            if not parameter.any() and parameter.ndim > 1:
                parameter.normal_()
    return model


def tower_of(model: Any) -> Any:
    modules = model.model._modules
    return modules.get("vision_tower") or modules["vision_model"]


def layers_of(tower: Any) -> Any:
    return next(m for m in tower.modules() if isinstance(m, torch.nn.ModuleList))


def given(family: str) -> dict[str, Tensor]:
    return tiny.together(family, [[tiny.picture(family, seed)] for seed in (0, 20)])


@pytest.mark.parametrize("method", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_all_patches_gives_the_models_own_features(family: str, method: Choice):
    model = built(family)
    inputs = given(family)
    encoder = narrowed(model, model, Narrowing(method, 1.0, 0.3))
    with torch.inference_mode():
        found = encoder.get_image_features(**inputs).pooler_output
        wanted = model.get_image_features(**inputs).pooler_output
    for one, other in zip(found, wanted, strict=True):
        assert other.any()
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("method", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_patches_equals_masking_them(family: str, method: Choice):
    model = built(family)
    tower = tower_of(model)
    pixels = torch.randn(2, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = NarrowTower(model, Narrowing(method, 0.5, 0.3))(pixels)
        expected = rebuilt(tower, pixels, method, READ.get(family, 3), family)
        if family in NORMS:
            expected = tower.get_submodule(NORMS[family])(expected)
    one = found[-1] if family in NORMS else found[0]
    assert (one - expected).abs().max() <= 1e-5 * expected.abs().max()


def rebuilt(tower: Any, pixels: Tensor, method: str, read: int, family: str) -> Tensor:
    """The hidden state after `read` layers, with 8 of 16 patches masked after the first layer."""
    states = tower(pixels, output_hidden_states=True).hidden_states
    before, after = states[0], states[1]
    skip = int(family in CLASS_TOKEN)
    rows = []
    for row in range(len(pixels)):
        patches = {patch: after[row, patch + skip] for patch in range(16)}
        change = {p: float((at - before[row, p + skip]).norm()) for p, at in patches.items()}
        alone = {
            p: min(float((at - patches[other]).norm()) for other in GRID)
            for p, at in patches.items()
        }
        if method == "change":
            rows.append(sorted(patches, key=lambda patch: -change[patch])[:8])
        else:
            others = sorted(set(patches) - set(GRID), key=lambda patch: -alone[patch])
            rows.append([*GRID, *others[:4]])
    bias = torch.zeros(len(pixels), 1, 16 + skip, 16 + skip)
    owners: list[dict[int, int]] = []  # of each dropped patch the nearest that stays
    for row, kept in enumerate(rows):
        owner = {}
        for patch in set(range(16)) - set(kept):
            gaps = {one: after[row, one + skip] - after[row, patch + skip] for one in kept}
            owner[patch] = min(gaps, key=lambda one: float(gaps[one].norm()))
            bias[row, :, :, patch + skip] = float("-inf")
        if family != "internvl":  # whose layers take no mask
            for one in kept:
                size = 1 + list(owner.values()).count(one)
                bias[row, :, :, one + skip] = log(size)
        owners.append(owner)
    with masked(layers_of(tower)[1:read], bias):
        end = tower(pixels, output_hidden_states=True).hidden_states[read].clone()
    moved = end - after
    for row, owner in enumerate(owners):
        for patch, near in owner.items():
            end[row, patch + skip] = after[row, patch + skip] + moved[row, near + skip]
    return end


@contextmanager
def masked(layers: Any, bias: Tensor) -> Iterator[None]:
    """The layers' attention with `bias` on its logits."""

    def add(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": bias}

    attentions = [getattr(layer, "self_attn", None) or layer.attention for layer in layers]
    hooks = [one.register_forward_pre_hook(add, with_kwargs=True) for one in attentions]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_a_masked_part_of_a_tile_stays_masked(family: str):
    """What lies under the padding of a tile changes no other patch, dropped or not."""
    model = built(family)
    tower = NarrowTower(model, Narrowing("likeness", 1.0, 0.3))
    pixels = torch.randn(1, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(2))
    seen = torch.ones(1, 4, 4, dtype=torch.bool)
    seen[:, 3] = False
    with torch.inference_mode():
        (found,) = tower(pixels, patch_attention_mask=seen)
        own = tower_of(model)(pixels, patch_attention_mask=seen).last_hidden_state
        whole = tower_of(model)(pixels).last_hidden_state
    assert (found - own)[:, :12].abs().max() <= 1e-5 * own.abs().max()
    assert (found - whole)[:, :12].abs().max() > 1e-3 * own.abs().max()


def test_the_tower_of_the_model_stays_as_it_is():
    model = built("llava")
    inputs = given("llava")
    before = model.get_image_features(**inputs).pooler_output
    encoder = narrowed(model, model, Narrowing("likeness", 0.5, 0.3))
    encoder.get_image_features(**inputs)
    after = model.get_image_features(**inputs).pooler_output
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    own = {id(parameter) for parameter in model.parameters()}
    shared = encoder.twin._modules["vision_tower"].parameters()
    assert all(id(parameter) in own for parameter in shared)


def test_towers_for_patches_and_several_states_are_not_narrowable():
    assert narrowable(tiny.build("qwen2_5_vl")) is None
    assert narrowable(tiny.build("llava", vision_feature_layer=[-2, -1])) is None
    assert narrowable(tiny.build("llava")) == 2


@pytest.mark.parametrize(
    ("family", "depth", "words"),
    [
        ("qwen2_vl", 0.3, "inside the vision tower, which sts cannot do for '"),
        ("llava", 0.9, "depth 0.9 leaves none of the 2 layers of the vision tower of '"),
    ],
)
def test_a_profile_that_a_tower_cannot_honour_is_refused(
    family: str, depth: float, words: str, tmp_path: Path
):
    folder = checkpoints.write(family, tmp_path / "m")
    engine = Engine(load(find(str(folder)), dtype="float32"))
    profile = Profile("mine", encoder=Narrowing("likeness", 0.5, depth))
    with pytest.raises(ProfileError) as caught:
        engine.check(profile)
    assert words in str(caught.value) and "\n" not in str(caught.value)
