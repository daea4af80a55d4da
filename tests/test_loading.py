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
from running import process
from safetensors.torch import load_file, save_file

from sts_cli.checkpoints.sources import find
from sts_cli.errors import ModelError
from sts_cli.families import adapter
from sts_cli.loading.foreign import explain
from sts_cli.loading.model import load
from sts_cli.machine.hardware import (
    FAST_BFLOAT16,
    choose_device,
    choose_dtype,
    cpu_features,
    memory,
)
from sts_cli.machine.packages import to_install


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def change(path: Path, **changes: object) -> None:
    """Sets fields of a JSON file; None removes one."""
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_loads_with_its_real_processor(family: str, tmp_path: Path) -> None:
    if family == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("the SmolVLM processor needs num2words: pip install num2words")
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


@pytest.mark.parametrize("wish", ["mps", "xpu", "xpu:1"])
def test_another_accelerator_that_is_not_here_is_refused(
    wish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ModelError) as caught:
        choose_device(wish)
    kind = wish.partition(":")[0]
    assert str(caught.value) == (
        f"--device {wish}: PyTorch finds no {kind} here; use --device cpu."
    )


def test_another_accelerator_is_taken_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    xpu = torch.device("xpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: xpu)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert choose_device() == torch.device("cpu")
    assert choose_device("xpu") == xpu and choose_device("xpu:1") == torch.device("xpu:1")
    assert choose_dtype("auto", xpu) == torch.float32
    assert choose_dtype("bfloat16", xpu) == torch.bfloat16
    for wish, words in (("mps", "finds no mps here"), ("xpu:2", "has 2 GPUs, from xpu:0")):
        with pytest.raises(ModelError, match=words):
            choose_device(wish)


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


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(number: float, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    weights[name][3, 2] = number
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"NaN or infinite numbers in 1 of its weights, such as"):
        load(find(str(model)), device="cpu")


def test_weights_that_cannot_be_converted_are_one_sentence_of_ours() -> None:
    error = RuntimeError(
        "We encountered some issues during automatic conversion. See the above report!"
    )
    assert "its weights do not have the shapes that its config.json asks for" in explain("m", error)


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


CODE = {  # by file: the class that its `auto_map` stands for, and what names a class there
    "config.json": ("AutoConfig", "model_type"),
    "processor_config.json": ("AutoProcessor", "processor_class"),
    "preprocessor_config.json": ("AutoImageProcessor", "image_processor_type"),
    "tokenizer_config.json": ("AutoTokenizer", "tokenizer_class"),
}
UNKNOWN = {  # refused where transformers has no class of that name
    "config.json": "needs Python code from its repository (auto_map in config.json)",
    "processor_config.json": "needs Python code of its own (auto_map in processor_config.json)",
    "preprocessor_config.json": "needs Python code of its own (auto_map in preprocessor_config",
}


def with_code(model: Path, file: str, **changes: object) -> Path:
    """Puts Python beside the model's `file`, which names it; the marker that it would write."""
    marker = model / "imported"
    (model / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\nclass Theirs: pass\n")
    kind, _ = CODE[file]
    code = ["theirs.Theirs", None] if kind == "AutoTokenizer" else "theirs.Theirs"
    change(model / file, auto_map={kind: code, "AutoModelForImageTextToText": "theirs.Theirs"})
    change(model / file, **changes)
    Image.new("RGB", (90, 60), "red").save(model / "picture.png")
    return marker


def ask_with_answers(model: Path, tmp_path: Path) -> tuple[int, str, str]:
    """`sts ask` with the answers "yes" on its standard input; code, stderr, what was left of it."""
    answers = tmp_path / "answers"
    answers.write_text("y\n1\n")
    with answers.open() as stdin:
        picture = model / "picture.png"
        done = process("ask", picture, "what?", "-m", model, "--max-new-tokens", 1, stdin=stdin)
        return done.returncode, done.stderr, stdin.read()


def test_code_beside_a_checkpoint_that_does_without_is_not_imported(
    model: Path, tmp_path: Path
) -> None:
    for file in CODE:
        marker = with_code(model, file)
    change(model / "tokenizer_config.json", tokenizer_class="Theirs")  # tokenizer.json says it all
    code, err, left = ask_with_answers(model, tmp_path)
    assert (code, left) == (0, "y\n1\n"), err
    assert not marker.exists()


@pytest.mark.parametrize("file", UNKNOWN)
def test_a_checkpoint_that_needs_its_code_is_refused_and_nobody_is_asked(
    file: str, model: Path, tmp_path: Path
) -> None:
    marker = with_code(model, file, **{CODE[file][1]: "Theirs"})
    code, err, left = ask_with_answers(model, tmp_path)
    assert (code, left, err.count("\n")) == (2, "y\n1\n", 1), err
    assert UNKNOWN[file] in err
    assert not marker.exists()


def test_code_of_a_part_of_a_processor_is_refused_in_our_words(model: Path, tmp_path: Path) -> None:
    """Newer files hold the image processor's settings inside the processor's."""
    marker = with_code(model, "preprocessor_config.json", image_processor_type="Theirs")
    inside = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").unlink()
    change(model / "processor_config.json", image_processor=inside)
    code, err, left = ask_with_answers(model, tmp_path)
    assert (code, left, err.count("\n")) == (2, "y\n1\n", 1), err
    assert "needs Python code of its own (auto_map in processor_config.json)" in err
    assert not marker.exists()


def tokens_of_an_image(folder: Path) -> int:
    """How many visual tokens the processor writes for an image; the model must make as many."""
    loaded = load(find(str(folder)), device="cpu")
    family = adapter(loaded.model, loaded.processor)
    pixels = family.pixels(Image.new("RGB", (120, 90), "red"))
    return len(family.encode([pixels])[0].features)


@pytest.mark.parametrize("lacking", [(), ("num_additional_image_tokens", "vision_aspect_ratio")])
@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision"])
def test_what_old_layouts_leave_out_comes_from_the_config(
    family: str, lacking: tuple[str, ...], tmp_path: Path
) -> None:
    folder = checkpoints.write(family, tmp_path)
    expected = tokens_of_an_image(folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    kept = settings if lacking else {"processor_class": settings["processor_class"]}
    kept = {name: value for name, value in kept.items() if name not in lacking}
    (folder / "processor_config.json").write_text(json.dumps(kept))
    assert tokens_of_an_image(folder) == expected


def test_a_tiling_that_only_the_config_names_is_used(tmp_path: Path) -> None:
    folder = checkpoints.write("llava_onevision", tmp_path)
    change(folder / "config.json", vision_aspect_ratio="anyres_max_4")
    assert load(find(str(folder))).processor.vision_aspect_ratio == "anyres_max_4"


def test_an_image_of_unknown_size_in_tokens_is_refused_before_weights_are_read(
    model: Path,
) -> None:
    change(model / "processor_config.json", patch_size=None)
    change(model / "config.json", vision_config={"model_type": "resnet"})
    source = find(str(model))
    (model / "model.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"patch_size is missing in its processor and in config\.json"
    ):
        load(source)


def move_template(model: Path, template: object) -> None:
    """Leaves `template` as the only one, in the tokenizer's config."""
    (model / "chat_template.jinja").unlink()
    change(model / "tokenizer_config.json", chat_template=template)


def prompt(model: Path) -> str:
    loaded = load(find(str(model)), device="cpu")
    return adapter(loaded.model, loaded.processor).prompt_text("what?", 1)


@pytest.mark.parametrize("named", [False, True])
def test_a_chat_template_of_the_tokenizer_alone_is_used(named: bool, model: Path) -> None:
    expected = prompt(model)
    template = (model / "chat_template.jinja").read_text()
    move_template(model, [{"name": "default", "template": template}] if named else template)
    assert prompt(model) == expected


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ messages[0]['role'] }}: {{ messages[0]['content'][1]['text'] }}", "0 placeholders"),
        ("{{ raise_exception('no images here') }}", r"fails \(no images here\)"),
        ([{"name": "tools", "template": "x"}], 'named "default"'),
    ],
)
def test_a_chat_template_that_shows_no_image_is_refused_before_weights_are_read(
    template: object, sentence: str, model: Path
) -> None:
    move_template(model, template)
    source = find(str(model))
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=sentence):
        load(source)


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
            f"'m' needs num2words; run: {to_install('num2words')}",
        ),
        (
            ImportError("PixtralProcessor requires the Torchvision library but it was not found"),
            f"'m' needs torchvision; run: {to_install('torchvision')}",
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
