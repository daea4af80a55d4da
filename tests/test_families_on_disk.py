"""Every family's checkpoint on disk, with its real processor, through `sts` as a user runs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import tiny
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from sts_cli.__main__ import app
from sts_cli.checkpoints.sources import find
from sts_cli.loading.model import load
from sts_cli.profile_files import load_profile

QUESTION = "what is on the sign in this picture"
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = Image.new("RGB", (150, 100), "white")
    ImageDraw.Draw(image).rectangle((20, 30, 90, 80), fill="red")
    path = tmp_path_factory.mktemp("pictures") / "sign.png"
    image.save(path)
    return path


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One family's checkpoint, wide enough for every precision."""
    if request.param == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("the SmolVLM processor needs num2words: pip install num2words")
    return checkpoints.write(request.param, tmp_path_factory.mktemp(request.param), wide=True)


def sts(*words: str | Path | int) -> str:
    """What `sts` writes to stdout; it must succeed."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def ask(folder: Path, picture: Path, profile: str, *options: str) -> dict[str, Any]:
    shared = ("--profile", profile, "--max-new-tokens", str(NEW_TOKENS), "--device", "cpu")
    row = sts("ask", picture, QUESTION, "-m", folder, "--json", *shared, *options)
    return dict(json.loads(row))


def by_generate(folder: Path, pictures: list[Path], quantize: Any) -> tuple[str, int]:
    """transformers' own answer, in float32, and the number of visual tokens of its prompt."""
    loaded = load(find(str(folder)), device="cpu", dtype="float32", quantize=quantize)
    processor = loaded.processor
    images = [Image.open(picture) for picture in pictures]
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=[images], text=[prompt], return_tensors="pt")
    ids = loaded.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    answer = ids[0, inputs["input_ids"].shape[1] :]
    visual = (inputs["input_ids"] == loaded.model.config.image_token_id).sum().item()
    return processor.decode(answer, skip_special_tokens=True).strip(), visual


@pytest.mark.parametrize("quantize", ["none", "int8", "int4", "nf4"])
def test_without_pruning_the_answer_is_that_of_generate(
    folder: Path, picture: Path, quantize: str
) -> None:
    row = ask(folder, picture, "off", "--dtype", "float32", "--quantize", quantize)
    text, visual = by_generate(folder, [picture], quantize)
    assert row["answer"] == text
    assert row["tokens"]["visual"] == row["tokens"]["structure"] == visual


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_profile_prunes_what_it_says(folder: Path, picture: Path, quantize: str) -> None:
    tokens = ask(folder, picture, "gentle", "--quantize", quantize)["tokens"]
    profile, visual = load_profile("gentle"), tokens["visual"]
    assert (tokens["structure"], tokens["semantics"]) == profile.budgets(visual)
    assert tokens["semantics"] < tokens["structure"] < visual
    assert tokens["average"] == pytest.approx(profile.planned(visual, tiny.LAYERS), abs=0.01)


def test_a_special_token_in_a_question_is_only_text(folder: Path, picture: Path) -> None:
    question = "is there an <image> <|image_pad|> <start_of_image> <IMG_CONTEXT> here?"
    row = json.loads(sts("ask", picture, question, "-m", folder, "--json", "--profile", "off"))
    assert row["error"] is None
    assert row["tokens"]["visual"] == ask(folder, picture, "off")["tokens"]["visual"]


def test_several_images_in_a_question_are_those_of_generate(
    folder: Path, picture: Path, tmp_path: Path
) -> None:
    images = [str(picture), str(picture)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"image": images, "question": QUESTION}) + "\n")
    limit = ("--max-new-tokens", NEW_TOKENS, "--dtype", "float32", "--device", "cpu")
    row = json.loads(sts("batch", questions, "-m", folder, "--profile", "off", *limit))
    assert (row["answer"], row["tokens"]["visual"]) == by_generate(
        folder, [picture, picture], "none"
    )


def test_a_batch_prunes_each_image(folder: Path, picture: Path, tmp_path: Path) -> None:
    pairs = [{"image": [str(picture)] * count, "question": QUESTION} for count in (2, 3)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    told = sts("batch", questions, "-m", folder, "--profile", "balanced")
    two, three = (json.loads(line)["tokens"] for line in told.splitlines())
    assert 2 * three["visual"] == 3 * two["visual"]
    assert 2 * three["structure"] == 3 * two["structure"] < 3 * two["visual"]
