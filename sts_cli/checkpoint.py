"""What a checkpoint's folder holds, read from its small files and headers alone. No torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sts_cli.errors import ModelError
from sts_cli.families import FAMILIES

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
ORIGINALS = {  # the original authors' formats: what transformers' own conversions are called
    "llava_llama": "a conversion such as llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "a conversion such as llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "a conversion such as llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "internvl_chat": "a conversion whose name ends in -hf, such as OpenGVLab/InternVL3-1B-hf",
}
LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed every check that needs no model library."""

    folder: Path
    model_type: str
    config: Mapping[str, Any]
    shards: tuple[Path, ...]
    bytes: int  # of weights on disk
    parameters: int

    @property
    def tested(self) -> bool:
        """Whether the model's family is one that the tests cover."""
        return self.model_type in FAMILIES


def examine(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises ModelError: one sentence on what is wrong with it."""
    config = examine_config(folder)
    examine_text_files(folder)
    shards = find_shards(folder)
    parameters = sum(count_parameters(shard) for shard in shards)
    size = sum(shard.stat().st_size for shard in shards)
    return Checkpoint(folder, config["model_type"], config, shards, size, parameters)


def examine_config(folder: Path) -> dict[str, Any]:
    """config.json of a vision-language model that transformers knows without extra code."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} is not a model: {why_no_model(folder)}")
    config = read_json(path)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(
            f"{path} names no model_type, so it is not the config of a transformers model."
        )
    if kind in FAMILIES:
        return config
    if kind in ORIGINALS:
        raise ModelError(
            f"{folder} is in the original '{kind}' format, which needs its authors' code; "
            f"use {ORIGINALS[kind]}."
        )
    if "auto_map" in config and not known_to_transformers(kind):
        raise ModelError(
            f"{folder} needs Python code from its repository (auto_map in config.json), which "
            f"sts never runs; supported without it: {', '.join(FAMILIES)}."
        )
    if "vision_config" not in config:
        raise ModelError(
            f"{folder} is a '{kind}' model, which does not look at images; "
            f"supported families: {', '.join(FAMILIES)}."
        )
    return config


def known_to_transformers(kind: str) -> bool:
    """Whether transformers has this model type; slow, as it imports transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def why_no_model(folder: Path) -> str:
    """The rest of a sentence for a folder without config.json."""
    if (folder / "adapter_config.json").is_file():
        return "it is a LoRA adapter; merge it into its base model first."
    if any(folder.glob("*.gguf")):
        return "GGUF files are not supported; use the model's safetensors checkpoint."
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"it has no config.json, but folders in it do: {', '.join(inside[:5])}."
    return "it has no config.json."


def examine_text_files(folder: Path) -> None:
    """Raise ModelError unless there are a tokenizer, an image processor and a chat template."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"{folder} has no tokenizer (such as tokenizer.json); copy it there.")
    if not any((folder / name).is_file() for name in PROCESSORS):
        raise ModelError(
            f"{folder} has no image processor (preprocessor_config.json); copy it there from "
            "the model it was made from."
        )
    if any((folder / name).is_file() for name in TEMPLATES):
        return
    for name in ("tokenizer_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file() and read_json(path).get("chat_template"):
            return
    raise ModelError(
        f"{folder} has no chat template, so sts cannot write its prompts; copy "
        "chat_template.jinja there from the model it was made from."
    )


def find_shards(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the weights, all of them present."""
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelError(f"{index} lists no weights; fetch the file again.")
        shards = tuple(folder / name for name in sorted(set(names.values())))
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of {len(shards)} weight files "
                f"({', '.join(missing[:3])}); fetch them again."
            )
        return shards
    if single.is_file():
        return (single,)
    pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    if pickles:
        raise ModelError(
            f"{folder} has only pickle weights ({sorted(pickles)[0]}), which can run any code "
            "when they are opened; use a safetensors checkpoint."
        )
    raise ModelError(f"{folder} has no weights (model.safetensors); fetch the model again.")


def count_parameters(shard: Path) -> int:
    """Elements of all tensors in a safetensors file that is as long as its header says."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        start = file.read(8)
        if start == b"version ":  # the first word of a git-lfs pointer
            raise ModelError(f"{shard} is only a git-lfs pointer; run 'git lfs pull' there.")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LARGEST_HEADER + 1
        header = file.read(length) if length <= LARGEST_HEADER else b""
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        count = sum(prod(tensor["shape"]) for tensor in tensors.values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{shard} is not a safetensors file, or is damaged; fetch it again."
        ) from error
    if 8 + length + end != size:
        raise ModelError(
            f"{shard} is damaged: {size:,} bytes, but its header promises "
            f"{8 + length + end:,}; fetch it again."
        )
    return count


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ModelError if it is anything else."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON; fetch the file again.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} is not a JSON object; fetch the file again.")
    return data
