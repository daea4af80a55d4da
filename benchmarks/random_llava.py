"""A LLaVA of real size with random weights, to measure speed, which does not depend on weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

# name -> (vision: width, inner, layers, heads; text: width, inner, layers, heads, KV heads)
SHAPES = {
    "half": ((768, 3072, 12, 12), (896, 4864, 24, 14, 2)),  # 0.5 B: CLIP-B/14, Qwen2-0.5B's text
    "7b": ((1024, 4096, 24, 16), (4096, 11008, 32, 32, 32)),  # LLaVA-1.5-7B
}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def model(shape: str, dtype: torch.dtype, device: str) -> LlavaForConditionalGeneration:
    """A LLaVA of `shape` with random weights on `device`; 336 x 336 pixels, 576 visual tokens."""
    vision, text = SHAPES[shape]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision[0],
            intermediate_size=vision[1],
            num_hidden_layers=vision[2],
            num_attention_heads=vision[3],
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32000,
            hidden_size=text[0],
            intermediate_size=text[1],
            num_hidden_layers=text[2],
            num_attention_heads=text[3],
            num_key_value_heads=text[4],
        ),
        image_token_id=3,
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        llava = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    llava.generation_config.eos_token_id = None
    llava.generation_config.pad_token_id = 0
    return llava.eval().requires_grad_(False)


def processor() -> LlavaProcessor:
    """LLaVA-1.5's processor around a tokenizer of 400 tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        ["what is in this picture? describe it and answer briefly: user assistant"] * 50,
        trainers.BpeTrainer(
            vocab_size=400,
            show_progress=False,
            special_tokens=["<pad>", "<s>", "</s>", "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
        ),
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def write(folder: Path, shape: str) -> None:
    """A checkpoint of `shape` in bfloat16."""
    model(shape, torch.bfloat16, "cpu").save_pretrained(folder)
    processor().save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write such a checkpoint to a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="half")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.shape)
