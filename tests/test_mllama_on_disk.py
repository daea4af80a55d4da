"""Mllama's checkpoint on disk, with its real processor, through `sts` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import tiny
import torch
from PIL import Image
from running import sts
from transformers.models.mllama.image_processing_pil_mllama import (
    get_image_size_fit_to_canvas,
)

import sts_cli
from sts_cli.checkpoints.sources import find
from sts_cli.loading.model import load
from sts_cli.profile import Cut, Profile
from sts_cli.profile_files import load_profile
from sts_cli.report.rasters import rasters

QUESTION = "what is on the sign in this picture"
NEW_TOKENS = 6
PER_TILE = (tiny.SIDE // tiny.PATCH) ** 2 + 1
SIZES = ((20, 24), (50, 20), (60, 60))  # one tile, two beside each other, four


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write("mllama", tmp_path_factory.mktemp("mllama"), wide=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(SIZES):
        Image.effect_noise(size, 80).convert("RGB").save(place / f"{number}.png")
    return [place / f"{number}.png" for number in range(len(SIZES))]


def ask(folder: Path, picture: Path, *options: str) -> dict[str, Any]:
    shared = ("--max-new-tokens", NEW_TOKENS, "--device", "cpu", "--json")
    done = sts("ask", picture, QUESTION, "-m", folder, *shared, *options)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def by_generate(folder: Path, pictures: list[Path], quantize: Any = "none") -> tuple[str, int]:
    """transformers' own answer, in float32, and the number of words of its prompt."""
    loaded = load(find(str(folder)), device="cpu", dtype="float32", quantize=quantize)
    content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": QUESTION}]
    prompt = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    images = [[Image.open(picture) for picture in pictures]]
    inputs = loaded.processor(images=images, text=[prompt], return_tensors="pt")
    ids = loaded.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    words = inputs["input_ids"].shape[1]
    return loaded.processor.decode(ids[0, words:], skip_special_tokens=True).strip(), words


@pytest.mark.parametrize("quantize", ["none", "int8", "int4", "nf4"])
@pytest.mark.parametrize(("number", "tiles"), [(0, 1), (1, 2), (2, 4)])
def test_without_pruning_the_answer_is_that_of_generate(
    folder: Path, pictures: list[Path], number: int, tiles: int, quantize: str
):
    options = ("--profile", "off", "--dtype", "float32", "--quantize", quantize)
    row = ask(folder, pictures[number], *options)
    text, words = by_generate(folder, [pictures[number]], quantize)
    assert row["answer"] == text
    assert (row["tokens"]["visual"], row["tokens"]["text"]) == (tiles * PER_TILE, words)


def test_several_images_in_a_question_are_those_of_generate(
    folder: Path, pictures: list[Path], tmp_path: Path
):
    asked = tmp_path / "questions.jsonl"
    asked.write_text(json.dumps({"image": [*map(str, pictures)], "question": QUESTION}) + "\n")
    limit = ("--max-new-tokens", NEW_TOKENS, "--dtype", "float32", "--device", "cpu")
    done = sts("batch", asked, "-m", folder, "--profile", "off", *limit)
    row = json.loads(done.out)
    text, words = by_generate(folder, pictures)
    assert (row["answer"], row["tokens"]["visual"]) == (text, 7 * PER_TILE)
    assert row["tokens"]["text"] == words


def test_a_profile_prunes_what_it_says_on_average_over_the_layers_that_read(
    folder: Path, pictures: list[Path], tmp_path: Path
):
    trimmed = tmp_path / "trimmed.yaml"
    trimmed.write_text("cuts: [{method: trimmed_llama, depth: 0.17, keep: 0.5}]\n")
    tokens = ask(folder, pictures[2], "--profile", str(trimmed))["tokens"]
    assert (tokens["visual"], tokens["left"]) == (68, [34])
    assert tokens["average"] == pytest.approx((1 * 68 + 5 * 34) / 6, abs=0.01)
    gentle = ask(folder, pictures[2], "--profile", "gentle")["tokens"]
    assert tuple(gentle["left"]) == load_profile("gentle").budgets(68)


def test_a_dry_run_counts_the_same_layers(folder: Path, pictures: list[Path]):
    done = sts("batch", *pictures, "--question", QUESTION, "-m", folder, "--dry-run")
    assert "visual tokens: 17 to 68 an image, 119 in all" in done.out
    assert "on average over 6 layers" in done.out


def test_openvino_is_refused_in_one_sentence_and_auto_takes_pytorch(
    folder: Path, pictures: list[Path]
):
    done = sts("ask", pictures[0], QUESTION, "-m", folder, "--backend", "openvino")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "'mllama' reads images through cross-attention, which only PyTorch runs" in done.err
    assert ask(folder, pictures[0], "--backend", "auto")["error"] is None


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_the_places_of_tokens_cover_the_image_and_nothing_twice(
    folder: Path, pictures: list[Path], number: int
):
    """Tiles may reach beyond the image; each class token shows no part of it."""
    vlm = sts_cli.load(str(folder), profile=Profile("grid", cuts=(Cut("grid", 9),)))
    answer = vlm.ask(pictures[number], "what?", places=True, max_new_tokens=1)
    assert answer.kept is not None and answer.tokens is not None
    boxes = [box for grid in rasters(answer.kept[0].every) for box in grid.boxes()]
    assert len(boxes) == answer.tokens.visual // PER_TILE * (PER_TILE - 1)
    assert [min(box[side] for box in boxes) for side in (0, 1)] == pytest.approx([0, 0], abs=1e-5)
    far = [max(box[side] for box in boxes) for side in (2, 3)]
    width, height = SIZES[number]
    across, down = (tiny.SIDE * n for n in {0: (1, 1), 1: (2, 1), 2: (2, 2)}[number])
    fitted = get_image_size_fit_to_canvas(height, width, down, across, tiny.SIDE)
    assert far == pytest.approx([across / fitted[1], down / fitted[0]], rel=0.05)
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    assert area == pytest.approx(far[0] * far[1], rel=1e-4)


def test_a_special_token_in_a_question_is_only_text(folder: Path):
    loaded = load(find(str(folder)), device="cpu", dtype="float32")
    from sts_cli.families import adapter

    family = adapter(loaded.model, loaded.processor)
    pixels = family.pixels(Image.new("RGB", SIZES[0]))
    ids = family.tokenize("what does <|image|> mean?", [pixels])
    with torch.inference_mode():
        (encoded,) = family.encode([pixels])
    assert encoded.idle is not None
    assert ids.count(family.image_token_id) == len(encoded.features) + len(encoded.idle) + 1
