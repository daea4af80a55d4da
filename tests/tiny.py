"""Tiny random models of the ten supported families, and batches of questions for them.

The models have real architectures and made-up sizes. Weights are scaled up, so that attention is
far from uniform and a wrong mask or a wrong position shows in the tokens that come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedModel

FAMILIES = (
    "llava",
    "llava_next",
    "llava_onevision",
    "internvl",
    "smolvlm",
    "idefics3",
    "gemma3",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
)
MLLAMA = "mllama"  # apart, since only its own decoder runs it: tests/test_mllama.py
CROSSING = (1, 3, 5, 6, 8, 10)  # Mllama's cross-attention layers, of 12
LAYERS = 6
SIDE, PATCH = 28, 7  # of an image or tile, in pixels
PAD, BOS, EOS, IMAGE, START, END, VIDEO, VOCABULARY = 0, 1, 2, 150, 151, 152, 153, 200
SPLITS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]  # LLaVA-NeXT's resolutions
TEXT_LENGTHS = (9, 5, 13, 7)  # words of question 0, 1, 2, 3, then again


def build(
    family: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> PreTrainedModel:
    """A random model of `family`, in eval mode, that `generate` never stops early.

    `options` are those of `config`.
    """
    torch.manual_seed(len(FAMILIES) if family == MLLAMA else FAMILIES.index(family))
    model = AutoModelForImageTextToText.from_config(
        config(family, **options), attn_implementation="sdpa"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12)
            elif parameter.numel() == 1:  # Mllama's gates, which begin closed
                parameter.fill_(0.5)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model.to(device, dtype).eval().requires_grad_(False)


def config(
    family: str,
    *,
    wide: bool = False,
    window: int = 512,
    language: str | None = None,
    **changes: Any,
) -> Any:
    """The configuration of `family` in made-up sizes; `changes` are top-level keys.

    `wide` doubles the widths, for quantization in blocks of 64. `window` is Gemma 3's sliding
    window; the default is wider than any prompt of `batch`. `language` is the model_type of the
    language model, where the family's usual one is not wanted.
    """
    times = 2 if wide else 1
    text = {
        "hidden_size": 32 * times,
        "intermediate_size": 64 * times,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8 * times,
        "vocab_size": VOCABULARY,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    vision: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    top: dict[str, Any] = {"image_token_id": IMAGE, "tie_word_embeddings": False}
    if family in ("llava", "llava_next"):
        vision["model_type"] = "clip_vision_model"
        text["model_type"] = "llama" if family == "llava" else "mistral"
        top |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
        top["image_seq_length"] = (SIDE // PATCH) ** 2
        if family == "llava_next":
            text["sliding_window"] = None
            top["image_grid_pinpoints"] = SPLITS
    elif family == "llava_onevision":
        vision |= {"model_type": "siglip_vision_model", "vision_use_head": False}
        text["model_type"] = "qwen2"
        top |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
        top |= {"image_grid_pinpoints": SPLITS, "video_token_id": VIDEO}
    elif family == "internvl":
        vision |= {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
        text["model_type"] = "qwen2"
        top["image_seq_length"] = 4
    elif family in ("smolvlm", "idefics3"):
        text["model_type"] = "llama"
        top |= {"scale_factor": 2, "pad_token_id": PAD}
    elif family == "gemma3":
        vision |= {"model_type": "siglip_vision_model", "vision_use_head": False}
        text |= {"sliding_window": window, "query_pre_attn_scalar": text["head_dim"]}
        text["layer_types"] = ["sliding_attention", "full_attention"] * (LAYERS // 2)
        top |= {"mm_tokens_per_image": 4, "boi_token_index": START, "eoi_token_index": END}
    elif family == MLLAMA:
        del text["head_dim"], vision["num_attention_heads"]
        text |= {"num_hidden_layers": 12, "cross_attention_layers": list(CROSSING)}
        vision |= {"attention_heads": 4, "num_global_layers": 1, "max_num_tiles": 4}
        vision |= {"intermediate_layers_indices": [0, 1], "vision_output_dim": 96}
        top["image_token_index"] = top.pop("image_token_id")
    else:
        text |= {"rope_parameters": mrope(half_head=4 * times)}
        vision = qwen_vision(family, width=32 * times)
        top |= {"vision_start_token_id": START, "vision_end_token_id": END}
        top["video_token_id"] = VIDEO
        if family != "qwen3_vl":
            del text["head_dim"]
    if language is not None:
        text |= {"model_type": language, "sliding_window": None}
    top |= changes
    return CONFIG_MAPPING[family](vision_config=vision, text_config=text, **top)


def mrope(half_head: int) -> dict[str, Any]:
    """M-RoPE that gives time and height a quarter of the frequencies each, width the rest."""
    quarter = half_head // 4
    return {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [quarter, quarter, half_head - 2 * quarter],
    }


def qwen_vision(family: str, width: int) -> dict[str, Any]:
    vision: dict[str, Any] = {
        "depth": 3,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
    }
    if family == "qwen2_vl":
        return vision | {"embed_dim": 32, "hidden_size": width, "mlp_ratio": 2}
    vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": width}
    if family == "qwen2_5_vl":
        return vision | {"window_size": SIDE, "fullatt_block_indexes": [1]}
    return vision | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}


def batch(
    family: str, model: PreTrainedModel, rows: Sequence[int] = (0, 1), images: int = 1
) -> dict[str, Tensor]:
    """The questions `rows` as `model.generate` takes them, padded on the left.

    Question i is always the same, so `rows=(1,)` is row 1 of the default batch alone, unpadded.
    Questions differ in their text, their length and, where the family allows it, the size of
    their images; each has `images` of them.
    """
    vision = [[picture(family, 10 * row + place) for place in range(images)] for row in rows]
    prompts = [prompt(family, model, row, seen) for row, seen in zip(rows, vision, strict=True)]
    longest = max(len(ids) for ids in prompts)
    ids = torch.stack([pad(ids, (longest - len(ids), 0), value=PAD) for ids in prompts])
    mask = [torch.ones(len(ids), dtype=torch.long) for ids in prompts]
    attention = torch.stack([pad(ones, (longest - len(ones), 0)) for ones in mask])
    inputs = {"input_ids": ids, "attention_mask": attention}
    if family == "gemma3":
        inputs["token_type_ids"] = (ids == IMAGE).long()
    if family.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    inputs |= together(family, vision)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return {name: value.to(model.device) for name, value in inputs.items()}


def prompt(family: str, model: PreTrainedModel, row: int, seen: list[dict[str, Tensor]]) -> Tensor:
    """[L] token ids of question `row`: a few words, its images, the question."""
    words = torch.Generator().manual_seed(row)
    ids = [torch.tensor([BOS]), torch.randint(3, IMAGE, (2,), generator=words)]
    for one in seen:
        for count in placeholders(family, model, one):
            ids += [torch.tensor([START]), torch.full((count,), IMAGE), torch.tensor([END])]
    length = TEXT_LENGTHS[row % len(TEXT_LENGTHS)]
    ids.append(torch.randint(3, IMAGE, (length,), generator=words))
    return torch.cat(ids)


def placeholders(family: str, model: PreTrainedModel, one: dict[str, Tensor]) -> list[int]:
    """The runs of placeholders for one image: one, or one for each tile that the prompt names."""
    inputs = {name: value.to(model.device) for name, value in together(family, [[one]]).items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    with torch.no_grad():
        features = model.get_image_features(**inputs).pooler_output
    count = sum(feature.flatten(0, -2).shape[0] for feature in features)
    tiles = len(one["pixel_values"]) if family in ("smolvlm", "idefics3") else 1
    return [count // tiles] * tiles


def picture(family: str, seed: int) -> dict[str, Tensor]:
    """One image as the family's processor would give it; odd seeds differ in size, if any can."""
    random = torch.Generator().manual_seed(1000 + seed)
    other = (seed // 10 + seed) % 2 == 1  # by question and by place

    def pixels(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    if family in ("llava_next", "llava_onevision"):
        size = (SIDE, 2 * SIDE - 8) if other else (2 * SIDE, 2 * SIDE)
        tiles = 3 if other else 5
        return {"pixel_values": pixels(tiles, 3, SIDE, SIDE), "image_sizes": torch.tensor(size)}
    if family in ("smolvlm", "idefics3"):
        return {"pixel_values": pixels(2 if other else 1, 3, SIDE, SIDE)}
    if family.startswith("qwen"):
        grid = (1, 4, 6) if other else (1, 4, 4)
        patches = pixels(grid[1] * grid[2], 3 * PATCH * PATCH)
        return {"pixel_values": patches, "image_grid_thw": torch.tensor(grid)}
    return {"pixel_values": pixels(3, SIDE, SIDE)}


def together(family: str, vision: list[list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    """The images of several questions as one set of the model's vision inputs."""
    every = [one for row in vision for one in row]
    pixels = [one["pixel_values"] for one in every]
    if family.startswith("qwen"):
        grids = torch.stack([one["image_grid_thw"] for one in every])
        return {"pixel_values": torch.cat(pixels), "image_grid_thw": grids}
    if family in ("llava_next", "llava_onevision"):
        sizes = torch.stack([one["image_sizes"] for one in every])
        return {"pixel_values": stacked(pixels), "image_sizes": sizes}
    if family in ("smolvlm", "idefics3"):
        return {
            "pixel_values": stacked(
                [torch.cat([one["pixel_values"] for one in row]) for row in vision]
            )
        }
    return {"pixel_values": torch.stack(pixels)}


def stacked(pixels: list[Tensor]) -> Tensor:
    """Tiles [tiles, 3, H, W] of several images, padded with black tiles and stacked."""
    most = max(len(tiles) for tiles in pixels)
    return torch.stack([pad(tiles, (0, 0) * 3 + (0, most - len(tiles))) for tiles in pixels])
