"""Every family with its real processor: one image at a time gives what the processor gives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import checkpoints
import pytest
import tiny
import torch
from checkpoints import asked
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from sts_cli.decoding.attention import NAME
from sts_cli.engine.engine import Engine
from sts_cli.families.default import Family, Prompt
from sts_cli.families.encoder import encoder_of
from sts_cli.loading.processor import load_processor
from sts_cli.profile import Profile
from sts_cli.profile_files import load_profile

QUESTION = "what is on the sign?"


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (height, width, 3), generator=noise, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("family") / request.param
    checkpoints.write(request.param, folder)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, attn_implementation={"text_config": NAME}
    ).eval()
    model.generation_config.eos_token_id = None
    processor = load_processor(folder, AutoConfig.from_pretrained(folder))
    return SimpleNamespace(model=model, processor=processor, name=request.param, checkpoint=None)


def assert_as_processor_and_generate(loaded, engine: Engine, prompt: Prompt, text: str, images):
    """The processor gives the prompt of this text and images, and `generate` its answer."""
    bos = loaded.processor.tokenizer.bos_token
    inputs = loaded.processor(
        images=[images],
        text=[text],
        return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    )
    assert prompt.ids == inputs["input_ids"][0].tolist()
    expected = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    (found,) = engine.generate([prompt], Profile("off"), max_new_tokens=5)
    assert list(found.ids) == expected[0, len(prompt.ids) :].tolist()


@pytest.mark.parametrize("sizes", [[(64, 48)], [(90, 30), (40, 80)]], ids=["one", "two"])
def test_prompt_and_answer_are_what_processor_and_generate_give(loaded, sizes):
    engine = Engine(loaded)
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    prompt = asked(engine.family, QUESTION, *images)
    text = engine.family.prompt_text(QUESTION, len(images))
    assert_as_processor_and_generate(loaded, engine, prompt, text, images)


def mark_of(family: Family) -> str:
    """What stands for an image in the prompts of `checkpoints.chat_template`."""
    start, _, rest = family.prompt_text(QUESTION, 1).partition("USER: ")
    return rest.partition(QUESTION)[0]


def test_images_between_texts_stay_there(loaded):
    """The oracle is the text as somebody would write it, and the processor of the family."""
    engine = Engine(loaded)
    family, images = engine.family, [picture(90, 30), picture(40, 80, 1)]
    question, places = "look: and now what?", (6, 19)
    pixels = [family.pixels(image, False) for image in images]
    with torch.inference_mode():
        encoded = tuple(family.encode(pixels))
    prompt = Prompt(family.tokenize(question, pixels, places), encoded)
    text = family.prompt_text(QUESTION, 1)
    mark = mark_of(family)
    text = text.replace(f"{mark}{QUESTION}", f"look: {mark}and now what?{mark}")
    assert_as_processor_and_generate(loaded, engine, prompt, text, images)
    (pruned,) = engine.generate([prompt], load_profile("balanced"), max_new_tokens=2)
    assert 0 < pruned.left[-1] < pruned.visual


IMAGES_FIRST = (  # as that of llava-1.5
    "{% for m in messages %}USER: {% for c in m['content'] | selectattr('type', 'equalto', 'image')"
    " %}{{ '<image>\n' }}{% endfor %}{% for c in m['content'] | selectattr('type', 'equalto',"
    " 'text') %}{{ c['text'] }}{% endfor %}{% endfor %}ASSISTANT:"
)


def test_a_template_that_puts_images_first_leaves_them_where_a_request_has_them(tmp_path: Path):
    checkpoints.write("llava", tmp_path)
    processor = load_processor(tmp_path, AutoConfig.from_pretrained(tmp_path))
    processor.chat_template = IMAGES_FIRST
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    family = Engine(
        SimpleNamespace(model=model, processor=processor, name="llava", checkpoint=None)
    ).family
    assert family.prompt_text("a\nb", 1) == "USER: <image>\na\nbASSISTANT:"
    assert family.prompt_text("a\nb", 1, (2,)) == "USER: a\n<image>\nbASSISTANT:"
    assert family.prompt_text("<image>\nb", 1, (8,)) == "USER: < image>\n<image>\nbASSISTANT:"


def test_every_visual_token_has_its_place(loaded):
    engine = Engine(loaded)
    for image in (picture(64, 48), picture(120, 40)):
        pixels = engine.family.pixels(image)
        places = engine.family.places(pixels)
        assert places.shape == (pixels.count, 2)
        assert places.min() >= 0 and places.max() <= 1


def test_pruning_says_what_it_kept(loaded):
    engine = Engine(loaded)
    profile = load_profile("gentle")
    (found,) = engine.generate([asked(engine.family, QUESTION, picture(64, 48))], profile)
    assert found.left == profile.budgets(found.visual)
    assert found.left[1] < found.left[0] < found.visual


def test_special_tokens_in_a_question_stay_text(loaded):
    family = Engine(loaded).family
    placeholder = loaded.processor.image_token
    prompt = asked(family, f"what does {placeholder} mean?", picture(64, 48))
    assert prompt.ids.count(family.image_token_id) == prompt.images[0].pixels.count


def test_images_of_different_sizes_encoded_together_equal_alone(loaded):
    family = Engine(loaded).family
    pixels = [family.pixels(picture(*size, 3)) for size in ((64, 48), (90, 30), (64, 48))]
    with torch.inference_mode():
        together = family.encode(pixels)
        alone = [family.encode([one])[0] for one in pixels]
    for one, other in zip(together, alone, strict=True):
        scale = other.features.abs().max()
        assert (one.features - other.features).abs().max() <= 1e-4 * scale


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_the_vision_layer_that_nobody_reads_is_not_run(family: str):
    model = tiny.build(family)
    encoder = encoder_of(model)
    runs: list[int] = []
    for tower in (model.model.vision_tower, encoder.twin.vision_tower):
        for layer in next(m for m in tower.modules() if isinstance(m, torch.nn.ModuleList)):
            layer.register_forward_hook(lambda *_: runs.append(1))
    inputs = tiny.together(family, [[tiny.picture(family, 1)]])
    inputs = {key: inputs[key] for key in ("pixel_values", "image_sizes") if key in inputs}
    found = encoder.get_image_features(**inputs).pooler_output
    assert sum(runs) == 2
    expected = model.get_image_features(**inputs).pooler_output
    assert sum(runs) == 2 + 3
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_other_vision_towers_are_run_whole():
    for family in set(tiny.FAMILIES) - {"llava", "llava_next"}:
        model = tiny.build(family)
        assert encoder_of(model) is model
    changed = tiny.build("llava", vision_feature_layer=-1)
    assert encoder_of(changed) is changed
