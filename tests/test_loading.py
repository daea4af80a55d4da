"""Loading: device, precision, processor and attention are what was asked for, or one sentence."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import checkpoints
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sts_cli.errors import ModelError
from sts_cli.hardware import FAST_BFLOAT16, choose_device, choose_dtype, cpu_features, memory
from sts_cli.loading import explain, load
from sts_cli.sources import find


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_loads_with_its_real_processor(family: str, tmp_path: Path) -> None:
    if family == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("the SmolVLM processor needs num2words: pip install 'sts-cli[smolvlm]'")
    loaded = load(find(str(checkpoints.write(family, tmp_path))), device="cpu", dtype="float32")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    prompt = loaded.processor.apply_chat_template(chat, add_generation_prompt=True)
    image = Image.new("RGB", (120, 90), "red")
    inputs = loaded.processor(images=[image], text=[prompt], return_tensors="pt")
    answer = loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert (inputs["input_ids"] == loaded.model.config.image_token_id).sum() > 0
    assert answer.shape[1] > inputs["input_ids"].shape[1]


def test_only_the_language_model_gets_our_attention(tiny_checkpoint: Path) -> None:
    loaded = load(find(str(tiny_checkpoint)))
    assert loaded.model.get_decoder().config._attn_implementation == loaded.attention == "sts_sdpa"
    assert loaded.model.model.vision_tower.config._attn_implementation == "sdpa"


def test_the_model_is_for_inference(tiny_checkpoint: Path) -> None:
    loaded = load(find(str(tiny_checkpoint)))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.quantize == "none"
    assert loaded.name == str(tiny_checkpoint)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_dtype_is_the_one_asked_for(tiny_checkpoint: Path, dtype: str) -> None:
    loaded = load(find(str(tiny_checkpoint)), device="cpu", dtype=dtype)
    assert loaded.dtype == getattr(torch, dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {loaded.dtype}


def test_auto_is_bfloat16_only_where_the_cpu_is_fast_at_it() -> None:
    fast = any(name in cpu_features() for name in FAST_BFLOAT16)
    wanted = torch.bfloat16 if fast else torch.float32
    assert choose_dtype("auto", torch.device("cpu")) == wanted


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ModelError, match="use --dtype bfloat16 or --dtype float32"):
        choose_dtype("float16", torch.device("cpu"))


@pytest.mark.parametrize("wish", ["gpu", "cpu:x", "cuda:first", "tpu"])
def test_an_unknown_device_is_refused(wish: str) -> None:
    with pytest.raises(ModelError, match="Known: auto, cpu, cuda, cuda:N"):
        choose_device(wish)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_that_is_not_here_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="--device cuda: .* or use --device cpu"):
        load(find(str(tiny_checkpoint)), device="cuda")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match="Known: auto, bfloat16, float16, float32"):
        choose_dtype("half", torch.device("cpu"))


def test_nothing_is_written_to_stdout_or_stderr(
    tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(find(str(tiny_checkpoint)))
    assert capfd.readouterr() == ("", "")


def test_the_config_of_another_model_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 9
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match="lacks 27 weights of the shape that its config.json asks for"
    ):
        load(find(str(model)))


def test_weights_of_another_size_are_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["vocab_size"] = 999
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks 2 weights of the shape"):
        load(find(str(model)))


def test_extra_weights_do_no_harm(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["somebody.else"] = torch.zeros(3)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert load(find(str(model))).model is not None


def test_an_architecture_that_transformers_does_not_know_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "from_the_future"}))
    with pytest.raises(ModelError, match="from_the_future"):
        load(find(str(model)))


def test_a_vision_model_without_text_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    with pytest.raises(ModelError, match="'clip' is not an image-text-to-text model"):
        load(find(str(model)))


def test_a_damaged_processor_is_one_sentence(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load(find(str(model)))
    assert str(caught.value).startswith(f"Cannot load '{model}': ")
    assert "\n" not in str(caught.value)


def test_a_processor_without_pictures_is_refused(model: Path) -> None:
    (model / "processor_config.json").unlink()
    (model / "preprocessor_config.json").write_text('{"processor_class": "BarkProcessor"}')
    with pytest.raises(ModelError, match="Cannot load"):
        load(find(str(model)))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ImportError("Package `num2words` is required to run SmolVLM processor."),
            "'m' needs num2words; run 'pip install num2words'.",
        ),
        (
            ImportError("PixtralProcessor requires the Torchvision library but it was not found"),
            "'m' needs torchvision; run 'pip install torchvision'.",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "Not enough GPU memory for 'm'; try --quantize int8 or --quantize nf4.",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            "Not enough memory for 'm'; try --quantize int8 or --quantize int4.",
        ),
    ],
)
def test_known_errors_come_with_a_remedy(error: Exception, sentence: str) -> None:
    assert explain("m", error) == sentence


def test_memory_is_plausible() -> None:
    found = memory()
    assert found is None or 0 < found[0] <= found[1]
