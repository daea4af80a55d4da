"""Checks of a checkpoint's folder, from its small files and the weights' headers. No torch."""

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
ORIGINALS = {  # the original authors' formats -> conversions that transformers can load
    "llava_llama": "a conversion such as llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "a conversion such as llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "a conversion such as llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "internvl_chat": "a conversion whose name ends in -hf, such as OpenGVLab/InternVL3-1B-hf",
}


class NoVision(ModelError):
    """Raised for a model without a vision encoder."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed all checks that work without torch and transformers."""

    folder: Path
    model_type: str
    config: Mapping[str, Any]
    weights: Weights

    @property
    def tested(self) -> bool:
        """True if the tests cover the model's family, with this language model and encoder."""
        return tested(self.model_type, self.text_type, self.vision_type)

    @property
    def text_type(self) -> str | None:
        """The language model's model_type; None for the family's default."""
        return self.part_type("text_config")

    @property
    def vision_type(self) -> str | None:
        """The vision encoder's model_type; None for the family's default."""
        return self.part_type("vision_config")

    def part_type(self, part: str) -> str | None:
        settings = self.config.get(part)
        return settings.get("model_type") if isinstance(settings, Mapping) else None


def examine(folder: Path, called: str = "") -> Checkpoint:
    """The checkpoint in `folder`. Raises ModelError with the reason if it cannot be used.

    `called` is the user's name for the model, if that is not the folder.
    """
    config = examine_config(folder, called)
    examine_text_files(folder, called)
    return Checkpoint(folder, config["model_type"], config, read_weights(folder))


def examine_config(folder: Path, called: str = "") -> dict[str, Any]:
    """The config.json in `folder`. Raises ModelError unless it is a VLM that sts may load.

    `called` is the user's name for the model, if that is not the folder.
    """
    name = called or str(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{name} is not a model: {why_no_model(folder)}")
    config = read_json(path)
    kind = config.get("model_type")
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"{name} holds a LoRA adapter ({ADAPTER}), which sts does not apply. Merge it into its "
            "base model, or remove it if it is already merged."
        )
    if is_mlx(config):
        raise ModelError(
            f"{name} is quantized for MLX, which only Apple's library reads. Use the original "
            "model with --quantize."
        )
    if not isinstance(kind, str):
        raise ModelError(
            f"{path} has no model_type, so it is not the config of a transformers model."
        )
    if kind in FAMILIES:
        return config
    if kind in ORIGINALS:
        raise ModelError(
            f"{name} is in the original '{kind}' format, which needs its authors' code. "
            f"Use {ORIGINALS[kind]}."
        )
    if "auto_map" in config and not known_to_transformers(kind):
        raise ModelError(
            f"{name} needs Python code from its repository (auto_map in config.json), which "
            f"sts never runs. Supported families: {', '.join(FAMILIES)}."
        )
    if "vision_config" not in config:
        raise NoVision(
            f"{name} is a '{kind}' model without a vision encoder (vision_config). "
            f"Supported families: {', '.join(FAMILIES)}."
        )
    return config


def is_mlx(config: Mapping[str, Any]) -> bool:
    """True for MLX's config of a quantized model: it has `bits` and `group_size`, but no method."""
    entries = (config.get("quantization"), config.get("quantization_config"))
    return any(
        isinstance(entry, Mapping)
        and {"bits", "group_size"} <= entry.keys()
        and "quant_method" not in entry
        for entry in entries
    )


def known_to_transformers(kind: str) -> bool:
    """True if transformers has this model_type. Slow, since it imports transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def why_no_model(folder: Path) -> str:
    """The reason why a folder without config.json is no model, as the rest of a sentence."""
    if (folder / ADAPTER).is_file():
        return "it is a LoRA adapter. Merge it into its base model first."
    if any(folder.glob("*.gguf")):
        return "GGUF files are not supported. Use the model's safetensors checkpoint."
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"it has no config.json, but folders in it do: {', '.join(inside[:5])}."
    return "it has no config.json."


def examine_text_files(folder: Path, called: str = "") -> None:
    """Raise ModelError unless `folder` has a tokenizer, an image processor and a chat template.

    `called` is the user's name for the model, if that is not the folder.
    """
    name = called or str(folder)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ModelError(f"{name} has no tokenizer (such as tokenizer.json). Copy it there.")
    if not any((folder / file).is_file() for file in PROCESSORS):
        raise ModelError(
            f"{name} has no image processor (preprocessor_config.json). Copy it there from "
            "the original model."
        )
    if any((folder / file).is_file() for file in TEMPLATES):
        return
    for file in ("tokenizer_config.json", "processor_config.json"):
        path = folder / file
        if path.is_file() and read_json(path).get("chat_template"):
            return
    raise ModelError(
        f"{name} has no chat template, so sts cannot write its prompts. Copy "
        "chat_template.jinja there from the original model."
    )
