"""A Qwen2.5-VL of half a billion random parameters, which OpenVINO GenAI prunes, too.

Its text model is Qwen2-0.5B's; its tower has windows and depths as the released models' have, at
a smaller width. A picture of 640 x 480 pixels is 391 visual tokens.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

SPECIAL = ("<pad>", "<s>", "</s>", "<|image_pad|>", "<|video_pad|>")
AROUND = ("<|vision_start|>", "<|vision_end|>")
WORDS = "what is in this picture? describe it and answer briefly: user assistant"
ROTARY = {"rope_theta": 1e6, "mrope_section": [8, 12, 12]}
IMAGE = f"{AROUND[0]}<|image_pad|>{AROUND[1]}"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}" + IMAGE + "{% else %}{{ c['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def config() -> Qwen2_5_VLConfig:
    """The shape, for the tokenizer's ids."""
    return Qwen2_5_VLConfig(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 2048,
            "depth": 12,
            "num_heads": 12,
            "out_hidden_size": 896,
            "fullatt_block_indexes": [2, 5, 8, 11],
        },
        text_config={
            "vocab_size": 32000,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "max_window_layers": 24,
            "rope_parameters": {"rope_type": "default", **ROTARY},
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        image_token_id=3,
        video_token_id=4,
        vision_start_token_id=5,
        vision_end_token_id=6,
        tie_word_embeddings=False,
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens; the special ones are those of Qwen's image processor."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        [WORDS] * 50,
        trainers.BpeTrainer(
            vocab_size=400,
            show_progress=False,
            special_tokens=[*SPECIAL, *AROUND],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(AROUND),
        extra_special_tokens={"image_token": SPECIAL[3], "video_token": SPECIAL[4]},
    )


def write(folder: Path) -> None:
    """A checkpoint in bfloat16, which transformers 4 and 5 read."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2_5_VLForConditionalGeneration(config()).eval()
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    settings = {"processor_class": "Qwen2_5_VLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    written = json.loads((folder / "config.json").read_text())
    scaling = {"type": "mrope", "mrope_section": ROTARY["mrope_section"]}
    written["text_config"] |= {"rope_theta": ROTARY["rope_theta"], "rope_scaling": scaling}
    (folder / "config.json").write_text(json.dumps(written, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write such a checkpoint to a folder.")
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
