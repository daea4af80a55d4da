"""`--backend openvino`: checkpoints on disk, converted once, answer as PyTorch answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import strangers
import tiny
import torch
from PIL import Image
from running import process
from safetensors.torch import load_file

from sts_cli.checkpoints.sources import find
from sts_cli.errors import ModelError
from sts_cli.library import Model, load_model
from sts_cli.loading import model
from sts_cli.openvino.ready import NotConvertible, choose_backend, wished_backend
from sts_cli.openvino.rest import FILE
from sts_cli.profile import Cut, Profile
from sts_cli.quantization import choice

BOTH = Profile("both", cuts=(Cut("repulsion", 0.5), Cut("relevance", 0.25, 0.5)))
PICTURES = [Image.effect_noise((90, 60), 80 + seed).convert("RGB") for seed in range(2)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantized"


def load(folder: Path, backend: str, said: list[str] | None = None, **options: Any) -> Model:
    profile = replace(BOTH, backend=backend, quantize=options.pop("quantize", None))
    return load_model(
        find(str(folder)),
        profile,
        device="cpu",
        dtype="float32",
        progress=None if said is None else said.append,
        **options,
    )


def answers(vlm: Model) -> list[tuple[Any, ...]]:
    items = [(picture, "what is this, and what is beside it?") for picture in PICTURES]
    found = vlm.batch(items, compare=True, max_new_tokens=6)
    return [(one.text, one.tokens.left, one.comparison.full.text) for one in found]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_answers_as_in_pytorch_and_is_converted_once(
    family: str, tmp_path: Path, cache: Path
):
    folder = checkpoints.write(family, tmp_path / "model")
    expected = answers(load(folder, "torch"))
    said: list[str] = []
    assert answers(load(folder, "openvino", said)) == expected
    assert any(message.startswith("Converting the model for OpenVINO, once") for message in said)
    said.clear()
    again = load(folder, "openvino", said)
    assert said == []
    assert again.precision == "float32, none, openvino"
    text = again.engine.family.model.get_decoder()
    assert all(weight.is_meta for weight in text.layers.parameters())
    assert answers(again) == expected


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_small_weights_are_converted_once(weights: str, tmp_path: Path, cache: Path):
    folder = checkpoints.write("llava", tmp_path / "model", wide=True)
    first, again = (load(folder, "openvino", quantize=weights) for _ in range(2))
    assert answers(first) == answers(again)
    assert again.precision == f"float32, {weights}, openvino"


def test_half_weights_stay_half_on_disk_and_answer_as_in_float32(tmp_path: Path, cache: Path):
    folder = checkpoints.write("llava", tmp_path / "model", dtype=torch.bfloat16)
    expected = answers(load(folder, "torch"))
    assert answers(load(folder, "openvino")) == expected
    assert answers(load(folder, "openvino")) == expected
    (kept,) = cache.iterdir()
    tensors = load_file(kept / FILE)
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {
        torch.float32
    }
    layer = sum(path.stat().st_size for path in kept.glob("layer-0.bin"))
    dense = sum(
        weight.numel() for weight in tiny.build("llava").get_decoder().layers[0].parameters()
    )
    assert layer < 3 * dense


def test_a_kept_model_that_is_not_whole_is_converted_again(tmp_path: Path, cache: Path):
    folder = checkpoints.write("llava", tmp_path / "model")
    expected = answers(load(folder, "openvino"))
    (kept,) = cache.iterdir()
    (tower,) = kept.glob("tower-*.xml")
    for name in (FILE, "layer-2.xml", tower.name):
        (kept / name).write_bytes(b"half")
        said: list[str] = []
        assert answers(load(folder, "openvino", said)) == expected
        assert (kept / name).stat().st_size > 4


def test_an_untested_family_is_run_by_pytorch_or_refused_by_name(tmp_path: Path, cache: Path):
    folder = strangers.write("vipllava", tmp_path / "model")
    assert load(folder, "auto").precision == "float32, none"
    with pytest.raises(ModelError, match="--backend openvino: 'vipllava' is an untested family"):
        load(folder, "openvino")


def test_auto_is_chosen_again_where_openvino_cannot_convert(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """int8 is faster with OpenVINO on every CPU; with PyTorch not in float32."""

    def refuse(*given: Any) -> Any:
        raise NotConvertible("No.")

    monkeypatch.setattr(choice, "LARGE", 0)
    folder = checkpoints.write("llava", tmp_path / "model", wide=True)
    assert load(folder, "auto", quantize="auto").precision == "float32, int8, openvino"
    monkeypatch.setattr(model, "read_for_openvino", refuse)
    said: list[str] = []
    assert load(folder, "auto", said, quantize="auto").precision == "float32, none"
    assert said == ["No. PyTorch runs it instead."]


def test_openvino_is_refused_where_it_cannot_run(tiny_checkpoint: Path):
    checkpoint = find(str(tiny_checkpoint)).checkpoint
    assert checkpoint is not None
    for device, weights, words in (
        ("cuda", "none", "on CPUs only, not on 'cuda'; use --device cpu."),
        ("cpu", "nf4", "nf4 weights are for PyTorch"),
    ):
        assert choose_backend("auto", checkpoint, device, weights) == "torch"
        with pytest.raises(ModelError, match=words):
            choose_backend("openvino", checkpoint, device, weights)
    assert choose_backend("auto", checkpoint, "cpu", "none") == "openvino"
    assert choose_backend("torch", checkpoint, "cpu", "none") == "torch"


def test_the_backend_is_the_users_else_the_profiles_else_the_variables(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("STS_BACKEND", "openvino")
    assert wished_backend("torch", replace(BOTH, backend="auto")) == "torch"
    assert wished_backend(None, replace(BOTH, backend="auto")) == "auto"
    assert wished_backend(None, BOTH) == "openvino"
    monkeypatch.delenv("STS_BACKEND")
    assert wished_backend(None, BOTH) == "auto"
    monkeypatch.setenv("STS_BACKEND", "opnvino")
    with pytest.raises(ModelError, match="STS_BACKEND opnvino is unknown. .*openvino"):
        wished_backend(None, BOTH)
    with pytest.raises(ModelError, match="--backend onnx is unknown. Known: auto, torch"):
        wished_backend("onnx", BOTH)


def test_answers_of_one_backend_are_not_continued_by_the_other(
    tiny_checkpoint: Path, tmp_path: Path, cache: Path
):
    PICTURES[0].save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"what is {word}?"} for word in ("this", "that")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["batch", str(tmp_path / "rows.jsonl"), "--model", str(tiny_checkpoint)]
    command += ["--out", str(tmp_path / "out.jsonl"), "--max-new-tokens", "2", "--dtype", "float32"]
    done = process(*command, "--backend", "openvino", "--limit", "1")
    assert done.returncode == 0, done.stderr
    done = process(*command, "--backend", "torch")
    assert done.returncode == 2
    assert "answers with precision 'float32, none, openvino'" in done.stderr
    assert process(*command, "--backend", "openvino").returncode == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_an_openvino_that_lacks_what_we_need_is_one_sentence(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    PICTURES[0].save(tmp_path / "a.png")
    command = ["ask", tmp_path / "a.png", "what is this?", "--model", tiny_checkpoint, "--backend"]
    refused = process(*command, "openvino", "--quiet")
    assert refused.returncode == 2
    assert refused.stderr.startswith("sts: This OpenVINO cannot be used: ")
    assert refused.stderr.count("\n") == 1
    done = process(*command, "auto", "--max-new-tokens", "2")
    assert done.returncode == 0
    assert done.stderr.count("PyTorch runs it instead.") == 1
