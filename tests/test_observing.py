"""The attention inside vision encoders, against transformers' own eager attention."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from sts_cli.families import adapter, observed
from sts_cli.families.default import Family, Pixels
from sts_cli.families.encoder import layers_run, read_by
from sts_cli.pruning import OF_ENCODER

CLASS_TOKEN = ("llava", "llava_next", "internvl")  # the tiny models whose encoder has one
READ = {"llava": 1, "llava_next": 1, "qwen2_5_vl": 1}  # the layer; the last, 2, for others
BLOCKS = ("internvl", "smolvlm", "idefics3", "gemma3")  # 4 x 4 patches, 2 x 2 of them a token
WINDOWS = {6: [0, 1, 3, 4, 2, 5]}  # Qwen2.5-VL's order of 2 x 3 tokens in windows of 2 x 2


def family_of(model: Any, name: str) -> Family:
    tile = 4 if name in BLOCKS else None
    return adapter(model, SimpleNamespace(tokenizer=None, image_seq_length=tile))


def picture(name: str, model: Any, seed: int) -> Pixels:
    one = tiny.picture(name, seed)
    count = sum(tiny.placeholders(name, model, one))
    return Pixels(tiny.together(name, [[one]]), "", count, (tiny.SIDE, tiny.SIDE))


def eager(model: Any, pixels: Pixels) -> list[torch.Tensor]:
    """The encoder's attention, mean over heads: [T, P, P] for each call, in order."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    softmax, found = torch.nn.functional.softmax, []

    def watched(values: torch.Tensor, *given: Any, **settings: Any) -> torch.Tensor:
        weights = softmax(values, *given, **settings)
        found.append(weights.float().mean(1))
        return weights

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(torch.nn.functional, "softmax", watched)
        other.get_image_features(**pixels.inputs)
    return found


def expected(name: str, attention: list[torch.Tensor], need: str, tokens: int) -> torch.Tensor:
    """What each token of the first tile gets, by arithmetic of its own."""
    read = READ.get(name, 2)
    early = 1 if name == "qwen2_5_vl" else 0
    if name == "qwen2_5_vl":  # all windows of its first layer are calls, too
        read = early = len(attention) // 2
    layer = attention[early if need == "shallow" else read][0]
    first = int(name in CLASS_TOKEN)
    rows = layer[:1] if first and need != "patches" else layer[first:]
    got = rows.mean(0)[first:]
    if name in BLOCKS:
        return got.view(2, 2, 2, 2).mean((1, 3)).flatten()
    if name.startswith("qwen"):
        order = WINDOWS.get(tokens, range(tokens)) if name == "qwen2_5_vl" else range(tokens)
        return got.view(-1, 4).mean(1)[torch.tensor(list(order)).argsort()]
    return got


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_attention_in_the_encoder_equals_eager_attention(name: str):
    model = tiny.build(name)
    assert observed(name, model.config.vision_config.model_type)
    family = family_of(model, name)
    pixels = [picture(name, model, seed) for seed in (0, 10, 1)]  # 10 has another size, if any can
    with torch.inference_mode():
        plain = family.encode(pixels)
        seen = family.encode(pixels, watch=OF_ENCODER)
    for given, one, other in zip(pixels, plain, seen, strict=True):
        assert torch.equal(one.features, other.features) and not one.attention
        attention = eager(model, given)
        for need in OF_ENCODER:
            got, wanted = other.attention[need], expected(name, attention, need, given.count)
            assert got.shape == (given.count,) and got.dtype == torch.float32
            torch.testing.assert_close(got[: len(wanted)], wanted, atol=1e-6, rtol=1e-5)


def test_a_newline_token_gets_nothing():
    model = tiny.build("llava_next")
    given = picture("llava_next", model, 0)
    with torch.inference_mode():
        (one,) = family_of(model, "llava_next").encode([given], watch=("encoder",))
    got = one.attention["encoder"]  # 16 of the whole image, then 8 rows of 8 tokens and a newline
    assert got[16:].view(8, 9)[:, 8].count_nonzero() == 0
    assert got[16:].view(8, 9)[:, :8].count_nonzero() > 48


def test_two_images_that_are_not_cut_up_are_observed_each():
    """LLaVA-OneVision passes several images of a question on as pairs."""
    model = tiny.build("llava_onevision")
    family = family_of(model, "llava_onevision")
    given = picture("llava_onevision", model, 0)
    twice = {name: torch.cat([value, value]) for name, value in given.inputs.items()}
    pair = Pixels(twice, "", given.count, given.size)
    with torch.inference_mode():
        (alone,) = family.encode([given], watch=("patches",))
        (one,) = family.encode([pair], watch=("patches",))
    torch.testing.assert_close(one.attention["patches"], alone.attention["patches"])


@pytest.mark.parametrize(
    ("state", "read"), [(None, 24), (-1, 24), (-2, 23), (23, 23), ([-2, -5], 23)]
)
def test_the_layer_that_is_read_follows_from_the_config(state: Any, read: int):
    config = SimpleNamespace(vision_feature_layer=state)
    assert layers_run(24, read_by(SimpleNamespace(config=config))) == read
