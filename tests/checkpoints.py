"""Random-weight checkpoints on disk, laid out as on the hub, with the families' real processors.

The image processors are the PIL ones, so that nothing here needs torchvision.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import tiny
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from sts_cli.families.default import Family, Prompt

WORDS = "what is on the sign in this picture answer briefly user assistant describe the image"
TILES = [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
QWEN = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
SPECIAL: dict[str, dict[str, str]] = {  # special tokens by role, where not just <image>
    "llava_onevision": {"image": "<image>", "video": "<video>"},
    "internvl": {
        "image": "<IMG_CONTEXT>",
        "video": "<video>",
        "start_image": "<img>",
        "end_image": "</img>",
        "context_image": "<IMG_CONTEXT>",
    },
    "smolvlm": {"image": "<image>", "video": "<video>"},
    "gemma3": {
        "image": "<image_soft_token>",
        "boi": "<start_of_image>",
        "eoi": "<end_of_image>",
    },
    "glm4v": {"image": "<|image|>", "video": "<|video|>"},
    "mllama": {"image": "<|image|>"},
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
}
OTHER = {  # special tokens that only stand in the prompt
    "glm4v": ["<|begin_of_image|>", "<|end_of_image|>"],
    "idefics3": ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *TILES],
    "qwen": ["<|vision_start|>", "<|vision_end|>"],
}
OTHER["smolvlm"] = OTHER["idefics3"]
PLACE = {  # what the chat template writes for an image, where not just <image>
    "gemma3": "<start_of_image>",
    "internvl": "<IMG_CONTEXT>\n",
    "glm4v": "<|begin_of_image|><|image|><|end_of_image|>",
    "mllama": "<|image|>",
    "qwen": "<|vision_start|><|image_pad|><|vision_end|>",
}


def write(family: str, folder: Path, **changes: Any) -> Path:
    """A random checkpoint of `family` in `folder`; `changes` are `tiny.config`'s."""
    tokens = tokenizer(family)
    write_model(config(family, tokens, **changes), tokens, folder)
    write_processor(family, tokens, folder)
    return folder


def write_model(made: Any, tokens: PreTrainedTokenizerFast, folder: Path) -> None:
    """Random weights for the configuration `made`, large enough that attention is not uniform."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12)
            elif parameter.numel() == 1:  # Mllama's gates, which begin closed
                parameter.fill_(0.5)
    model.generation_config.eos_token_id = tokens.eos_token_id
    model.generation_config.pad_token_id = tokens.pad_token_id
    model.save_pretrained(folder)


def write_processor(family: str, tokens: PreTrainedTokenizerFast, folder: Path) -> None:
    """The tokenizer, image processor and chat template of `family`."""
    tokens.save_pretrained(folder)
    processor, settings = processor_of(family)
    image_processor(family).save_pretrained(folder)
    settings = {"processor_class": processor, **settings}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    place = PLACE.get(group(family), PLACE.get(family, "<image>\n"))
    (folder / "chat_template.jinja").write_text(chat_template(place))


def group(family: str) -> str:
    return "qwen" if family.startswith("qwen") else family


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few dozen merges and the family's special tokens."""
    roles = SPECIAL.get(family, {"image": "<image>"})
    special = ["<pad>", "<s>", "</s>", *dict.fromkeys(roles.values())]
    special += OTHER.get(group(family), [])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokens.train_from_iterator([WORDS] * 50, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=OTHER.get(group(family), []),
        extra_special_tokens={f"{role}_token": token for role, token in roles.items()},
    )


def config(family: str, tokens: PreTrainedTokenizerFast, **changes: Any) -> Any:
    """`tiny.config` with this tokenizer's ids, and images of about 64 tokens."""
    made = tiny.config(family, **changes)
    made.text_config.vocab_size = len(tokens)
    made.image_token_id = tokens.image_token_id
    if family in ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        made.video_token_id = tokens.video_token_id
    if group(family) == "qwen":
        start, end = tokens.convert_tokens_to_ids(OTHER["qwen"])
        made.vision_start_token_id, made.vision_end_token_id = start, end
    elif family == "gemma3":
        made.boi_token_id, made.eoi_token_id = tokens.boi_token_id, tokens.eoi_token_id
        made.vision_config.image_size, made.mm_tokens_per_image = 56, 16
    elif family == "llava":
        made.vision_config.image_size, made.vision_config.patch_size = 112, 14
        made.image_seq_length = 64
    elif family == "internvl":
        made.vision_config.image_size, made.image_seq_length = [56, 56], 16
    elif family in ("smolvlm", "idefics3"):
        made.vision_config.image_size = 56
    return made


def image_processor(family: str) -> Any:
    """The family's PIL image processor, in the sizes of `config`."""
    side = tiny.SIDE
    crop = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}
    tile = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    tiles = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    pixels = {"shortest_edge": 100 * 100, "longest_edge": 120 * 120}
    patches = {"patch_size": tiny.PATCH, "temporal_patch_size": 1, "size": pixels}
    name, settings = {
        "llava": ("clip.CLIPImageProcessorPil", crop),
        "llava_next": (
            "llava_next.LlavaNextImageProcessorPil",
            {**tile, "image_grid_pinpoints": tiny.SPLITS},
        ),
        "llava_onevision": (
            "llava_onevision.LlavaOnevisionImageProcessorPil",
            {"size": {"height": side, "width": side}, "image_grid_pinpoints": tiny.SPLITS},
        ),
        "internvl": (
            "got_ocr2.GotOcr2ImageProcessorPil",
            {"size": {"height": 56, "width": 56}, "crop_to_patches": True, "max_patches": 3},
        ),
        "smolvlm": ("smolvlm.SmolVLMImageProcessorPil", tiles),
        "idefics3": ("idefics3.Idefics3ImageProcessorPil", tiles),
        "gemma3": (
            "gemma3.Gemma3ImageProcessorPil",
            {"size": {"height": 56, "width": 56}},
        ),
        "qwen": ("qwen2_vl.Qwen2VLImageProcessorPil", patches),
        "glm4v": ("glm4v.Glm4vImageProcessorPil", patches),
        "mllama": ("mllama.MllamaImageProcessorPil", {"size": {"height": side, "width": side}}),
    }[group(family)]
    module, name = name.split(".")
    made = getattr(import_module(f"transformers.models.{module}"), name)
    return made(**settings)


def processor_of(family: str) -> tuple[str, dict[str, Any]]:
    """The processor's class and its own settings."""
    patch = {"patch_size": tiny.PATCH, "vision_feature_select_strategy": "default"}
    return {
        "llava": ("LlavaProcessor", {**patch, "patch_size": 14, "num_additional_image_tokens": 1}),
        "llava_next": ("LlavaNextProcessor", {**patch, "num_additional_image_tokens": 1}),
        "llava_onevision": (
            "LlavaOnevisionProcessor",
            {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        ),
        "internvl": ("InternVLProcessor", {"image_seq_length": 16}),
        "smolvlm": ("SmolVLMProcessor", {"image_seq_len": 16}),
        "idefics3": ("Idefics3Processor", {"image_seq_len": 16}),
        "gemma3": ("Gemma3Processor", {"image_seq_length": 16}),
        "qwen2_vl": ("Qwen2VLProcessor", {}),
        "qwen2_5_vl": ("Qwen2_5_VLProcessor", {}),
        "qwen3_vl": ("Qwen3VLProcessor", {}),
        "glm4v": ("Glm4vProcessor", {}),
        "mllama": ("MllamaProcessor", {}),
    }[family]


def chat_template(image: str) -> str:
    """`USER: <image>question ASSISTANT:` in Jinja; `image` is the placeholder."""
    text = image.replace("\n", "\\n")
    return (
        "{% for m in messages %}{{ m['role'].upper() }}: {% if m['content'] is string %}"
        "{{ m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        f"{{{{ '{text}' }}}}"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %} {% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def asked(family: Family, question: str, *images: Image.Image) -> Prompt:
    """A question about images, as the family's own processor puts it."""
    pixels = [family.pixels(image, len(images) == 1) for image in images]
    with torch.inference_mode():
        encoded = family.encode(pixels)
    return Prompt(family.tokenize(question, pixels), tuple(encoded))
