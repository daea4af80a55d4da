"""OpenVINO runs the layers as torch does: every family, cuts, padding, rows that leave."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import tiny
import torch
from torch import Tensor

from sts_cli.answering.request import OFF
from sts_cli.checkpoints.sources import find
from sts_cli.decoding import Watch
from sts_cli.decoding.attention import NAME
from sts_cli.decoding.tokens import Tokens, text_tokens
from sts_cli.decoding.torch import TorchDecoder as Torch
from sts_cli.errors import ModelError
from sts_cli.families import FAMILIES
from sts_cli.families.default import Prompt
from sts_cli.families.encoder import narrowed
from sts_cli.library import load_model

pytest.importorskip("openvino", reason="openvino is not installed: pip install openvino")

from sts_cli.loading.converted import tower_of
from sts_cli.loading.model import load
from sts_cli.openvino.decoder import EXACT, FAST, OpenVinoDecoder
from sts_cli.openvino.kept import Shelf, whole
from sts_cli.openvino.ready import problem
from sts_cli.openvino.spans import traced
from sts_cli.openvino.tower import OpenVinoTower
from sts_cli.profile import CHOICES, Choice, Narrowing, Profile
from sts_cli.scenes.suite import suite

ROWS, LENGTH, CUT, STEPS = 3, 14, 3, 3
WHOLE = (range(tiny.LAYERS),)
CUTS = (range(CUT), range(CUT, tiny.LAYERS))
CASCADE = (range(1), range(1, 2), range(2, 5), range(5, tiny.LAYERS))


@dataclass(frozen=True)
class Run:
    """All that a run through the layers gave."""

    scores: list[Tensor]  # [B, L] after each span
    hidden: list[Tensor]  # [B, L, D] after each span, of real tokens only
    logits: list[Tensor]  # [B, V]; after prefill and each new token


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return built(request.param)


def built(family: str, **options: Any) -> Any:
    made = tiny.build(family, **({"window": 5} if family == "gemma3" else {}), **options)
    made.set_attn_implementation({"text_config": NAME})
    made.family = family
    return made


def prompts(model: Any, rows: int = ROWS, sized: bool = False) -> Tokens:
    """Rows of several lengths: a word, two images of four tokens with one between, words."""
    width = model.get_decoder().config.hidden_size
    random = torch.Generator().manual_seed(5)
    hidden = 3 * torch.randn(rows, LENGTH, width, generator=random)
    mask = torch.arange(LENGTH) >= torch.tensor([[0], [1], [2]])[:rows]
    image = torch.full((rows, LENGTH), -1)
    image[:, 3:7], image[:, 8:12] = 0, 1
    axes = 3 if model.family.startswith("qwen") else 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)[None].repeat(axes, 1, 1)
    for axis in range(1, axes):
        positions[axis] += (image >= 0) * torch.arange(LENGTH) % (axis + 1)
    deep = 2 if model.family == "qwen3_vl" else 0
    seen = (image >= 0)[..., None]
    return Tokens(
        hidden=hidden,
        mask=mask,
        padded=True,
        positions=positions,
        image=image,
        segment=image,
        grid=torch.zeros(rows, LENGTH, 2),
        log_size=torch.rand(rows, LENGTH, generator=random) * (image >= 0) if sized else None,
        residuals=tuple(torch.randn(hidden.shape, generator=random) * seen for _ in range(deep)),
    )


def halved(tokens: Tokens) -> Tokens:
    """Every other visual token goes; one row loses one more."""
    keep = ~tokens.visual | (torch.arange(tokens.mask.shape[1]) % 2 == 0)
    keep[-1, (tokens.visual[-1] & keep[-1]).nonzero()[:1]] = False
    return tokens.keep(keep, (keep & tokens.mask).sum(1).tolist())


def decoder_of(model: Any, folder: Path | None = None, **options: Any) -> OpenVinoDecoder:
    return OpenVinoDecoder(model, Shelf(folder), **options)


@torch.inference_mode()
def walk(decoder: Any, tokens: Tokens, spans: tuple[range, ...]) -> Run:
    """Prefill with a cut before each span but the first, then new tokens while rows leave."""
    cache = decoder.cache(len(tokens.hidden), STEPS)
    random = torch.Generator().manual_seed(6)
    scores, hidden, logits = [], [], []
    for span in spans:
        tokens = tokens if span is spans[0] else halved(tokens)
        rows = torch.ones(len(tokens.hidden), 2, dtype=torch.bool)  # the last words of each row
        rows[0, 0] = False
        watch = Watch(rows)
        tokens, found = decoder.run(tokens, span, cache, watch)
        scores.append(found.masked_fill(~tokens.mask, 0))
        hidden.append(tokens.hidden.masked_fill(~tokens.mask[..., None], 0))
    logits.append(decoder.logits(tokens.hidden))
    positions = tokens.positions.amax((0, 2)).expand(len(tokens.positions), -1) + 1
    for stay in ([0, 1, 2], [2, 0], [1]):
        cache.keep(torch.tensor(stay))
        positions = positions[:, stay]
        new = torch.randn(positions.shape[1], 1, tokens.hidden.shape[-1], generator=random)
        tokens = text_tokens(3 * new, positions)
        for span in spans:
            tokens, _ = decoder.run(tokens, span, cache)
        logits.append(decoder.logits(tokens.hidden))
        positions = positions + 1
    return Run(scores, hidden, logits)


def check(found: Run, expected: Run, part: float = 1e-5) -> None:
    for given, wanted in zip(found.scores, expected.scores, strict=True):
        assert (given - wanted).abs().max() <= part
    for given, wanted in zip(found.hidden, expected.hidden, strict=True):
        assert (given - wanted).abs().max() <= part * wanted.abs().max()
    for given, wanted in zip(found.logits, expected.logits, strict=True):
        assert (given - wanted).abs().max() <= part * wanted.abs().max()


def test_one_decoder_takes_cuts_at_any_depth_in_turn():
    """Pieces between other stops are compiled when asked for; the parity suite has the rest."""
    model = built("qwen3_vl")
    decoder, reference = decoder_of(model), Torch(model)
    for spans in (WHOLE, CUTS, CASCADE, CUTS):
        tokens = prompts(model, sized=True)
        check(walk(decoder, tokens, spans), walk(reference, tokens, spans))


def test_attention_is_fused_with_its_cache(model: Any):
    """Otherwise a step would copy the whole cache."""
    decoder = decoder_of(model)
    decoder.prepare(*CUTS)
    for span, piece in decoder.pieces.items():
        read = [
            {str(port.get_node().get_friendly_name()).split("_")[0] for port in node.input_values()}
            for node in piece.get_runtime_model().get_ops()
            if node.get_rt_info()["layerType"].astype(str) == "ScaledDotProductAttention"
        ]
        assert len(read) == len(span) and all("ReadValue" in names for names in read)


@torch.no_grad()
def rounded(model: Any, weights: str) -> Any:
    """A copy of the model with every Linear of its layers rounded, and its head in int8."""
    twin = copy.deepcopy(model)
    linears = [one for one in twin.get_decoder().modules() if isinstance(one, torch.nn.Linear)]
    for layer in linears:
        layer.weight.copy_(eighths(layer.weight) if weights == "int8" else fourths(layer.weight))
    head = twin.get_output_embeddings()
    head.weight.copy_(eighths(head.weight))
    return twin


def eighths(weight: Tensor) -> Tensor:
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round() * scale


def fourths(weight: Tensor) -> Tensor:
    groups = weight.unflatten(1, (-1, 32))
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True)
    scale = ((high.clamp(min=0) - low) / 15).half().float()
    zero = (-low / scale).round()
    return (((groups / scale).round() + zero).clamp(0, 15) - zero).mul(scale).flatten(1)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_small_weights_equal_torch_with_rounded_ones(family: str, weights: str):
    model = built(family)
    found = walk(decoder_of(model, weights=weights), prompts(model), CUTS)
    check(found, walk(Torch(rounded(model, weights)), prompts(model), CUTS), 1e-4)


def test_small_weights_are_not_unpacked_while_compiling():
    model = built("llava", wide=True)
    for weights, kind in (("int8", "i8"), ("int4", "u4")):
        decoder = decoder_of(model, weights=weights, settings=FAST)
        decoder.prepare(*WHOLE)
        (piece,) = decoder.pieces.values()
        kinds = [
            node.input_value(1).get_element_type().to_string()
            for node in piece.get_runtime_model().get_ops()
            if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
        ]
        assert kinds == [kind] * (7 * tiny.LAYERS)


def test_weights_of_half_precision_are_kept_in_it_and_computed_in_float32(tmp_path: Path):
    exact, half = built("llava"), built("llava", dtype=torch.bfloat16)
    with torch.no_grad():
        for given, wanted in zip(half.parameters(), exact.parameters(), strict=True):
            wanted.copy_(given)
    half.get_decoder().rotary_emb = exact.get_decoder().rotary_emb  # transformers loads it so
    decoder = decoder_of(half, tmp_path)
    check(walk(decoder, prompts(exact), CUTS), walk(Torch(exact), prompts(exact), CUTS))
    count = sum(one.numel() for one in exact.get_decoder().layers[0].parameters())
    assert (tmp_path / "layer-0.bin").stat().st_size < 3 * count


def test_converted_layers_are_kept_and_need_no_weights_afterwards(tmp_path: Path):
    model, steps = built("llava"), []
    expected = walk(Torch(model), prompts(model), CUTS)
    first = decoder_of(model, tmp_path)
    first.convert(lambda done, every: steps.append((done, every)))
    assert steps == [(done, tiny.LAYERS) for done in range(tiny.LAYERS + 1)]
    assert all(one.is_meta for one in model.get_decoder().layers.parameters())
    check(walk(first, prompts(model), CUTS), expected)
    check(walk(decoder_of(model, tmp_path), prompts(model), CUTS), expected)
    assert whole(Shelf(tmp_path), tiny.LAYERS)
    names = {"head", *(f"layer-{layer}" for layer in range(tiny.LAYERS))}
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("xml", "bin")
    }


def test_a_damaged_piece_is_made_again(tmp_path: Path):
    model = built("llava")
    expected = walk(decoder_of(model, tmp_path), prompts(model), WHOLE)
    damaged = tmp_path / "layer-3.bin"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    check(walk(decoder_of(model, tmp_path), prompts(model), WHOLE), expected)
    assert damaged.read_bytes() == whole


def test_what_an_interrupted_conversion_made_is_used_and_the_rest_made(tmp_path: Path):
    model = built("llava")
    expected = walk(decoder_of(model, tmp_path), prompts(model), WHOLE)
    made = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    (tmp_path / "layer-5.xml").unlink()
    check(walk(decoder_of(model, tmp_path), prompts(model), WHOLE), expected)
    again = {file.name for file in tmp_path.iterdir() if file.stat().st_mtime_ns != made[file.name]}
    assert again == {"layer-5.xml", "layer-5.bin"}


def test_a_disk_that_fills_up_while_converting_stops_nothing(tmp_path: Path):
    """Layers that are on disk have lost their weights by then: they are read from there."""
    model, said = built("llava"), []
    expected = walk(Torch(model), prompts(model), CUTS)
    shelf = Shelf(tmp_path, said.append)
    decoder = OpenVinoDecoder(model, shelf)
    (tmp_path / "layer-3.bin").mkdir()  # in whose place no file can come
    decoder.convert()
    check(walk(decoder, prompts(model), CUTS), expected)
    assert [layer.mlp.up_proj.weight.is_meta for layer in model.get_decoder().layers] == [
        True
    ] * 3 + [False] * 3
    assert len(said) == 1 and not whole(Shelf(tmp_path), tiny.LAYERS)


def test_what_openvino_cannot_take_is_said_in_one_sentence():
    model = built("llava")
    model.get_decoder().layers[4].mlp.forward = lambda hidden: torch.fft.irfft2(hidden).nope
    decoder = decoder_of(model)
    with pytest.raises(ModelError, match=r"^OpenVINO cannot take this model \(layer-4\): "):
        decoder.convert()
    model.get_decoder().config.layer_types = ["chunked_attention"] * tiny.LAYERS
    with pytest.raises(ModelError, match="layers of kind chunked_attention"):
        decoder_of(model)


def test_an_interruption_while_a_layer_is_traced_is_one():
    class Interrupted(torch.nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Shelf(None).read("layer-0", lambda: traced(Interrupted(), (torch.ones(1),)))


def test_a_batch_without_padding_shares_one_mask():
    model = built("llava")
    tokens = prompts(model)
    tokens = replace(tokens, mask=torch.ones_like(tokens.mask), padded=False)
    check(walk(decoder_of(model), tokens, CUTS), walk(Torch(model), tokens, CUTS))


def test_a_folder_that_cannot_be_written_is_told_once_and_no_more(tmp_path: Path):
    model, said = built("llava"), []
    (tmp_path / "file").write_text("")
    decoder = OpenVinoDecoder(model, Shelf(tmp_path / "file", said.append))
    check(walk(decoder, prompts(model), CUTS), walk(Torch(model), prompts(model), CUTS))
    assert len(said) == 1 and said[0].startswith("Not keeping the converted model: ")


@pytest.mark.parametrize(
    ("family", "language"),
    [(family, other) for family, (_, _, every) in FAMILIES.items() for other in every[1:]],
)
def test_other_language_models_of_a_family_equal_torch(family: str, language: str):
    model = built(family, language=language)
    tokens = prompts(model, sized=True)
    check(walk(decoder_of(model), tokens, CUTS), walk(Torch(model), tokens, CUTS))


def pictures(family: str, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    return tiny.together(family, [[tiny.picture(family, seed)] for seed in seeds])


def calm(family: str) -> Any:
    """A model whose tower does not blow rounding up, and whose projector is not all zeros."""
    model = built(family)
    tower = getattr(model.model, "vision_tower", None) or model.model.vision_model
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.ndim > 1:
                parameter.div_(4)
        for parameter in model.model.parameters():
            if not parameter.any() and parameter.ndim > 1:
                parameter.normal_()
    return model


@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if "qwen" not in name])
def test_features_of_a_compiled_tower_equal_the_models_own(family: str, tmp_path: Path):
    model = calm(family)
    first, again = (OpenVinoTower(model, Shelf(tmp_path), EXACT) for _ in range(2))
    for tower, seeds in ((first, (0, 20, 40)), (first, (1,)), (again, (0, 20))):
        given = pictures(family, seeds)
        with torch.inference_mode():
            found = tower.get_image_features(**given).pooler_output
            wanted = model.get_image_features(**given).pooler_output
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape and other.any()
            assert (one - other).abs().max() <= 2e-5 * other.abs().max()


@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if "qwen" not in name])
@pytest.mark.parametrize("method", CHOICES)
def test_patches_dropped_inside_a_compiled_tower_equal_torch(
    family: str, method: Choice, tmp_path: Path
):
    model = calm(family)
    cut = Narrowing(method, 0.5, 0.3)
    expected = narrowed(model, model, cut)
    first, again = (OpenVinoTower(model, Shelf(tmp_path), EXACT).narrowed(cut) for _ in range(2))
    for tower, seeds in ((first, (0, 20)), (first, (1,)), (again, (0,))):
        given = pictures(family, seeds)
        with torch.inference_mode():
            found = tower.get_image_features(**given).pooler_output
            wanted = expected.get_image_features(**given).pooler_output
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape and other.any()
            assert (one - other).abs().max() <= 2e-5 * other.abs().max()


def test_a_tower_that_drops_patches_is_converted_once(tmp_path: Path):
    model = calm("llava")
    cut = Narrowing("likeness", 0.5, 0.3)
    tower = OpenVinoTower(model, Shelf(tmp_path), EXACT)
    tower.get_image_features(**pictures("llava", (0,)))
    tower.narrowed(cut).get_image_features(**pictures("llava", (0,)))
    again = OpenVinoTower(model, Shelf(tmp_path), EXACT)
    assert again.compile_kept()
    assert set(again.compiler.done) == {"tower-3x28x28", "projector-16x32"}
    again.narrowed(cut)
    assert set(again.compiler.done) == set(tower.compiler.done)
    assert len(again.compiler.done) == 3


def test_layers_that_nobody_reads_are_not_computed():
    model = calm("llava")  # which reads the last but one
    tower = OpenVinoTower(model, Shelf(None), EXACT)
    tower.get_image_features(**pictures("llava", (0,)))
    nodes = tower.compiler.done["tower-3x28x28"].get_runtime_model().get_ops()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in nodes]
    layers = len(model.model.vision_tower.encoder.layers)
    assert kinds.count("FullyConnected") == 6 * (layers - 1)


GRIDS = (  # of images in one call: patches in time, rows, columns
    [(1, 4, 4)],
    [(1, 2, 2)],
    [(1, 4, 6), (1, 4, 4)],
    [(1, 10, 14), (1, 6, 4), (1, 2, 18), (1, 6, 4)],
)


@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if "qwen" in name])
def test_a_compiled_tower_for_patches_takes_images_of_any_sizes(family: str, tmp_path: Path):
    """Each image and each window sees itself only; the second tower only reads."""
    model = built(family)
    first, again = (OpenVinoTower(model, Shelf(tmp_path), EXACT) for _ in range(2))
    assert not first.compile_kept()
    for tower, grids in [*((first, grids) for grids in GRIDS), (again, GRIDS[-1])]:
        assert tower is first or tower.compile_kept()
        random = torch.Generator().manual_seed(7)
        width, count = 3 * tiny.PATCH**2, sum(rows * columns for _, rows, columns in grids)
        pixels = torch.randn(count, width, generator=random)
        given = {"pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}
        with torch.inference_mode():
            found, wanted = (one.get_image_features(**given) for one in (tower, model))
        levels = (getattr(one, "deepstack_features", None) or [] for one in (found, wanted))
        pairs = [(found.pooler_output, wanted.pooler_output), *zip(*levels, strict=True)]
        assert len(pairs) == (3 if family == "qwen3_vl" else 1)
        for compiled, own in pairs:
            assert [len(one) for one in compiled] == [len(one) for one in own]
            one, other = torch.cat(list(compiled)), torch.cat(list(own))
            assert (one - other).abs().max() <= 1e-5 * other.abs().max()


class Bessel(torch.nn.Module):
    """What OpenVINO does not know."""

    def forward(self, given: Tensor) -> Tensor:
        return torch.special.i0(given)


def test_pytorch_runs_a_tower_that_openvino_cannot_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STS_CACHE", str(tmp_path / "cache"))
    folder = checkpoints.write("qwen2_vl", tmp_path / "model")
    loaded = load(find(str(folder)), dtype="float32", device="cpu", backend="openvino")
    assert isinstance(loaded.encoder, OpenVinoTower)
    loaded.model.model.visual.merger.ln_q = Bessel()
    said: list[str] = []
    parts = (loaded.model, loaded.processor, Shelf(None), loaded.decoder)
    assert tower_of(*parts, said.append) is loaded.model
    assert len(said) == 1 and said[0].startswith("OpenVINO cannot take this model (tower-patches)")
    assert said[0].endswith(" PyTorch runs the vision tower.") and "\n" not in said[0]


@pytest.mark.parametrize(
    ("installed", "words"),
    [(None, "is not installed; run"), ("2025.4.1", "2025.4.1 is installed, but"), ("2027.0.0", "")],
)
def test_why_openvino_cannot_be_used_is_said(
    installed: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert problem() is None
    if installed is not None:
        info = tmp_path / f"openvino-{installed}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: openvino\nVersion: {installed}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    said = problem()
    assert said is not None and words in said and "pip install" in said


def test_prompts_of_equal_length_are_answered_right_in_bfloat16():
    """Without padding one bias would do for all rows, but OpenVINO then computes only the first."""
    vlm = load_model(find("demo"), Profile("off", backend="openvino"), dtype="bfloat16")
    engine, (asked, *others) = vlm.engine, suite(4, 0.0)
    scenes = {one.digests[0]: one.images[0] for one in (asked, *others)}
    pixels = [engine.family.pixels(image) for image in list(scenes.values())[:3]]
    encoded, _ = engine.encode(pixels)
    ids = engine.family.tokenize("what color is the sign?", pixels[:1])
    prompts = [Prompt(ids, (image,)) for image in encoded]
    together = engine.generate(prompts, OFF, max_new_tokens=8)
    alone = [engine.generate([prompt], OFF, max_new_tokens=8)[0] for prompt in prompts]
    assert [row.ids for row in together] == [row.ids for row in alone]


def test_no_thread_is_bound_to_a_core_that_another_process_may_need():
    vlm = load_model(find("demo"), replace(OFF, backend="openvino"), device="cpu")
    decoder = vlm.engine.decoder
    assert isinstance(decoder, OpenVinoDecoder) and decoder.pieces
    for compiled in (decoder.last, *decoder.pieces.values()):
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
