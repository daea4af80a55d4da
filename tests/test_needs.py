"""A method that a model cannot serve is refused in one sentence, before weights are read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import strangers
import tiny
import torch
from PIL import Image

from sts_cli import pruning
from sts_cli.checkpoints.sources import find
from sts_cli.cli.profiles import option
from sts_cli.decoding.torch import TorchDecoder
from sts_cli.engine.engine import Engine
from sts_cli.engine.needs import lacking, needs_of
from sts_cli.errors import ModelError, ProfileError
from sts_cli.families import skeleton
from sts_cli.families.default import Prompt
from sts_cli.library import load_model
from sts_cli.loading.model import load
from sts_cli.profile import Cut, Escalate, Narrowing, Profile
from sts_cli.profile_files import parse

DEMO = Path(str(pruning.__file__)).parents[1] / "demo"
STAR = Profile("second", cuts=(Cut("star", 20),))
PUBLISHED = Profile("mine", cuts=(Cut("hawk", 9, options={"heads": "qwen2.5-vl-7b"}),))


WITHOUT_WEIGHTS = [name for name in pruning.names() if name not in ("hawk", "learnpruner")]


def refused(profile: Profile, config: Any, decoder: Any = None) -> str:
    with pytest.raises(ProfileError) as caught:
        lacking(profile, "a model", config, decoder)
    message = str(caught.value)
    assert message.startswith(f"Profile '{profile.name}', method {profile.cuts[0].method}: ")
    assert message.endswith(".") and "\n" not in message
    return message


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_every_method_works_with_the_tested_families(name: str):
    """Hawk too; its published weights are apart, and so is LearnPruner's scorer."""
    for method in (name, "hawk"):
        for family in tiny.FAMILIES:
            lacking(Profile("any", cuts=(Cut(method, 9),)), family, tiny.config(family))


def test_an_encoder_that_cannot_be_observed_is_refused_by_the_config():
    config = tiny.config("llava")
    vision = SimpleNamespace(model_type="pixtral")
    other = SimpleNamespace(
        model_type="llava", vision_config=vision, get_text_config=config.get_text_config
    )
    for method in ("star", "visionzip", "vscan", "vflowopt"):
        assert "'llava' with the encoder 'pixtral'" in refused(
            Profile("mine", cuts=(Cut(method, 9),)), other
        )
    unknown = SimpleNamespace(
        model_type="mine", vision_config=config.vision_config, get_text_config=other.get_text_config
    )
    assert "cannot observe in 'mine'" in refused(Profile("mine", cuts=(Cut("star", 9),)), unknown)
    lacking(Profile("mine", cuts=(Cut("divprune", 9), Cut("hawk", 8, 0.5))), "a model", other)


def test_an_encoder_that_drops_patches_is_not_observed():
    narrow = Narrowing("likeness", 0.5, 0.5)
    both = Profile("mine", cuts=(Cut("star", 9),), encoder=narrow)
    assert "where 'encoder' drops patches. Leave one" in refused(both, tiny.config("llava"))
    lacking(replace(both, cuts=(Cut("divprune", 9),)), "a model", tiny.config("llava"))


def test_published_weights_fit_only_the_model_that_they_were_found_on():
    assert "this is 'llama' with 4" in refused(PUBLISHED, tiny.config("llava"))
    assert "with 4. Use heads: uniform." in refused(PUBLISHED, tiny.config("qwen2_5_vl"))
    fits = tiny.config("qwen2_5_vl")
    fits.get_text_config().num_attention_heads = 28
    lacking(PUBLISHED, "a model", fits)


def test_queries_and_keys_that_are_not_apart_are_refused(tmp_path: Path):
    config = strangers.CONFIGS["llava around phi3"](strangers.checkpoints.tokenizer("llava"))
    decoder = TorchDecoder(skeleton(config))
    profile = Profile("mine", cuts=(Cut("feather", 9, 0.5),))
    assert "layers of 'phi3' do not compute apart" in refused(profile, config, decoder)


def test_it_is_said_before_weights_are_read(tmp_path: Path):
    """The weights of this copy are gone: what comes first is the method."""
    shutil.copytree(DEMO, tmp_path / "model")
    source = find(str(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ProfileError, match="heads of Qwen2.5-VL-7B; this is 'llama'"):
        load_model(source, PUBLISHED)
    with pytest.raises(ModelError):
        load_model(source, Profile("off"))


def test_a_cascade_is_asked_for_all_that_its_profiles_need():
    """The picture is not encoded again for the second profile."""
    first = Profile("first", cuts=(Cut("grid", 9),), escalate=Escalate(below=1.0, to=STAR))
    assert needs_of([first]) == {"patches"} and needs_of([Profile("off")]) == set()
    vlm = load_model(find("demo"), first)
    answer = vlm.ask(DEMO.parents[1] / "samples" / "sign.png", "what?", max_new_tokens=2)
    assert answer.problem is None and answer.tokens is not None
    assert answer.escalated == "first" and answer.tokens.left == (20,)


def test_queries_and_keys_are_computed_by_pytorch():
    pytest.importorskip("openvino", reason="openvino is not installed")
    profile = parse("structure: {method: hawk, keep: 9}", "mine", "mine.yaml")
    wished = parse("backend: openvino\nstructure: {method: hawk, keep: 9}", "mine", "mine.yaml")
    with pytest.raises(ProfileError, match="OpenVINO does not give. Use --backend torch"):
        load_model(find("demo"), wished)
    assert load_model(find("demo"), profile).precision.endswith("none")
    loaded = load(find("demo"), backend="openvino", device="cpu")
    with pytest.raises(ProfileError, match="Add 'backend: torch' to the profile"):
        Engine(loaded, loaded.decoder, loaded.encoder).check(profile)


@pytest.mark.parametrize("name", pruning.names())
def test_every_method_names_its_source_and_what_it_needs(name: str):
    method = pruning.find(name)
    source = pruning.source_of(name)
    assert source == "a control" or "arXiv 2" in source
    assert set(method.needs) <= set(pruning.IN_WORDS)
    rows = getattr(pruning.build(name, {}), "rows", "all")
    assert rows in ("all", "last", "raters")
    for known in pruning.options_of(name).items():
        assert option(name, *known).startswith(known[0])


def test_the_encoder_is_observed_in_pytorch_beside_openvino():
    """The features are PyTorch's then, and so is the choice."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    profile = Profile("mine", cuts=(Cut("vscan", 9),), max_new_tokens=1)
    picture = Image.open(DEMO.parents[1] / "samples" / "sign.png")
    kept = []
    for backend in ("openvino", "torch"):
        loaded = load(find("demo"), backend=backend, device="cpu", dtype="float32")
        engine = Engine(loaded, loaded.decoder, loaded.encoder)
        engine.check(profile)
        pixels = engine.family.pixels(picture.convert("RGB"))
        (image,), _ = engine.encode([pixels], profiles=(profile,))
        prompt = Prompt(engine.family.tokenize("what?", [pixels]), (image,))
        (found,) = engine.generate([prompt], profile, max_new_tokens=1, places=True)
        kept.append(found.kept)
        assert found.left == (9,) and image.features.dtype == torch.float32
    assert kept[0] == kept[1]
