"""SGL: a smaller model answers first, and what it looked at stays in the large one."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
import strangers
import tiny
import torch
from running import sts
from test_parity import Subject, dropped_and_hidden

from sts_cli.checkpoints.sources import find
from sts_cli.decoding.attention import NAME
from sts_cli.engine.importance import guide_of, guided, importance, moved
from sts_cli.errors import ProfileError
from sts_cli.evaluation.conditions import controls
from sts_cli.families.default import Encoded, Prompt
from sts_cli.families.places import raster
from sts_cli.inputs.images import decode_ahead
from sts_cli.library import Model, load_model
from sts_cli.profile import Cut, Profile
from sts_cli.profile_files import load_profile, parse
from sts_cli.profile_files.writing import as_yaml
from sts_cli.records import Item

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "sts_cli" / "demo"
SIGN, SHAPES = (str(ROOT / "samples" / name) for name in ("sign.png", "shapes.png"))
FAMILIES = [name for name in tiny.FAMILIES if name != "mllama"]  # which is refused
QUESTIONS = (  # two about one picture
    (SIGN, "what is on the sign?"),
    (SHAPES, "how many shapes are there?"),
    (SIGN, "which color is the sign?"),
    (SHAPES, "describe the image."),
)


def sgl(guide: Any, keep: int = 40, depth: float = 0.5, **more: Any) -> Profile:
    return Profile("mine", cuts=(Cut("sgl", keep, depth),), guide=str(guide), **more)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-NeXT, whose tiles have other grids than the demo model's 24 x 24."""
    return checkpoints.write("llava_next", tmp_path_factory.mktemp("guide"))


def asked(vlm: Model, questions: Any = QUESTIONS, **options: Any) -> list[Any]:
    items = [
        Item(id=str(number), images=(image,), question=text)
        for number, (image, text) in enumerate(questions)
    ]
    found = list(vlm.batch(items, max_new_tokens=6, places=True, **options))
    assert [one.problem for one in found] == [None] * len(found)
    return found


# What the guide looked at


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_attention_of_the_words_and_the_answer_in_all_layers(family: str):
    """transformers' eager attention of prompt and answer, summed up here; rows are padded."""
    subject = Subject(family)
    prompts, answers = subject.prompts((0, 1)), ([7, 8, 9], [11])
    found = importance(subject.engine.family, prompts, answers)
    for row, (prompt, ids) in enumerate(zip(prompts, answers, strict=True)):
        inputs = subject.inputs((row,))
        whole = torch.tensor([[*prompt.ids, *ids]])
        inputs |= {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        for name in {"token_type_ids", "mm_token_type_ids"} & inputs.keys():
            inputs[name] = (whole == tiny.IMAGE).to(inputs[name].dtype)
        subject.model.set_attn_implementation("eager")
        with torch.inference_mode():
            layers = subject.model(**inputs, output_attentions=True).attentions
        subject.model.set_attn_implementation("sdpa")
        subject.model.set_attn_implementation({"text_config": NAME})
        last = int((whole[0] == tiny.IMAGE).nonzero()[-1])
        paid = sum(layer[0, :, last + 1 :].sum((0, 1)) for layer in layers)
        expected = paid[whole[0] == tiny.IMAGE] / layers[0].shape[1]
        torch.testing.assert_close(torch.cat(found[row]), expected, atol=1e-5, rtol=1e-4)


def test_scores_move_to_the_nearest_token():
    fine, coarse = raster(4, 4), raster(2, 2)
    scores = torch.arange(16.0)
    assert torch.equal(moved(scores, fine, fine), scores)
    assert moved(scores, fine, coarse).tolist() == [2.5, 4.5, 10.5, 12.5]  # means of 2 x 2
    four = torch.tensor([1.0, 2, 3, 4])
    spread = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert moved(four, coarse, fine).view(4, 4).tolist() == spread


def test_tokens_at_one_place_have_one_score():
    """A picture's tile and the whole picture, as in LLaVA-NeXT."""
    twice = torch.cat([raster(2, 2), raster(2, 2)])
    assert moved(torch.tensor([1.0, 2, 3, 4]), raster(2, 2), twice).tolist() == [1, 2, 3, 4] * 2


def encoded(grid: torch.Tensor, shown: Any = (0.0, 0.0, 1.0, 1.0)) -> Encoded:
    pixels: Any = SimpleNamespace(shown=shown)
    return Encoded(torch.zeros(len(grid), 2), grid, (), pixels)


def test_what_one_model_crops_lies_where_the_other_sees_it():
    """The guide sees the middle half of a wide picture, the model all of it."""
    whole = encoded(raster(1, 4))
    middle = encoded(raster(1, 2), (0.0, 0.25, 1.0, 0.5))
    there = guided(Prompt([], (whole,)), [middle], [torch.tensor([5.0, 7.0])])
    assert there.guide[0].tolist() == [5, 5, 7, 7]
    back = guided(Prompt([], (middle,)), [whole], [torch.tensor([1.0, 2, 3, 4])])
    assert back.guide[0].tolist() == [1.5, 3.5]  # what was cropped counts for what is nearest


def test_after_a_cut_scores_are_found_by_place():
    images = encoded(raster(2, 2)), encoded(raster(1, 3))
    scores = torch.tensor([1.0, 2, 3, 4]), torch.tensor([5.0, 6, 7])
    prompt = Prompt([], images, guide=scores)
    left = torch.cat([raster(2, 2)[[0, 3]], raster(1, 3)[[2]]])
    assert guide_of(prompt, left, torch.tensor([0, 0, 1])).tolist() == [1, 4, 7]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_guide_did_not_look_at_is_as_if_hidden(family: str):
    """Dropping equals masking, as for every method; the scores are drawn. One cut comes before."""
    subject = Subject(family)
    plain = subject.prompts
    random = torch.Generator().manual_seed(3)
    drawn = {n: torch.rand(n, generator=random) for n in range(1, 200)}

    def prompts(*given: Any, **options: Any) -> list[Prompt]:
        made = plain(*given, **options)
        return [
            replace(one, guide=tuple(drawn[len(image.features)] for image in one.images))
            for one in made
        ]

    subject.prompts = prompts  # type: ignore[method-assign]
    cuts = (Cut("repulsion", 0.5), Cut("sgl", 0.25, 0.5))
    for profile in (Profile("late", cuts=cuts), Profile("early", cuts=(Cut("sgl", 0.25),))):
        found, expected = dropped_and_hidden(subject, profile)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


# The whole way


@pytest.mark.parametrize("backend", ("torch", "openvino"))
def test_the_large_model_keeps_what_the_guide_looked_at(small: Path, backend: Any):
    """Worked out from a guide that is loaded and asked here, apart from the run."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    profile = sgl(small, keep=9, depth=0.25, backend=backend)
    vlm = load_model(find("demo"), profile, dtype="float32", device="cpu")
    assert vlm.precision.endswith("openvino") == (backend == "openvino")
    assert vlm.engine.guide is not None and vlm.engine.guide.name == str(small)
    off = Profile("off", backend="torch")
    guide = load_model(find(str(small)), off, dtype="float32", device="cpu").engine
    for answer, (path, text) in zip(asked(vlm), QUESTIONS, strict=True):
        (ready,) = decode_ahead([Item(id="1", images=(path,), question=text)], workers=1)
        pixels = guide.family.pixels(ready.images[0])
        (image,), _ = guide.encode([pixels])
        prompt = Prompt(guide.family.tokenize(text, [pixels]), (image,))
        (said,) = guide.generate([prompt], off, max_new_tokens=6)
        ((scores,),) = importance(guide.family, [prompt], [said.ids])
        large = raster(24, 24)
        score = moved(scores, image.grid, large)
        best = sorted(score.argsort(descending=True, stable=True)[:9].tolist())
        (kept,) = answer.kept
        places = torch.tensor(kept.left[0])
        assert torch.cdist(places, large).argmin(1).tolist() == best


def test_a_batch_equals_its_rows_alone_and_each_compared(small: Path):
    vlm = load_model(find("demo"), sgl(small), dtype="float32", device="cpu")
    together = asked(vlm, batch_size=4)
    alone = [asked(vlm, [one], batch_size=1)[0] for one in QUESTIONS]
    compared = asked(vlm, compare=True, batch_size=4)
    assert max(one.rows for one in together) > 1
    for one, other, third in zip(together, alone, compared, strict=True):
        assert one.text == other.text == third.text
        assert one.kept == other.kept == third.kept
    assert len({str(one.kept) for one in together}) > 2  # it follows the question, too


class Ticking:
    """A clock that is a thousand seconds later at each look."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, itertools.count(step=1000)

    def __call__(self) -> float:
        return next(self.seconds)


def test_what_the_guide_costs_is_told_once_a_question(small: Path):
    """Its own clock goes by the thousand; the model's is real."""
    vlm = load_model(find("demo"), sgl(small), dtype="float32", device="cpu")
    guide = vlm.engine.guide
    assert guide is not None
    guide.clock = Ticking(guide.clock.device)  # type: ignore[assignment]
    (one,) = asked(vlm, QUESTIONS[:1])
    whole = one.seconds.select // 1000  # looks at the clock for one batch
    assert whole >= 1 and one.seconds.total >= one.seconds.first_token >= 1000 * whole
    shared = asked(vlm, batch_size=4)
    assert all(row.seconds.select >= 250 for row in shared)  # at least a quarter of a look
    (versus,) = asked(vlm, QUESTIONS[:1], compare=True)
    assert versus.seconds.select // 1000 == whole
    assert versus.comparison.full.seconds.select < 1000


def test_a_question_without_an_image_needs_no_guide(small: Path):
    vlm = load_model(find("demo"), sgl(small), dtype="float32", device="cpu")
    bare = Item(id="none", images=(), question="what is on the sign?")
    both = [bare, Item(id="one", images=(SIGN,), question="what is on the sign?")]
    found = list(vlm.batch(both, max_new_tokens=4, batch_size=2))
    assert [one.problem for one in found] == [None, None]
    assert [one.tokens.left for one in found] == [(0,), (40,)]  # type: ignore[union-attr]
    (alone,) = vlm.batch([bare], max_new_tokens=4, profile="off")
    assert found[0].text == alone.text


def test_two_images_of_a_question_are_each_moved(small: Path):
    vlm = load_model(find("demo"), sgl(small), dtype="float32", device="cpu")
    two = Item(id="two", images=(SIGN, SHAPES), question="which is larger?")
    (one,) = vlm.batch([two], max_new_tokens=2, places=True)
    assert one.problem is None and one.tokens is not None and one.tokens.left == (80,)
    assert one.kept is not None and sum(len(image.left[0]) for image in one.kept) == 80
    assert min(len(image.left[0]) for image in one.kept) >= 10  # the floor of each


def test_controls_of_an_evaluation_have_no_guide():
    profile = replace(sgl("demo"), name="mine")
    found = controls([profile], [profile])
    assert found and all(one.profile.guide is None for one in found)


def test_a_profile_with_a_guide_may_escalate_to_one_without(small: Path, tmp_path: Path):
    text = f"guide: {small}\ncuts: [{{method: sgl, keep: 9}}]\n"
    (tmp_path / "first.yaml").write_text(f"{text}escalate: {{below: 1, to: off}}\n")
    profile = load_profile(str(tmp_path / "first.yaml"))
    vlm = load_model(find("demo"), profile, dtype="float32", device="cpu")
    found = asked(vlm)
    plain = asked(load_model(find("demo"), Profile("off"), dtype="float32", device="cpu"))
    assert [one.escalated for one in found] == ["first"] * 4
    assert [one.text for one in found] == [one.text for one in plain]
    (tmp_path / "above.yaml").write_text(
        "structure: {method: grid, keep: 5}\nescalate: {below: 1, to: second.yaml}\n"
    )
    (tmp_path / "second.yaml").write_text(text)
    with pytest.raises(ProfileError, match="which only the first profile of a cascade may have"):
        load_profile(str(tmp_path / "above.yaml"))


# Profiles, and what does not fit


def test_a_guide_is_a_name_or_a_folder_beside_the_profile(tmp_path: Path):
    text = "guide: {}\ncuts: [{{method: sgl, keep: 9, depth: 0.3}}]"
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "demo").mkdir()
    where = str(tmp_path / "mine.yaml")
    for given, meant in (
        ("models/small", str(tmp_path / "models" / "small")),
        ("demo", "demo"),
        ("org/name", "org/name"),
    ):
        profile = parse(text.format(given), "mine", where)
        assert profile.guide == meant and profile.settings()["guide"] == meant
        assert parse(as_yaml(profile), "mine", where) == profile
    assert "guide" not in Profile("off").settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuts: [{method: sgl, keep: 9}]", "guide is missing: sgl keeps what a smaller model"),
        ("guide: demo\nstructure: {method: grid, keep: 9}", "no cut asks a guide"),
        ("guide: demo", "no cut asks a guide"),
        ("guide: {model: demo}\ncuts: [{method: sgl, keep: 9}]", "must be the name of a model"),
    ],
)
def test_a_guide_and_a_cut_that_asks_it_belong_together(text: str, message: str):
    with pytest.raises(ProfileError, match=message) as caught:
        parse(text, "mine", "mine.yaml")
    assert str(caught.value).startswith("mine.yaml") and "\n" not in str(caught.value)


def without_weights(folder: Path) -> Any:
    """The source of a copy of the demo model, whose weights are gone since it was found."""
    shutil.copytree(DEMO, folder)
    source = find(str(folder))
    (folder / "model.safetensors").unlink()
    return source


def test_a_guide_that_does_not_fit_is_refused_before_anything_is_loaded(tmp_path: Path):
    source = without_weights(tmp_path / "model")
    stranger = strangers.write("llava around phi3", tmp_path / "phi3")
    for guide, message in (
        ("demmo", "guide 'demmo' cannot be used: No model 'demmo'.*Did you mean 'demo'"),
        (tmp_path / "gone", "cannot be used: No folder"),
        (stranger, "is of the untested family 'llava': the places of its visual tokens"),
    ):
        with pytest.raises(ProfileError, match=message) as caught:
            load_model(source, sgl(guide))
        assert "\n" not in str(caught.value)
    with pytest.raises(ProfileError, match="does not fit .*phi3', which is of the untested family"):
        load_model(find(str(stranger)), sgl("demo"))
    other = replace(sgl(DEMO), name="other")
    with pytest.raises(ProfileError, match="'mine' has demo and 'other' has .*share one"):
        load_model(source, sgl("demo"), others=(other,))


def test_a_guide_that_was_not_loaded_is_missed_before_the_first_question():
    vlm = load_model(find("demo"), Profile("off"), device="cpu")
    with pytest.raises(ProfileError, match="its guide 'demo' is not loaded. Load the model with"):
        vlm.ask(SIGN, profile=sgl("demo"))


def test_a_run_goes_on_with_the_same_guide_only(tiny_checkpoint: Path, tmp_path: Path):
    shutil.copytree(tiny_checkpoint, tmp_path / "small")
    profile, out = tmp_path / "mine.yaml", tmp_path / "out.jsonl"
    profile.write_text("guide: small\ncuts: [{method: sgl, keep: 9}]\n")
    run = ("batch", SIGN, "-Q", "what?", "-o", out, "-p", profile, "--max-new-tokens", 2)
    assert sts(*run).code == 0
    assert sts(*run).code == 0
    with (tmp_path / "small" / "model.safetensors").open("r+b") as weights:
        weights.seek(-2, os.SEEK_END)
        weights.write(b"\1\1")
    again = sts(*run)
    assert again.code == 2 and "answers of another guide: model.safetensors" in again.err
