"""Families without an adapter: run if that equals transformers, else refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import strangers
import tiny
import torch
from checkpoints import asked
from PIL import Image
from running import sts

from sts_cli.checkpoints.checkpoint import examine
from sts_cli.checkpoints.sources import find
from sts_cli.decoding import Decoder
from sts_cli.decoding.static import StaticDecoder
from sts_cli.decoding.torch import TorchDecoder
from sts_cli.engine.engine import Engine
from sts_cli.engine.proof import pruned_from_masked
from sts_cli.errors import ModelError
from sts_cli.families import refuse, skeleton
from sts_cli.loading.model import load
from sts_cli.profile_files import load_profile

QUESTION = "what is on the sign?"
FITTING = ["vipllava", "llava around smollm3", "llava around phi3"]
REFUSED = {
    "qwen3_5": "'qwen3_5' has layers of the kind linear_attention, which",
    "lfm2_vl": "'lfm2_vl' has layers of the kind conv, which",
    "llava around lfm2": "'llava' has layers of the kind conv, which",
    "llava around gemma2": r"'llava' \(gemma2\) needs a kind of attention that PyTorch's",
    "blip-2": "'blip-2' has no layers, norm, rotary_emb; sts only runs",
    "instructblip": r"'instructblip' reads the question while it encodes the image \(Q-Former\)",
}
DIFFERING = {  # what runs, but not as sts would run it
    "llava around granite": "its first token differs from that of",  # scales its embeddings
    "glm4v": "'glm4v' around 'glm4v_text', an untested family,",  # positions on three axes
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").resize((90, 60)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("decoder", [TorchDecoder, StaticDecoder])
def test_a_family_that_fits_the_default_answers_as_generate(
    name: str, decoder: Callable[[Any], Decoder[Any]], tmp_path: Path
):
    loaded = load(find(str(strangers.write(name, tmp_path))), device="cpu", dtype="float32")
    loaded.model.generation_config.eos_token_id = None
    engine = Engine(loaded, decoder(loaded.model))
    image = Image.linear_gradient("L").convert("RGB")
    prompt = asked(engine.family, QUESTION, image)
    text = [engine.family.prompt_text(QUESTION, 1)]
    inputs = loaded.processor(images=[[image]], text=text, return_tensors="pt")
    expected = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    profiles = [load_profile("off"), load_profile("aggressive")]
    assert not engine.shares  # prefixes: only tests show that this is exact
    off, pruned = (engine.generate([prompt], one, max_new_tokens=5)[0] for one in profiles)
    assert list(off.ids) == expected[0, len(prompt.ids) :].tolist()
    assert pruned.left == (8, 6)


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_be_pruned_is_refused_before_its_weights_are_read(
    name: str, tmp_path: Path
):
    source = find(str(strangers.write(name, tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=REFUSED[name]):
        load(source, device="cpu")


def test_cross_attention_in_other_families_is_refused():
    config = tiny.config("llava")
    config.text_config.cross_attention_layers = [1, 3]
    with pytest.raises(ModelError, match="'llava' reads its images through cross-attention, which"):
        refuse(skeleton(config))


def test_mllama_without_cross_attention_is_refused():
    config = tiny.config("mllama")
    config.text_config.cross_attention_layers = []
    with pytest.raises(ModelError, match="'mllama' has no cross-attention layers, so nothing in"):
        refuse(skeleton(config))


@pytest.mark.parametrize("name", DIFFERING)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_family_that_would_answer_otherwise_is_refused(name: str, dtype: str, tmp_path: Path):
    loaded = load(find(str(strangers.write(name, tmp_path))), device="cpu", dtype=dtype)
    with pytest.raises(ModelError, match=DIFFERING[name]):
        Engine(loaded)


def test_a_layer_with_a_memory_of_its_own_shows_when_tokens_are_dropped(tmp_path: Path):
    loaded = load(find(str(strangers.write("vipllava", tmp_path))), device="cpu", dtype="float32")
    engine = Engine(loaded)
    family, decoder = engine.family, engine.decoder
    prompt = asked(family, QUESTION, Image.linear_gradient("L").convert("RGB"))
    with torch.inference_mode():
        tokens = family.embed([prompt])
        assert pruned_from_masked(decoder, tokens) < 1e-4
        mixed = (
            loaded.model.get_decoder()
            .layers[1]
            .mlp.register_forward_hook(
                lambda layer, given, out: out + out.cumsum(1)  # as a recurrent layer would
            )
        )
        assert pruned_from_masked(decoder, tokens) > 0.1
        mixed.remove()


def test_ask_and_batch_say_once_that_a_family_is_untested(
    picture: Path, tmp_path_factory: pytest.TempPathFactory
):
    folder = strangers.write("vipllava", tmp_path_factory.mktemp("vipllava"))
    words = "untested family: 'vipllava' around 'llama'."
    options = ("-m", folder, "--max-new-tokens", 2)
    asked_once = sts("ask", picture, QUESTION, *options)
    assert asked_once.code == 0
    assert asked_once.err.count(words) == 1 and words not in asked_once.out
    batch = sts("batch", picture.parent, "--question", QUESTION, *options)
    assert batch.code == 0 and batch.err.count(words) == 1
    assert [json.loads(line)["error"] for line in batch.out.splitlines()] == [None]
    assert sts("ask", picture, QUESTION, "--quiet", *options).err == ""


def test_a_refused_model_is_one_sentence_and_exit_code_2(picture: Path, tmp_path: Path):
    folder = strangers.write("llava around granite", tmp_path / "granite")
    done = sts("ask", picture, QUESTION, "-m", folder)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 2  # that it is untested, and why it is refused
    assert "transformers' generate" in done.err


def test_a_listed_family_around_another_language_model_is_untested(
    tiny_checkpoint: Path, tmp_path: Path
):
    assert examine(tiny_checkpoint).tested
    assert not examine(strangers.write("llava around smollm3", tmp_path)).tested
