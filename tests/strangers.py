"""Random checkpoints on disk of families that sts has no adapter for, and of odd combinations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import tiny
from transformers import CONFIG_MAPPING

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 14,
}
QWEN3_5 = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": {**tiny.mrope(half_head=4), "partial_rotary_factor": 1.0},
}


def write(name: str, folder: Path) -> Path:
    """The checkpoint `name`, one of CONFIGS. Those with a processor of ours have their real one."""
    like = name if name in checkpoints.SPECIAL else "llava"
    tokens = checkpoints.tokenizer(like)
    checkpoints.write_model(CONFIGS[name](tokens), tokens, folder)
    checkpoints.write_processor(like, tokens, folder)
    return folder


def llava_around(text: str, kind: str = "llava", **changes: Any) -> Callable[[Any], Any]:
    """LLaVA, or `kind`, around a language model `text`; `changes` are that model's."""

    def config(tokens: Any) -> Any:
        layers = {"vision_feature_layers": [-2, -1]} if kind == "vipllava" else {}
        return CONFIG_MAPPING[kind](
            text_config={
                **TEXT,
                **SPECIAL,
                "model_type": text,
                "vocab_size": len(tokens),
                **changes,
            },
            vision_config={**VISION, "model_type": "clip_vision_model"},
            image_token_id=tokens.image_token_id,
            image_seq_length=64,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
            **layers,
        )

    return config


def qwen3_5(tokens: Any) -> Any:
    return CONFIG_MAPPING["qwen3_5"](
        text_config={**TEXT, **QWEN3_5, "vocab_size": len(tokens)},
        vision_config={
            **tiny.qwen_vision("qwen3_vl", width=32),
            "deepstack_visual_indexes": [],
        },
        image_token_id=tokens.image_token_id,
    )


def lfm2_vl(tokens: Any) -> Any:
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    return CONFIG_MAPPING["lfm2_vl"](
        text_config={
            **TEXT,
            "model_type": "lfm2",
            "vocab_size": len(tokens),
            "layer_types": kinds,
        },
        vision_config={**VISION, "model_type": "siglip2_vision_model", "num_patches": 64},
        image_token_id=tokens.image_token_id,
    )


def q_former(kind: str, text: dict[str, Any]) -> Callable[[Any], Any]:
    """BLIP-2 or InstructBLIP around a language model."""

    def config(tokens: Any) -> Any:
        return CONFIG_MAPPING[kind](
            text_config={**text, "vocab_size": len(tokens)},
            vision_config=VISION,
            qformer_config={**TEXT, "encoder_hidden_size": 32, "vocab_size": 99},
            num_query_tokens=4,
            image_token_index=tokens.image_token_id,
        )

    return config


def glm4v(tokens: Any) -> Any:
    start, end = tokens.convert_tokens_to_ids(checkpoints.OTHER["glm4v"])
    vision = {"depth": 3, "hidden_size": 32, "num_heads": 4, "patch_size": 7, "image_size": 28}
    vision |= {"temporal_patch_size": 1, "out_hidden_size": 32, "intermediate_size": 64}
    return CONFIG_MAPPING["glm4v"](
        text_config={
            **TEXT,
            **SPECIAL,
            "vocab_size": len(tokens),
            "rope_parameters": {**tiny.mrope(half_head=4), "partial_rotary_factor": 1.0},
        },
        vision_config=vision,
        image_token_id=tokens.image_token_id,
        video_token_id=tokens.video_token_id,
        image_start_token_id=start,
        image_end_token_id=end,
    )


OPT = {
    "model_type": "opt",
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
CONFIGS: dict[str, Callable[[Any], Any]] = {
    "qwen3_5": qwen3_5,
    "lfm2_vl": lfm2_vl,
    "glm4v": glm4v,
    "blip-2": q_former("blip-2", OPT),
    "instructblip": q_former("instructblip", {**TEXT, "model_type": "llama"}),
    "llava around granite": llava_around("granite", embedding_multiplier=3.0),
    "llava around gemma2": llava_around("gemma2"),
    "llava around lfm2": llava_around("lfm2", layer_types=["conv", "full_attention"] * 2),
    "llava around phi3": llava_around("phi3", sliding_window=16),
    "llava around smollm3": llava_around("smollm3"),
    "llava around mixtral": llava_around("mixtral", num_local_experts=8),
    "llava of odd widths": llava_around("llama", hidden_size=24, head_dim=8, intermediate_size=40),
    "vipllava": llava_around("llama", "vipllava"),
}
