"""Memory that known shapes of models need, by the arithmetic of `--quantize auto`.

    python -m benchmarks.memory

Only shapes: nothing is read or allocated. GB are 10^9 bytes: weights, and what `auto` adds to them.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sts_cli.quantization.choice import BYTES, HEADROOM, RESERVE
from sts_cli.quantization.on_load import decoder_linears

Shape = tuple[int, int, int, int, int, int]  # width, inner, layers, heads, KV heads, vocabulary
CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096}
CLIP |= {"num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304}
SIGLIP |= {"num_attention_heads": 16, "patch_size": 14}
SMALL = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
SMALL |= {"num_attention_heads": 12, "image_size": 512, "patch_size": 16}
PATCHES = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16}
LLAMA: dict[str, Shape] = {"7B": (4096, 11008, 32, 32, 32, 32064)}
LLAMA |= {"13B": (5120, 13824, 40, 40, 40, 32064)}
QWEN: dict[str, Shape] = {"3B": (2048, 11008, 36, 16, 2, 151936)}
QWEN |= {"7B": (3584, 18944, 28, 28, 4, 152064)}
GEMMA: dict[str, Shape] = {"4B": (2560, 10240, 34, 8, 4, 262208)}
GEMMA |= {"12B": (3840, 15360, 48, 16, 8, 262208)}


def text(shape: Shape, **more: Any) -> dict[str, Any]:
    """The settings of a language model."""
    names = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    names += ["num_key_value_heads", "vocab_size"]
    return {**dict(zip(names, shape, strict=True)), **more}


def shapes() -> dict[str, tuple[str, dict[str, Any]]]:
    """Each model's type and settings, by its name; after their published configurations."""
    smol = text((960, 2560, 32, 15, 5, 49280), model_type="llama", tie_word_embeddings=False)
    half = text((896, 4864, 24, 14, 2, 152000), model_type="qwen2", tie_word_embeddings=True)
    seen = {**SIGLIP, "num_hidden_layers": 26, "image_size": 384, "vision_use_head": False}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "SmolVLM2-500M": ("smolvlm", {"text_config": smol, "vision_config": SMALL}),
        "LLaVA-OneVision-0.5B": ("llava_onevision", {"text_config": half, "vision_config": seen}),
    }
    for size, shape in QWEN.items():
        tied = size == "3B"
        found[f"Qwen2.5-VL-{size}"] = (
            "qwen2_5_vl",
            {
                "text_config": text(shape, tie_word_embeddings=tied),
                "tie_word_embeddings": tied,
                "vision_config": {**PATCHES, "out_hidden_size": shape[0]},
            },
        )
    for size, shape in GEMMA.items():
        vision = {**SIGLIP, "num_hidden_layers": 27, "image_size": 896, "vision_use_head": False}
        settings = {"text_config": text(shape, head_dim=256), "vision_config": vision}
        found[f"Gemma 3 {size}"] = ("gemma3", settings)
    for size, shape in LLAMA.items():
        inside = text(shape, model_type="llama")
        found[f"LLaVA-1.5-{size}"] = ("llava", {"text_config": inside, "vision_config": CLIP})
    return found


def counted(kind: str, settings: dict[str, Any]) -> tuple[int, int]:
    """All parameters, and those of the layers that a precision turns into fewer bits."""
    config = AutoConfig.for_model(kind, **settings)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    layers = sum(layer.weight.numel() for _, layer in decoder_linears(model))
    return sum(one.numel() for one in model.parameters()), layers


def main() -> None:
    print("| model | parameters, 10^9 | bfloat16, GB | int8, GB | int4 or NF4, GB |")
    print("|---|---:|---:|---:|---:|")
    rows = sorted((counted(*found), name) for name, found in shapes().items())
    for (parameters, layers), name in rows:
        needed = [
            ((parameters - layers) * 2 + layers * each) * HEADROOM + RESERVE
            for each in (2, BYTES["int8"], BYTES["nf4"])
        ]
        sizes = " | ".join(f"{one / 1e9:.1f}" for one in needed)
        print(f"| {name} | {parameters / 1e9:.2f} | {sizes} |")


if __name__ == "__main__":
    main()
