"""generation_config.json: every setting is applied as `generate` applies it, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import asked
from PIL import Image
from transformers import GenerationConfig

from sts_cli.checkpoints.sources import find
from sts_cli.engine.engine import Engine
from sts_cli.engine.settings import APPLIED, HARMLESS, NEUTRAL, check_settings, penalties
from sts_cli.errors import ModelError
from sts_cli.families.default import Prompt
from sts_cli.loading.model import Loaded, load
from sts_cli.profile import Profile

QUESTIONS = ("what is on the sign?", "what colour is it?", "describe it, please")
NEW = 12


@pytest.fixture
def loaded(tiny_checkpoint: Path) -> Loaded:
    return load(find(str(tiny_checkpoint)), device="cpu", dtype="float32")


def prompts(engine: Engine) -> list[Prompt]:
    return [
        asked(engine.family, question, Image.linear_gradient("L").convert("RGB"))
        for question in QUESTIONS
    ]


def by_generate(loaded: Loaded, prompt: Prompt, **settings: Any) -> list[int]:
    """The model's own answer to one prompt."""
    ids = torch.tensor([prompt.ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= prompt.images[0].pixels.inputs
    found = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **settings)
    return found[0, ids.shape[1] :].tolist()


def by_sts(loaded: Loaded) -> list[tuple[int, ...]]:
    engine = Engine(loaded)
    found = engine.generate(prompts(engine), Profile("off"), max_new_tokens=NEW)
    return [one.ids for one in found]


@pytest.mark.parametrize("value", [3, False, "on"])
def test_a_setting_that_nobody_knows_is_refused(value: object):
    config = GenerationConfig()
    config.brand_new_setting = value
    with pytest.raises(ModelError, match=f"sets brand_new_setting={value!r}, which sts does not"):
        check_settings(config)


@pytest.mark.parametrize(("name", "value"), [("is_assistant", True), ("suppress_tokens", [5])])
def test_what_may_change_a_greedy_answer_is_refused(name: str, value: object):
    config = GenerationConfig()
    setattr(config, name, value)
    with pytest.raises(ModelError, match=f"sets {name}="):
        check_settings(config)


def test_a_penalty_that_cannot_be_is_one_sentence():
    config = GenerationConfig()
    config.repetition_penalty = -1.0
    with pytest.raises(ModelError, match="has a value that cannot be applied: .*penalty"):
        penalties(config)


OTHERS = sorted({*vars(GenerationConfig())} - {*APPLIED, *HARMLESS})


@pytest.mark.parametrize("name", OTHERS)
def test_every_setting_is_applied_harmless_or_refused(name: str):
    config = GenerationConfig()
    setattr(config, name, "anything but its default")
    with pytest.raises(ModelError, match=f"sets {name}="):
        check_settings(config)


def test_what_is_refused_covers_what_changes_greedy_answers():
    for name in ("watermarking_config", "bad_words_ids", "suppress_tokens", "min_length"):
        assert name in OTHERS
    assert set(NEUTRAL) <= set(OTHERS)


@pytest.mark.parametrize(("name", "value"), NEUTRAL.items())
def test_a_value_that_means_off_is_no_wish(name: str, value: object):
    config = GenerationConfig()
    setattr(config, name, value)
    check_settings(config)


def test_what_common_checkpoints_carry_is_accepted():
    check_settings(
        GenerationConfig(
            do_sample=True, temperature=0.1, top_p=0.001, top_k=1, repetition_penalty=1.05,
            eos_token_id=[2, 5], pad_token_id=0, bos_token_id=1, max_length=4096,
            max_new_tokens=64, use_cache=True, cache_implementation="hybrid",
            transformers_version="4.57.0", output_attentions=False, return_dict_in_generate=False,
            suppress_tokens=[],
        )
    )  # fmt: skip


def test_penalties_look_at_the_prompt_too(loaded: Loaded):
    loaded.model.generation_config.repetition_penalty = 4.0
    loaded.model.generation_config.no_repeat_ngram_size = 2
    engine = Engine(loaded)
    expected = [by_generate(loaded, one) for one in prompts(engine)]
    assert by_sts(loaded) == [tuple(ids) for ids in expected]
    engine.penalties = type(engine.penalties)()  # the checkpoint's wish changes something
    plain = engine.generate(prompts(engine), Profile("off"), max_new_tokens=NEW)
    assert [one.ids for one in plain] != [tuple(ids) for ids in expected]
    alone = [list(one.ids) for one in by_answer_only(loaded)]
    assert alone != expected  # and so does the prompt's part of the history


def by_answer_only(loaded: Loaded) -> list[Any]:
    """Answers where penalties do not see the prompt."""
    engine = Engine(loaded)
    bare = [Prompt(prompt.ids, prompt.images) for prompt in prompts(engine)]
    lengths = {tuple(prompt.ids): len(prompt.ids) for prompt in bare}
    inner = engine.penalties

    def without_prompt(history: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        ids = history[0].tolist()
        start = next(n for known, n in lengths.items() if tuple(ids[:n]) == known)
        return inner(history[:, start:], logits) if len(ids) > start else logits

    engine.penalties = without_prompt  # type: ignore[assignment]
    return engine.generate(bare, Profile("off"), max_new_tokens=NEW)


def test_each_of_several_end_tokens_ends_an_answer(loaded: Loaded):
    loaded.model.generation_config.eos_token_id = None
    long = by_sts(loaded)
    for place in (2, 4):
        end = long[0][place]
        loaded.model.generation_config.eos_token_id = [199, end]
        cut = [ids[: ids.index(end)] if end in ids else ids for ids in long]
        assert by_sts(loaded) == cut


def test_stop_strings_end_answers_as_generate_ends_them(loaded: Loaded):
    loaded.model.generation_config.eos_token_id = None
    tokenizer = loaded.processor.tokenizer
    long = by_sts(loaded)
    stop = tokenizer.decode(list(long[0][3:5])).strip()
    assert stop
    loaded.model.generation_config.stop_strings = [stop, "never said"]
    engine = Engine(loaded)
    expected = [by_generate(loaded, one, tokenizer=tokenizer) for one in prompts(engine)]
    assert by_sts(loaded) == [tuple(ids) for ids in expected]
    assert len(expected[0]) < len(long[0])
    (first, *_) = engine.generate(prompts(engine), Profile("off"), max_new_tokens=NEW)
    assert first.finish == "stop"
