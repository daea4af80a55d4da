"""What a checkpoint's folder holds, read from its small files and headers alone. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sts_cli.checkpoints.weights import Weights, read_json, read_weights
from sts_cli.errors import ModelError
from sts_cli.families import FAMILIES, tested

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
ADAPTER = "adapter_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
ORIGINALS = {  # the original authors' formats: what transformers' own conversions are called
    "llava_llama": "a conversion such as llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "a conversion such as llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "a conversion such as llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "internvl_chat": "a conversion whose name ends in -hf, such as OpenGVLab/InternVL3-1B-hf",
}


class NoVision(ModelError):
    """A model that does not look at images."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed every check that needs no model library."""

    folder: Path
    model_type: str
    config: Mapping[str, Any]
    weights: Weights

    @property
    def tested(self) -> bool:
        """Whether the tests cover the model's family, with its language model and its encoder."""
        return tested(self.model_type, self.text_type, self.vision_type)

    @property
    def text_type(self) -> str | None:
        """The language model's model_type; None where the config leaves it to the family."""
        return self.part_type("text_config")

    @property
    def vision_type(self) -> str | None:
        """The vision encoder's model_type; None where the config leaves it to the family."""
        return self.part_type("vision_config")

    def part_type(self, part: str) -> str | None:
        settings = self.config.get(part)
        return settings.get("model_type") if isinstance(settings, Mapping) else None


def examine(folder: Path, called: str = "") -> Checkpoint:
    """The checkpoint in `folder`. Raises ModelError: one sentence on what is wrong with it.

    `called` is the user's name for it, if that is not the folder.
    """
    config = examine_config(folder, called)
    examine_text_files(folder, called)
    return Checkpoint(folder, config["model_type"], config, read_weights(folder))


def examine_config(folder: Path, called: str = "") -> dict[str, Any]:
    """config.json of a vision-language model that transformers knows without extra code."""
    name = called or str(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{name} is not a model: {why_no_model(folder)}")
    config = read_json(path)
    kind = config.get("model_type")
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"{name} holds a LoRA adapter ({ADAPTER}), which sts does not apply; merge it into its "
            "base model, or remove it if the weights beside it are merged already."
        )
    if is_mlx(config):
        raise ModelError(
            f"{name} is quantized for MLX, which only Apple's library reads; use the model that it "
            "was made from, with --quantize."
        )
    if not isinstance(kind, str):
        raise ModelError(
            f"{path} names no model_type, so it is not the config of a transformers model."
        )
    if kind in FAMILIES:
        return config
    if kind in ORIGINALS:
        raise ModelError(
            f"{name} is in the original '{kind}' format, which needs its authors' code; "
            f"use {ORIGINALS[kind]}."
        )
    if "auto_map" in config and not known_to_transformers(kind):
        raise ModelError(
            f"{name} needs Python code from its repository (auto_map in config.json), which "
            f"sts never runs; supported without it: {', '.join(FAMILIES)}."
        )
    if "vision_config" not in config:
        raise NoVision(
            f"{name} is a '{kind}' model without a vision encoder (vision_config); "
            f"supported families: {', '.join(FAMILIES)}."
        )
    return config


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Whether mlx wrote the config of a quantized model: `bits` and `group_size`, and no method."""
    given = (config.get("quantization"), config.get("quantization_config"))
    return any(
        isinstance(one, Mapping)
        and {"bits", "group_size"} <= one.keys()
        and "quant_method" not in one
        for one in given
    )


def known_to_transformers(kind: str) -> bool:
    """Whether transformers has this model type; slow, as it imports transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def why_no_model(folder: Path) -> str:
    """The rest of a sentence for a folder without config.json."""
    if (folder / ADAPTER).is_file():
        return "it is a LoRA adapter; merge it into its base model first."
    if any(folder.glob("*.gguf")):
        return "GGUF files are not supported; use the model's safetensors checkpoint."
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"it has no config.json, but folders in it do: {', '.join(inside[:5])}."
    return "it has no config.json."


def examine_text_files(folder: Path, called: str = "") -> None:
    """Raise ModelError unless there are a tokenizer, an image processor and a chat template."""
    name = called or str(folder)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ModelError(f"{name} has no tokenizer (such as tokenizer.json); copy it there.")
    if not any((folder / file).is_file() for file in PROCESSORS):
        raise ModelError(
            f"{name} has no image processor (preprocessor_config.json); copy it there from "
            "the model it was made from."
        )
    if any((folder / file).is_file() for file in TEMPLATES):
        return
    for file in ("tokenizer_config.json", "processor_config.json"):
        path = folder / file
        if path.is_file() and read_json(path).get("chat_template"):
            return
    raise ModelError(
        f"{name} has no chat template, so sts cannot write its prompts; copy "
        "chat_template.jinja there from the model it was made from."
    )
