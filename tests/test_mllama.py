"""Mllama: visual tokens that only cross-attention layers read, held to the oracles of the others.

The oracle of pruning is transformers' whole model, run eagerly and without a cache, with features
hidden from each cross-attention layer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import test_parity
import tiny
import torch
from test_parity import (  # noqa: F401  (run here with the fixtures of this file)
    BOTH,
    NEW,
    OFF,
    ROUNDING,
    SIZED,
    THREE,
    Recording,
    Subject,
    apart,
    test_a_batch_equals_its_rows_alone,
    test_a_finished_row_leaves_and_the_others_go_on,
    test_a_row_that_joins_others_answers_as_alone,
    test_bfloat16_batch_equals_its_rows_alone,
    test_bfloat16_keeping_everything_equals_off,
    test_bfloat16_off_equals_generate,
    test_keeping_everything_equals_off_at_any_depth,
    test_nobody_is_warned_while_answering,
    test_off_equals_generate,
    test_questions_about_one_image_share_its_prefix_and_answer_as_alone,
    test_questions_that_share_an_image_equal_generate,
    test_questions_that_share_an_image_join_others_and_leave,
    test_scores_of_words_that_follow_a_prefix_are_those_of_the_whole_prompt,
    test_sizes_change_what_is_answered_from_the_first_token_on,
    test_the_usual_language_model_of_a_family_comes_first,
    test_two_images_in_one_question_equal_generate,
)
from torch import Tensor
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from sts_cli.answering.fitting import row_values
from sts_cli.decoding import Watch
from sts_cli.decoding.attention import NAME
from sts_cli.decoding.cross import CrossDecoder
from sts_cli.engine.engine import Engine
from sts_cli.errors import ProfileError
from sts_cli.families.default import Pixels, Prompt
from sts_cli.profile import Cut, Narrowing, Profile

ROOM = 4  # tiles
PER_TILE = (tiny.SIDE // tiny.PATCH) ** 2 + 1
SHAPES = ((1, 1), (2, 1), (2, 2))  # rows and columns of tiles, by picture
TRIMMED = Profile("trimmed", cuts=(Cut("trimmed_llama", 0.4, 1 / 6),))


def picture(seed: int) -> dict[str, Tensor]:
    """One image as the processor would give it: tiles, and black ones up to the model's room."""
    random = torch.Generator().manual_seed(1000 + seed)
    rows, columns = SHAPES[(seed // 10 + seed) % 3]
    number = 1 + [(a, b) for a in (1, 2, 3, 4) for b in (1, 2, 3, 4) if a * b <= ROOM].index(
        (rows, columns)
    )
    pixels = torch.zeros(1, 1, ROOM, 3, tiny.SIDE, tiny.SIDE)
    pixels[0, 0, : rows * columns] = torch.randn(
        rows * columns, 3, tiny.SIDE, tiny.SIDE, generator=random
    )
    return {
        "pixel_values": pixels,
        "aspect_ratio_ids": torch.tensor([[number]]),
        "aspect_ratio_mask": (torch.arange(ROOM) < rows * columns).long()[None, None],
    }


def tiles(one: dict[str, Tensor]) -> int:
    return int(one["aspect_ratio_mask"].sum())


def as_generate(rows: Sequence[list[int]], seen: Sequence[Sequence[dict[str, Tensor]]]) -> Any:
    """Prompts with one word an image, as `model.generate` takes them, padded on the left."""
    longest = max(map(len, rows))
    padded = [[tiny.PAD] * (longest - len(ids)) + ids for ids in rows]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows]
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
    if not any(seen):
        return inputs
    read = [get_cross_attention_token_mask(ids, tiny.IMAGE) for ids in padded]
    dense = convert_sparse_cross_attention_mask_to_dense(
        read, [[tiles(one) for one in row] for row in seen], ROOM, longest
    )
    inputs["cross_attention_mask"] = torch.from_numpy(dense)
    for name in seen[0][0]:
        inputs[name] = torch.cat([torch.cat([one[name] for one in row], 1) for row in seen])
    return inputs


class Crossing(Subject):
    """Mllama's tiny model, its engine, and questions, as prompts and as inputs."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.family = tiny.MLLAMA
        self.model = tiny.build(tiny.MLLAMA, dtype=dtype)
        self.model.set_attn_implementation({"text_config": NAME})
        processor = SimpleNamespace(tokenizer=SimpleNamespace())
        self.loaded = SimpleNamespace(
            model=self.model, processor=processor, name="mllama", checkpoint=None
        )
        self.decoder = CrossDecoder(self.model)
        self.engine = Engine(self.loaded, self.decoder)

    def ids(self, row: int, images: int) -> list[int]:
        """A few words, a word for each image, the question."""
        random = torch.Generator().manual_seed(row)
        start = torch.randint(3, tiny.IMAGE, (2,), generator=random).tolist()
        length = tiny.TEXT_LENGTHS[row % len(tiny.TEXT_LENGTHS)]
        words = torch.randint(3, tiny.IMAGE, (length,), generator=random).tolist()
        return [tiny.BOS, *start, *[tiny.IMAGE] * images, *words]

    def seen(self, row: int, images: int) -> list[dict[str, Tensor]]:
        return [picture(10 * row + place) for place in range(images)]

    def inputs(self, rows: tuple[int, ...], images: int = 1) -> dict[str, Tensor]:
        every = [self.ids(row, images) for row in rows]
        made = as_generate(every, [self.seen(row, images) for row in rows])
        return {
            name: one.to(self.model.dtype) if one.is_floating_point() else one
            for name, one in made.items()
        }

    def prompt(self, ids: list[int], seen: Sequence[dict[str, Tensor]]) -> Prompt:
        """The ids with a place for every feature before each image's word."""
        pixels = [Pixels(one, "", tiles(one) * PER_TILE, (9, 9)) for one in seen]
        made: list[int] = []
        for one in ids:
            made += [one] * (ROOM * PER_TILE + 1 if one == tiny.IMAGE else 1)
        return Prompt(made, tuple(self.engine.encode(pixels)[0]))

    def prompts(
        self, rows: tuple[int, ...], images: int = 1, profiles: tuple[Profile, ...] = ()
    ) -> list[Prompt]:
        return [self.prompt(self.ids(row, images), self.seen(row, images)) for row in rows]

    def about(self, asked: Sequence[tuple[int, int]]) -> tuple[list[Prompt], list[dict]]:
        images = {row: self.prompts((row,))[0].images for row, _ in asked}
        prompts, inputs = [], []
        for row, count in asked:
            start = self.ids(row, 1)[:4]
            words = torch.Generator().manual_seed(10 * row + count)
            ids = [*start, *torch.randint(3, tiny.IMAGE, (count,), generator=words).tolist()]
            prompts.append(replace(self.prompt(ids, []), images=images[row]))
            inputs.append(as_generate([ids], [self.seen(row, 1)]))
        return prompts, inputs


@pytest.fixture(scope="module")
def subject() -> Crossing:
    return Crossing()


@pytest.fixture(scope="module")
def half() -> Crossing:
    return Crossing(torch.bfloat16)


class Hidden:
    """transformers' model, run eagerly, that hides features from its cross-attention layers."""

    def __init__(self, model: Any, row: int):
        self.model = copy.deepcopy(model)
        self.model.set_attn_implementation("eager")
        self.row = row
        self.bias: dict[int, Tensor] = {}  # [F], by block
        for block, layer in enumerate(tiny.CROSSING):
            self.model.model.language_model.layers[layer].register_forward_pre_hook(
                self.hook(block), with_kwargs=True
            )

    def hook(self, block: int) -> Any:
        def change(module: Any, given: Any, named: dict[str, Any]) -> Any:
            mask = named["cross_attention_mask"]
            least = torch.finfo(mask.dtype).min
            bias = self.bias[block].to(mask.dtype)
            named["cross_attention_mask"] = (mask + bias).clamp(min=least)
            return given, named

        return change


def dropped_and_hidden(subject: Crossing, profile: Profile, row: int) -> tuple[Tensor, Tensor]:
    """[2, V] each: logits of two new tokens, of the engine, and after only hiding features."""
    ids, _ = test_parity.written(subject, (row,))
    recording = Recording(subject.decoder)
    (prompt,) = subject.prompts((row,))
    Engine(subject.loaded, recording).generate([prompt], profile, max_new_tokens=1)
    (image,) = prompt.images
    oracle = Hidden(subject.model, row)
    count = torch.ones(len(image.features), dtype=torch.double)
    before = list(range(len(count)))
    for span, entered, _ in recording.spans:
        features = entered.hidden[0, entered.visual[0]]
        same = (features[:, None] == image.features[None]).all(-1)
        assert (same.sum(1) == 1).all()
        left = same.int().argmax(1).tolist()
        assert left == sorted(set(left))
        gone = sorted({*before} - {*left})
        if profile.attention == "proportional" and gone:
            unit = torch.nn.functional.normalize(image.features.double(), dim=-1)
            content = 2 - 2 * unit[gone] @ unit[left].T
            grid = image.grid.double()
            place = ((grid[gone][:, None] - grid[left][None]) ** 2).sum(-1) / 2
            joint = content / content.median() + place / place.median()
            for lost, nearest in zip(gone, joint.argmin(1).tolist(), strict=True):
                count[left[nearest]] += count[lost]
        padded = len(left) == len(count) < ROOM * PER_TILE
        assert bool(entered.idle.any()) == padded
        bias = torch.full((ROOM * PER_TILE,), 0.0 if padded else -1e9)
        bias[left] = count[left].log().float() if profile.attention == "proportional" else 0.0
        oracle.bias |= dict.fromkeys(span, bias)
        before = left
    lengths = [entered.hidden.shape[1] for _, entered, _ in recording.spans]
    assert lengths[-len(profile.cuts) :] == [
        prompt.text + left for left in profile.budgets(prompt.visual)
    ]
    inputs = subject.inputs((row,))
    whole = torch.cat([inputs["input_ids"], ids[:, :1]], 1)
    mask = inputs["cross_attention_mask"]
    given = inputs | {
        "input_ids": whole,
        "attention_mask": torch.ones_like(whole),
        "cross_attention_mask": torch.cat([mask, mask[:, -1:]], 1),
    }
    with torch.inference_mode():
        expected = oracle.model(**given, use_cache=False).logits[0, -2:]
    return subject.dictated((row,), profile, ids[:, :2])[0], expected


@pytest.mark.parametrize("profile", [BOTH, SIZED, THREE, TRIMMED], ids=lambda one: one.name)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_trimming_equals_hiding_the_same_features(subject: Crossing, profile: Profile, row: int):
    found, expected = dropped_and_hidden(subject, profile, row)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("profile", [SIZED, TRIMMED], ids=lambda one: one.name)
def test_bfloat16_trimming_equals_hiding_the_same_features(half: Crossing, profile: Profile):
    assert apart(*dropped_and_hidden(half, profile, 1)) <= ROUNDING


def test_observed_scores_equal_eager_attention(subject: Crossing):
    """Of the block's cross-attention, the mean over heads and each; 0 for what is no feature."""
    block = 2
    prompts = subject.prompts((0, 1))
    counts = torch.tensor([prompt.words(tiny.IMAGE) for prompt in prompts])
    rows = torch.arange(int(counts.max())) >= counts.max() - counts[:, None]
    eager = copy.deepcopy(subject.model)
    eager.set_attn_implementation("eager")
    with torch.inference_mode():
        tokens = subject.engine.family.embed(prompts)
        mean, by_head = (
            subject.decoder.run(
                tokens, range(block + 1), subject.decoder.cache(2, 0), Watch(rows, heads)
            )[1]
            for heads in (False, True)
        )
        given = subject.inputs((0, 1))
        paid = eager(**given, output_attentions=True).attentions[tiny.CROSSING[block]]
    for row, prompt in enumerate(prompts):
        asked = paid[row, :, -int(counts[row]) :].mean(1)  # [H, F]
        seen = tokens.visual[row]
        assert torch.allclose(by_head[row][:, seen], asked[:, : prompt.visual], atol=1e-5)
        assert torch.allclose(mean[row, seen], asked.mean(0)[: prompt.visual], atol=1e-5)
        assert not by_head[row][:, ~seen].any() and not mean[row, ~seen].any()


def by_generate(subject: Crossing, ids: list[int], seen: Sequence[dict[str, Tensor]]) -> tuple:
    found = subject.model.generate(
        **as_generate([ids], [seen]), max_new_tokens=NEW, do_sample=False
    )
    return tuple(found[0, len(ids) :].tolist())


@pytest.mark.parametrize(
    "ids",
    [
        [1, 5, 150, 7, 8, 150, 9, 10, 11],  # words between them: each reads the one before
        [1, 5, 150, 150, 7, 8, 150, 9],
        [1, 150, 7, 150, 150, 9, 12],
        [150, 1, 7, 8],  # no text before the image
        [1, 7, 150],  # none after it
    ],
    ids=lambda ids: "".join("i" if one == tiny.IMAGE else "w" for one in ids),
)
def test_images_between_words_are_read_as_by_generate(subject: Crossing, ids: list[int]):
    seen = [picture(number) for number in range(ids.count(tiny.IMAGE))]
    prompt = subject.prompt(ids, seen)
    (found,) = subject.engine.generate([prompt], OFF, max_new_tokens=NEW)
    assert found.ids == by_generate(subject, ids, seen)
    (trimmed,) = subject.engine.generate([prompt], TRIMMED, max_new_tokens=NEW)
    assert trimmed.left == (sum(TRIMMED.budgets(len(one.features))[0] for one in prompt.images),)


@pytest.mark.parametrize("profile", [OFF, SIZED, TRIMMED], ids=lambda one: one.name)
def test_a_question_without_an_image_is_answered_beside_others(subject: Crossing, profile: Profile):
    text = [1, 5, 9, 23, 8]
    prompts = [subject.prompt(text, []), *subject.prompts((0, 1)), subject.prompt(text[:3], [])]
    found = subject.engine.generate(prompts, profile, max_new_tokens=NEW)
    assert [one.ids for one in found] == [
        by_generate(subject, text, []),
        *subject.answers((0, 1), profile),
        by_generate(subject, text[:3], []),
    ]


def test_features_of_empty_tiles_are_neither_text_nor_visual(subject: Crossing):
    """Row 0 has one tile, row 1 four; words before the image read the empty ones as well."""
    found = subject.engine.generate(subject.prompts((0, 1)), OFF, max_new_tokens=1)
    assert [one.visual for one in found] == [tiles(picture(seed)) * PER_TILE for seed in (0, 10)]
    assert [one.text for one in found] == [len(subject.ids(row, 1)) for row in (0, 1)]


def test_averages_and_depths_count_the_layers_that_read_the_image(subject: Crossing):
    assert subject.engine.layers == len(tiny.CROSSING)
    with pytest.raises(ProfileError, match="leaves none of the 6 layers"):
        subject.engine.check(Profile("late", cuts=(Cut("instruction", 9, 0.95),)))


def test_only_the_layers_that_read_the_image_hold_its_keys_in_memory():
    config = tiny.config(tiny.MLLAMA).text_config
    crossing = row_values(config, OFF, 1000, 0, 9)
    config.cross_attention_layers = None  # as if all 12 layers read it
    assert row_values(config, OFF, 1000, 0, 9) - crossing == 2 * (12 - 6) * 2 * 8 * 1000


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (Profile("mine", cuts=(Cut("star", 9),)), "cannot observe in 'mllama' with the encoder"),
        (Profile("mine", cuts=(Cut("hawk", 9),)), "layers of text stand before the next one that"),
        (Profile("mine", encoder=Narrowing("likeness", 0.5, 0.5)), "cannot do for 'mllama'"),
    ],
    ids=["encoder", "products", "narrow"],
)
def test_what_mllama_does_not_have_is_refused(subject: Crossing, profile: Profile, reason: str):
    with pytest.raises(ProfileError, match=reason):
        subject.engine.check(profile)
