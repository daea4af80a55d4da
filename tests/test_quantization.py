"""Fewer bits: close to the dense layer, only where promised, and the same after a restart."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
import strangers
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sts_cli.checkpoints.checkpoint import Checkpoint, examine
from sts_cli.checkpoints.sources import find
from sts_cli.errors import ModelError
from sts_cli.loading.model import Loaded, load
from sts_cli.profile import Backend, Quantize
from sts_cli.quantization import disk_cache
from sts_cli.quantization.choice import Machine, choose, memory_needed
from sts_cli.quantization.packed import (
    BLOCKS,
    FEW_ROWS,
    FEW_ROWS_INT4,
    PackedLinear,
    Precision,
    fits,
    kernel_block,
    pack,
    pack_levels,
    unpack_levels,
)

ERROR = {"int8": 0.01, "int4": 0.1}  # of a layer with normally distributed weights
CPU = torch.device("cpu")
BITSANDBYTES = ("Linear4bit", "Linear8bitLt")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantized"


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA whose widths every kernel takes."""
    return checkpoints.write("llava", tmp_path_factory.mktemp("wide"), wide=True)


def packed(layer: nn.Linear, precision: Precision, dtype: torch.dtype) -> PackedLinear:
    small = PackedLinear(
        layer.in_features, layer.out_features, layer.bias is not None, precision, dtype
    )
    weight, scales = pack(layer.weight.detach(), precision, dtype)
    parts = {"weight": weight, "scales": scales, "bias": layer.bias}
    small.load_state_dict({name: part for name, part in parts.items() if part is not None})
    return small.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1, FEW_ROWS_INT4])
@torch.no_grad()
def test_a_packed_layer_is_close_to_the_dense_one(
    precision: Precision, rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 208).to(dtype)
    nn.init.normal_(layer.weight)
    inputs = torch.randn(2, rows, 256, dtype=dtype)
    exact = layer.float()(inputs.float())
    given = packed(layer, precision, dtype)(inputs)
    assert given.shape == (2, rows, 208)
    assert given.dtype == dtype
    assert (given.float() - exact).norm() < ERROR[precision] * exact.norm()


@pytest.mark.parametrize("precision", ["int8", "int4"])
@torch.no_grad()
def test_weights_on_the_grid_come_back_exactly(precision: Precision) -> None:
    levels = torch.arange(-7, 9) if precision == "int4" else torch.arange(-127, 129, 16)
    weight = levels.float().repeat(64, 4)
    layer = nn.Linear(64, 64, bias=False)
    layer.weight.copy_(weight)
    given = packed(layer, precision, torch.float32)(torch.eye(64))
    assert torch.allclose(given, weight.T, atol=1e-4)


@torch.no_grad()
def test_a_layer_of_zeros_stays_zero() -> None:
    layer = nn.Linear(64, 64, bias=False)
    nn.init.zeros_(layer.weight)
    for precision in ("int8", "int4"):
        assert not packed(layer, precision, torch.float32)(torch.ones(1, 64)).any()


@pytest.mark.parametrize("precision", ["int8", "int4"])
@torch.no_grad()
def test_a_layer_larger_than_a_slice_packs_the_same(precision: Precision) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2112, 4096)
    whole = pack(weight, precision, torch.float32)
    first = pack(weight[:1024], precision, torch.float32)
    assert torch.equal(whole[0][:1024], first[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["int8", "int4"])
@torch.no_grad()
def test_few_rows_and_many_rows_agree(precision: Precision, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = packed(nn.Linear(128, 208).to(dtype), precision, dtype)
    inputs = torch.randn(3 * FEW_ROWS_INT4, 128, dtype=dtype)
    together = layer(inputs)
    apart = torch.cat([layer(part) for part in inputs.split(FEW_ROWS)])
    exact = precision == "int8" and dtype == torch.float32
    assert (together - apart).abs().max() < (1e-4 if exact else 2e-2) * apart.abs().max()


@torch.no_grad()
def test_unpacked_int4_is_as_near_to_its_weights_as_the_kernel() -> None:
    """The reference is the product with the weights that the packed bits stand for."""
    torch.manual_seed(0)
    layer = packed(nn.Linear(256, 208, bias=False), "int4", torch.bfloat16)
    weight = layer(torch.eye(256, dtype=torch.bfloat16)).double()  # few nonzero terms: exact
    inputs = torch.randn(2 * FEW_ROWS_INT4, 256, dtype=torch.bfloat16)
    exact = inputs.double() @ weight
    few = torch.cat([layer(part) for part in inputs.split(FEW_ROWS_INT4)])
    errors = [(given.double() - exact).norm().item() for given in (layer(inputs), few)]
    assert errors[0] < 1.2 * errors[1] < 0.01 * exact.norm()


@pytest.mark.parametrize("block", {*BLOCKS.values()})
@pytest.mark.parametrize("outputs", [16, 48, 64, 112, 208, 256])
def test_packed_levels_come_back(outputs: int, block: int) -> None:
    levels = torch.randint(0, 16, (outputs, 96), dtype=torch.uint8)
    bits = pack_levels(levels, block)
    assert torch.equal(unpack_levels(bits, block), levels.T)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in BLOCKS, reason="the int4 kernel is not used"
)
@pytest.mark.parametrize("outputs", [16, 48, 64, 112, 208, 256])
def test_levels_are_packed_as_the_kernel_reads_them(outputs: int) -> None:
    levels = torch.randint(0, 16, (outputs, 96), dtype=torch.uint8)
    kernels = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.int(), 1)
    assert torch.equal(pack_levels(levels, kernel_block()), kernels)


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_other_cpus_compute_the_same(capability: str) -> None:
    """PyTorch reads its capability at the start, so another process emulates a CPU."""
    tests = "few_rows or close_to or grid or levels"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", "-k", tests]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([*command, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_shape_that_no_kernel_takes_stays_dense() -> None:
    assert not fits(nn.Linear(33, 64), "int8")
    assert not fits(nn.Linear(48, 64), "int4")
    assert fits(nn.Linear(64, 64), "int4")


def quantized(loaded: Loaded) -> set[str]:
    """Names of the layers whose weights have fewer bits."""
    return {
        name
        for name, layer in loaded.model.named_modules()
        if isinstance(layer, PackedLinear) or type(layer).__name__ in BITSANDBYTES
    }


@pytest.mark.parametrize("quantize", ["int8", "int4", "nf4"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_only_the_language_models_layers_are_quantized(
    family: str, quantize: Quantize, tmp_path: Path
) -> None:
    source = find(str(checkpoints.write(family, tmp_path, wide=True)))
    if family == "smolvlm":
        pytest.importorskip("num2words")
    loaded = load(source, device="cpu", quantize=quantize)
    decoder = loaded.model.get_decoder()
    inside = {id(layer) for layer in decoder.modules() if isinstance(layer, nn.Module)}
    dense = {
        name
        for name, layer in loaded.model.named_modules()
        if isinstance(layer, nn.Linear) and name not in quantized(loaded)
    }
    assert len(quantized(loaded)) == 7 * tiny.LAYERS
    assert all(id(loaded.model.get_submodule(name)) in inside for name in quantized(loaded))
    assert not any(id(loaded.model.get_submodule(name)) in inside for name in dense)
    assert loaded.quantize == quantize


@pytest.mark.parametrize(("quantize", "error"), [("int8", 0.2), ("nf4", 0.9), ("int4", 0.9)])
@pytest.mark.parametrize("length", [40, 2 * FEW_ROWS_INT4])
@torch.no_grad()
def test_logits_stay_near_those_of_the_dense_model(
    wide: Path, quantize: Quantize, error: float, length: int
) -> None:
    ids = (4 + torch.arange(length) % 40).view(1, -1)
    exact = load(find(str(wide)), dtype="float32").model(input_ids=ids).logits
    given = load(find(str(wide)), dtype="float32", quantize=quantize).model(input_ids=ids).logits
    assert (given - exact).norm() < error * exact.norm()


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("quantize", ["int8", "int4", "nf4"])
@torch.no_grad()
def test_a_kept_model_answers_as_before(
    wide: Path, cache: Path, quantize: Quantize, dtype: str
) -> None:
    source = find(str(wide))
    assert source.checkpoint is not None
    first = load(source, quantize=quantize, device="cpu", dtype=dtype)
    folder = disk_cache.cache_path(source.checkpoint, quantize, CPU, first.dtype)
    assert folder is not None
    disk_cache.store(first.model, source.checkpoint, folder, 1, print)
    assert disk_cache.is_complete(folder)
    assert [path.name for path in cache.iterdir()] == [folder.name]
    ids = torch.arange(4, 44).view(1, -1)
    again = load(source, quantize=quantize, device="cpu", dtype=dtype)
    assert torch.equal(first.model(input_ids=ids).logits, again.model(input_ids=ids).logits)
    assert again.model.generation_config.eos_token_id == 2
    assert quantized(again) == quantized(first)


def test_a_damaged_kept_model_is_forgotten(wide: Path) -> None:
    source = find(str(wide))
    assert source.checkpoint is not None
    loaded = load(source, quantize="int8", device="cpu")
    folder = disk_cache.cache_path(source.checkpoint, "int8", CPU, loaded.dtype)
    assert folder is not None
    disk_cache.store(loaded.model, source.checkpoint, folder, 1, print)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert load(source, quantize="int8", device="cpu").quantize == "int8"
    assert not folder.exists()


def test_a_kept_model_without_its_config_is_forgotten(wide: Path, cache: Path) -> None:
    folder = disk_cache.cache_path(examine(wide), "int8", CPU, torch.float32)
    assert folder is not None
    shutil.copytree(wide, folder)
    assert disk_cache.is_complete(folder)
    (folder / "config.json").unlink()
    assert not disk_cache.is_complete(folder) and not folder.exists()


def test_what_is_kept_for_a_cpu_is_not_read_for_a_gpu(wide: Path) -> None:
    places = [
        disk_cache.cache_path(examine(wide), "int8", torch.device(kind), torch.float16)
        for kind in ("cpu", "cuda", "cuda:1")
    ]
    assert places[0] != places[1] == places[2]


@pytest.mark.parametrize("quantize", ["int8", "int4", "nf4"])
def test_a_model_whose_layers_a_precision_would_not_reach_is_refused(
    quantize: Quantize, tmp_path: Path
) -> None:
    source = find(str(strangers.write("llava around mixtral", tmp_path)))
    with pytest.raises(ModelError, match=rf"--quantize {quantize} would reach only \d+% of the"):
        load(source, quantize=quantize, device="cpu")


def test_int4_refuses_widths_that_its_kernel_does_not_take(tmp_path: Path) -> None:
    source = find(str(strangers.write("llava of odd widths", tmp_path)))
    with pytest.raises(ModelError, match="--quantize int4 would reach only 0% of the"):
        load(source, quantize="int4", device="cpu")
    assert load(source, quantize="int8", device="cpu").quantize == "int8"


@pytest.mark.parametrize("columns", [64, 72])  # of 128; int4 packs groups of 32
@pytest.mark.parametrize("quantize", ["int8", "int4", "nf4"])
def test_weights_of_another_shape_are_refused(
    quantize: Quantize, columns: int, wide: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(wide, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    weights[name] = weights[name][:, :columns].contiguous()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .*layers\.1\.mlp\.down_proj\.weight;"):
        load(find(str(copy)), quantize=quantize, device="cpu")


@pytest.mark.parametrize("quantize", ["int8", "int4", "nf4"])
def test_weights_that_are_no_numbers_are_refused(
    quantize: Quantize, wide: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(wide, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has NaN or infinite numbers in 1 of its weights"):
        load(find(str(copy)), quantize=quantize, device="cpu")


@pytest.mark.parametrize("settings", [{"quant_method": "later"}, {"bits": 3}])
def test_a_quantization_that_transformers_does_not_know_is_refused(
    settings: object, wide: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(wide, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    with pytest.raises(ModelError, match="quantized in a way that transformers does not know"):
        load(find(str(copy)), device="cpu")


def test_a_changed_checkpoint_is_another(wide: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(wide, tmp_path / "copy"))
    before = disk_cache.cache_path(examine(copy), "int8", CPU, torch.float32)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert disk_cache.cache_path(examine(copy), "int8", CPU, torch.float32) != before


def test_what_a_killed_run_left_is_no_model(cache: Path, wide: Path) -> None:
    (cache / "part-1234" / "model").mkdir(parents=True)
    folder = disk_cache.cache_path(examine(wide), "int8", CPU, torch.float32)
    assert folder is not None
    assert not disk_cache.is_complete(folder)


def test_a_cache_that_cannot_be_written_is_told_and_no_more(wide: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    loaded = load(find(str(wide)), quantize="int8", device="cpu")
    said: list[str] = []
    disk_cache.store(loaded.model, examine(wide), tmp_path / "file" / "kept", 1, said.append)
    assert len(said) == 1
    assert said[0].startswith("Not saving the quantized weights: ")


def test_an_empty_setting_turns_the_cache_off(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STS_CACHE", "")
    assert disk_cache.cache_path(examine(wide), "int8", CPU, torch.float32) is None
    assert load(find(str(wide)), quantize="int8", device="cpu").quantize == "int8"


GIGABYTE = 10**9


def sized(checkpoint: Checkpoint, billions: float) -> Checkpoint:
    """`checkpoint` as if it had so many parameters, nine tenths of them in layers."""
    from dataclasses import replace

    parameters = round(billions * GIGABYTE)
    weights = replace(checkpoint.weights, parameters=parameters, layers=parameters * 9 // 10)
    return replace(checkpoint, weights=weights)


AVX2 = ("avx2",)
CASCADE_LAKE = (*AVX2, "avx512f", "avx512_vnni")  # computes in float32
ZEN4 = (*CASCADE_LAKE, "avx512_bf16")
SAPPHIRE_RAPIDS = (*ZEN4, "amx_bf16", "amx_int8")


@pytest.mark.parametrize(
    ("device", "backend", "features", "dtype_bytes", "billions", "free", "chosen"),
    [
        ("cpu", "openvino", AVX2, 4, 0.05, 32, "none"),
        ("cpu", "openvino", AVX2, 4, 7, 64, "int8"),
        ("cpu", "openvino", AVX2, 4, 7, 8, "int4"),
        ("cpu", "openvino", (), 4, 7, 64, "int8"),
        ("cpu", "torch", (), 4, 7, 64, "none"),
        ("cpu", "torch", AVX2, 4, 7, 64, "none"),
        ("cpu", "torch", AVX2, 4, 7, 16, "int8"),
        ("cpu", "torch", AVX2, 4, 7, 9, "int4"),
        ("cpu", "torch", AVX2, 2, 7, 64, "none"),
        ("cpu", "torch", CASCADE_LAKE, 4, 7, 64, "none"),
        ("cpu", "torch", ZEN4, 4, 7, 64, "none"),
        ("cpu", "torch", ZEN4, 2, 0.05, 32, "none"),
        ("cpu", "torch", ZEN4, 2, 7, 32, "int8"),
        ("cpu", "torch", ZEN4, 2, 7, 8, "int4"),
        ("cpu", "torch", SAPPHIRE_RAPIDS, 2, 7, None, "int8"),
        ("cuda", "torch", ZEN4, 2, 7, 32, "none"),
        ("cuda", "torch", ZEN4, 2, 7, 12, "int8"),
        ("cuda", "torch", ZEN4, 2, 7, 8, "nf4"),
    ],
)
def test_auto_is_the_most_faithful_that_fits_and_pays(
    wide: Path,
    device: str,
    backend: Backend,
    features: tuple[str, ...],
    dtype_bytes: int,
    billions: float,
    free: int | None,
    chosen: Quantize,
) -> None:
    model = sized(examine(wide), billions)
    machine = Machine(device, backend, features, None if free is None else free * GIGABYTE)
    assert choose("auto", model, machine, dtype_bytes) == chosen


def on(device: str, gigabytes: int | None = None) -> Machine:
    return Machine(device, "torch", ZEN4, None if gigabytes is None else gigabytes * GIGABYTE)


def test_auto_never_takes_nf4_on_a_cpu(wide: Path) -> None:
    model = sized(examine(wide), 7)
    for backend in ("torch", "openvino"):
        for free in range(1, 64):
            with contextlib.suppress(ModelError):
                machine = Machine("cpu", backend, ZEN4, free * GIGABYTE)
                assert choose("auto", model, machine, 2) != "nf4"


def test_too_little_memory_names_what_would_fit(wide: Path) -> None:
    model = sized(examine(wide), 7)
    with pytest.raises(ModelError) as caught:
        choose("none", model, on("cpu", 12), 2)
    assert str(caught.value) == (
        "The model's weights need 15.4 GB, but 12.0 GB of memory are free; use --quantize int8."
    )
    with pytest.raises(ModelError, match=r"in int4 need 5\.9 GB.*; use a smaller model\."):
        choose("auto", model, on("cpu", 2), 2)


def test_int4_on_a_gpu_names_nf4(wide: Path) -> None:
    with pytest.raises(ModelError, match="use --quantize nf4"):
        choose("int4", examine(wide), on("cuda"), 2)


def test_accelerators_that_nobody_verified_run_whole_weights(wide: Path) -> None:
    assert choose("auto", examine(wide), on("mps"), 2) == "none"
    with pytest.raises(ModelError, match="int8 is not available on xpu; drop --quantize"):
        choose("int8", examine(wide), on("xpu"), 2)


def test_a_checkpoint_that_is_quantized_already_is_left_alone(wide: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(wide, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (copy / "config.json").write_text(json.dumps(config))
    assert choose("auto", examine(copy), on("cpu"), 2) == "none"
    with pytest.raises(ModelError, match=r"is quantized already \(awq\); drop --quantize"):
        choose("int8", examine(copy), on("cpu"), 2)
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    assert choose("int8", examine(copy), on("cpu"), 2) == "int8"


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_the_memory_needed_is_what_the_weights_take(wide: Path, quantize: Quantize) -> None:
    loaded = load(find(str(wide)), quantize=quantize, dtype="bfloat16", device="cpu")
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    size = sum(tensor.nbytes for tensor in tensors)
    assert memory_needed(examine(wide), quantize, 2) == pytest.approx(size, rel=0.05)
