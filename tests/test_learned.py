"""LearnPruner's scorer: what it is made of, which model it fits, and that a run knows it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from running import sts
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from demo_model.scorer import Scored, fitted
from sts_cli import pruning
from sts_cli.checkpoints.fingerprint import weights_digest
from sts_cli.checkpoints.sources import find
from sts_cli.engine.needs import lacking
from sts_cli.errors import ProfileError
from sts_cli.library import load_model
from sts_cli.profile import Cut, Profile
from sts_cli.profile_files import load_profile, parse
from sts_cli.profile_files.writing import as_yaml
from sts_cli.pruning.learnpruner import SHIPPED, Learnpruner, examined, rated, weights_of
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.suite import HELD_OUT

ROOT = Path(__file__).parents[1]
SIGN = ROOT / "samples" / "sign.png"
TOLD = {"method": "learnpruner", "width": "4", "model": "mine", "weights": "0123"}
Write = Callable[..., Path]


def tensors(width: int = 4, inner: int = 2) -> dict[str, torch.Tensor]:
    """A scorer of which value 0 of the features, beside the others, is the score."""
    hidden = torch.zeros(inner, width)
    hidden[0, 0] = 1
    return {
        "norm": torch.ones(width),
        "norm_bias": torch.zeros(width),
        "hidden": hidden,
        "hidden_bias": torch.zeros(inner),
        "score": torch.eye(1, inner),
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str = "mine.safetensors", told: Any = None, **changed: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        save_file({**tensors(), **changed}, path, {**TOLD, **(told or {})})
        return path

    return written


def kept(path: Path, values: Any, count: int, **options: Any) -> list[int]:
    values = torch.tensor(values, dtype=torch.float32)
    one = torch.zeros(len(values), dtype=torch.long)
    grid = torch.zeros(len(values), 2)
    seen = pruning.Candidates(values, grid, one, torch.ones(len(values)))
    return Learnpruner(scorer=str(path), **options).cut(seen, count).keep.tolist()


TOKENS = [  # their first value after the norm is 1.63, 1.73, -0.58, 1.63 and 1.35
    [3, 1, 0, 0],
    [3, 0, 0, 0],
    [0, 0, 0, 3],
    [3, 0, 1, 0],
    [3, 2, 0, 0],
]


def test_the_best_rated_stay_and_some_that_differ(write: Write):
    assert kept(write(), TOKENS, 2, diverse=0) == [0, 1]  # the first of equals
    assert kept(write(), TOKENS, 3, diverse=0) == [0, 1, 3]
    assert kept(write(), TOKENS, 3, diverse=0.34) == [0, 1, 2]  # like neither
    assert kept(write(), TOKENS, 3, diverse=0.67) == [1, 2, 4]  # then the least like those two
    assert kept(write(), TOKENS, 4, diverse=1) == [1, 2, 3, 4]


def test_a_scorer_that_is_replaced_is_read_again(write: Write):
    path = write()
    assert kept(path, TOKENS, 1) == [1]
    write(score=torch.tensor([[-1.0, 0.0]]))
    assert kept(path, TOKENS, 1) == [2]


def test_scores_are_those_of_the_network_in_the_docstring():
    random = torch.Generator().manual_seed(4)
    weights = {name: torch.randn(part.shape, generator=random) for name, part in tensors().items()}
    features = torch.randn(6, 4, generator=random).double().numpy()
    w = {name: part.double().numpy() for name, part in weights.items()}
    centred = features - features.mean(1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    inner = (unit * w["norm"] + w["norm_bias"]) @ w["hidden"].T + w["hidden_bias"]
    erf = torch.erf(torch.from_numpy(inner / 2**0.5)).numpy()
    expected = (inner * (1 + erf) / 2) @ w["score"][0]
    found = rated(torch.from_numpy(features).float(), weights)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_training_finds_what_answers_look_at():
    """A third of the tokens have a sign of being looked at in their features."""
    random = torch.Generator().manual_seed(5)
    features = torch.randn(24, 30, 16, generator=random)
    marked = torch.rand(24, 30, generator=random) < 0.3
    features[..., 3] = torch.where(marked, 3.0, 0.0)
    wanted = marked + 0.01
    data = Scored(features[:20], wanted[:20] / wanted[:20].sum(1, keepdim=True))
    weights = fitted(data, 8, lambda message: None, steps=200)
    assert {name: part.ndim for name, part in weights.items()} == {
        name: part.ndim for name, part in tensors().items()
    }
    for values, found in zip(features[20:], marked[20:], strict=True):
        assert rated(values, weights)[found].min() > rated(values, weights)[~found].max()


# The scorer that ships


def test_the_shipped_scorer_is_of_the_demo_model_and_small():
    source = find("demo")
    assert examined(SHIPPED) == {
        "method": "learnpruner",
        "width": "192",
        "model": "demo",
        "weights": weights_digest(source.checkpoint),  # type: ignore[arg-type]
    }
    assert SHIPPED.stat().st_size < 60e3


def test_the_shipped_scorer_prefers_things_to_their_background():
    """On held-out scenes, where a token shows a thing if most of its patch does."""
    engine = load_model(find("demo"), Profile("off", backend="torch"), device="cpu").engine
    weights = weights_of(SHIPPED, (0, 0), "cpu")
    chosen, everywhere = [], []
    for seed in range(HELD_OUT, HELD_OUT + 6):
        scene = draw(seed, 0.5)
        owner = Image.fromarray((scene.owner > 0).astype(np.uint8) * 255)
        shows = np.asarray(owner.resize((24, 24), Image.Resampling.BOX)).ravel() > 128
        (image,), _ = engine.encode([engine.family.pixels(scene.image)])
        best = rated(image.features, weights).topk(32).indices.numpy()
        chosen.append(shows[best].mean())
        everywhere.append(shows.mean())
    assert np.mean(chosen) > 2 * np.mean(everywhere)


def test_the_list_of_methods_names_what_they_need():
    said = " ".join(sts("profiles", "methods").out.split())
    assert "LearnPruner, arXiv 2604.23950; needs a scorer of the model" in said
    assert "scorer a .safetensors file (demo)" in said
    assert "SGL, arXiv 2412.03324; needs a smaller model as guide" in said


# What fits


def test_a_scorer_is_named_as_seen_from_its_profile(write: Write, tmp_path: Path):
    write("scorers/mine.safetensors")
    text = "cuts: [{method: learnpruner, scorer: scorers/mine.safetensors, keep: 9, diverse: 0.2}]"
    profile = parse(text, "mine", str(tmp_path / "mine.yaml"))
    (cut,) = profile.cuts
    scorer = str(tmp_path / "scorers" / "mine.safetensors")
    assert cut.options == {"scorer": scorer, "diverse": 0.2}
    assert parse(as_yaml(profile), "mine", "elsewhere/mine.yaml") == profile


def test_settings_know_a_scorer_by_its_content(write: Write, tmp_path: Path):
    def told(path: str) -> Any:
        text = f"structure: {{method: learnpruner, scorer: {path}, keep: 9}}"
        return parse(text, "mine", str(tmp_path / "mine.yaml")).settings()["cuts"][0]["options"]

    shutil.copy(write("a.safetensors"), tmp_path / "b.safetensors")
    write("c.safetensors", score=torch.tensor([[0.0, 1.0]]))
    assert told("a.safetensors") == told("b.safetensors") != told("c.safetensors")
    assert str(tmp_path) not in json.dumps(told("a.safetensors"))
    plain = parse("structure: {method: learnpruner, keep: 9}", "mine", "mine.yaml").settings()
    assert plain["cuts"][0]["options"] == told("demo") != {}
    grid = parse("structure: {method: grid, keep: 9}", "mine", "mine.yaml").settings()
    assert grid["cuts"] == [{"method": "grid", "keep": 9, "depth": 0.0, "options": {}}]


def test_a_run_goes_on_with_the_same_scorer_only(tmp_path: Path):
    shutil.copy(SHIPPED, tmp_path / "mine.safetensors")
    profile, out = tmp_path / "mine.yaml", tmp_path / "out.jsonl"
    profile.write_text("structure: {method: learnpruner, scorer: mine.safetensors, keep: 9}")
    run = ("batch", SIGN, "-Q", "what?", "-o", out, "-p", profile, "--max-new-tokens", 2)
    assert sts(*run).code == 0
    assert sts(*run).code == 0
    other = load_file(tmp_path / "mine.safetensors")
    other["score"] *= 2
    save_file(other, tmp_path / "mine.safetensors", dict(examined(SHIPPED)))
    again = sts(*run)
    assert again.code == 2 and "answers of another profile: cuts" in again.err


MISTAKES = [
    ("gone.safetensors", "there is no file"),
    ("text.safetensors", "cannot be read as safetensors"),
    ("cut.safetensors", "cannot be read as safetensors"),
    ("other.safetensors", "is no scorer of learnpruner: its metadata do not say so"),
    ("shape.safetensors", "is a damaged scorer: its tensors are not those of width 4"),
    ("lacking.safetensors", "is a damaged scorer"),
    ("nan.safetensors", "is a damaged scorer"),
    ("bfloat16.safetensors", "is a damaged scorer"),
    ("scorer.bin", "scorer is 'scorer.bin'. Give a .safetensors file, as seen from this one"),
    ("3", "scorer is 3. Give a .safetensors file"),
]


@pytest.mark.parametrize(("name", "message"), MISTAKES)
def test_what_is_no_scorer_is_one_sentence(name: str, message: str, write: Write, tmp_path: Path):
    whole = write().read_bytes()
    (tmp_path / "text.safetensors").write_text("scores")
    (tmp_path / "cut.safetensors").write_bytes(whole[:-4])
    write("other.safetensors", {"method": "mine"})
    write("shape.safetensors", hidden=torch.zeros(2, 5))
    write("nan.safetensors", score=torch.full((1, 2), torch.nan))
    write("bfloat16.safetensors", score=torch.zeros(1, 2, dtype=torch.bfloat16))
    few = {part: values for part, values in tensors().items() if part != "score"}
    save_file(few, tmp_path / "lacking.safetensors", TOLD)
    where = str(tmp_path / "mine.yaml")
    with pytest.raises(ProfileError) as caught:
        parse(f"structure: {{method: learnpruner, scorer: {name}, keep: 9}}", "mine", where)
    said = str(caught.value)
    assert said.startswith(where) and message in said
    assert said.endswith(".") and "\n" not in said


def test_the_scorer_of_another_model_is_refused_before_weights_are_read(
    write: Write, tmp_path: Path
):
    shutil.copytree(ROOT / "sts_cli" / "demo", tmp_path / "model")
    source = find(str(tmp_path / "model"))
    whole = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(whole[:-9])
    demo = Profile("mine", cuts=(Cut("learnpruner", 9),))
    for config in (tiny.config("llava"), tiny.config("qwen2_5_vl")):
        with pytest.raises(ProfileError, match="takes features of width 192, and .* have 32. Give"):
            lacking(demo, "a model", config)
    path = write("other.safetensors", {"width": "192"}, **tensors(192))
    other = Profile("mine", cuts=(Cut("learnpruner", 9, options={"scorer": str(path)}),))
    with pytest.raises(ProfileError, match="was trained for other weights .of 'mine'.") as caught:
        load_model(source, other)
    assert "\n" not in str(caught.value)
    with pytest.raises(SafetensorError):  # what a whole load would come upon
        load_model(source, Profile("off"))


def test_a_copy_of_the_model_has_the_same_scorer(tmp_path: Path):
    shutil.copytree(ROOT / "sts_cli" / "demo", tmp_path / "copy")
    profile = tmp_path / "mine.yaml"
    profile.write_text("structure: {method: learnpruner, keep: 9}")
    vlm = load_model(find(str(tmp_path / "copy")), load_profile(str(profile)), device="cpu")
    answer = vlm.ask(SIGN, "what is on the sign?", max_new_tokens=2)
    assert answer.tokens is not None and answer.tokens.left == (9,)
    other = load_model(find("demo"), Profile("off"), device="cpu")
    path = tmp_path / "foreign.safetensors"
    save_file(load_file(SHIPPED), path, {**examined(SHIPPED), "weights": "0123"})
    foreign = Profile("mine", cuts=(Cut("learnpruner", 9, options={"scorer": str(path)}),))
    with pytest.raises(ProfileError, match="was trained for other weights"):
        other.ask(SIGN, profile=foreign)
