"""A checkpoint's safetensors files: their sizes and whether they are complete. No torch."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sts_cli.errors import ModelError

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
NOT_LANGUAGE = ("vision", "visual", "vit.", "projector", "connector", "merger", "mlp1")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of a checkpoint, each checked to have the length that its header says."""

    shards: tuple[Path, ...]
    bytes: int  # on disk
    parameters: int
    layers: int  # parameters in the language model's layers, which quantization makes smaller


def read_weights(folder: Path) -> Weights:
    """The weights in `folder`. Raises ModelError if they are missing or damaged."""
    shards = find_shards(folder)
    sizes: dict[str, int] = {}
    for shard in shards:
        sizes |= {name: prod(tensor["shape"]) for name, tensor in read_header(shard).items()}
    layers = sum(size for name, size in sizes.items() if is_layer(name))
    size = sum(shard.stat().st_size for shard in shards)
    return Weights(shards, size, sum(sizes.values()), layers)


def is_layer(name: str) -> bool:
    """True if a tensor belongs to the language model's layers, judged by its name."""
    return "layers." in name and not any(part in name for part in NOT_LANGUAGE)


def find_shards(folder: Path) -> tuple[Path, ...]:
    """The paths of all safetensors files of the weights. Raises ModelError if one is missing."""
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelError(f"{index} lists no weights; fetch the file again.")
        if not all(isinstance(name, str) for name in names.values()):
            raise ModelError(f"{index} has entries that are no file names; fetch the file again.")
        shards = tuple(folder / name for name in sorted(set(names.values())))
        missing = [shard.name for shard in shards if not os.path.isfile(shard)]
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
            "when they are opened. Use a safetensors checkpoint."
        )
    if any(folder.glob("*.gguf")):
        raise ModelError(f"{folder} has only GGUF weights. Use the model's safetensors checkpoint.")
    raise ModelError(f"{folder} has no weights (model.safetensors); fetch the model again.")


def read_header(shard: Path) -> Mapping[str, Any]:
    """The header of a safetensors file: tensor name -> dtype, shape and offsets.

    Raises ModelError if the header is damaged, or if the file's length does not match it.
    """
    size = shard.stat().st_size
    with shard.open("rb") as file:
        start = file.read(8)
        if start == b"version ":  # the first word of a git-lfs pointer
            raise ModelError(f"{shard} is only a git-lfs pointer; run 'git lfs pull' there.")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LARGEST_HEADER + 1
        header = file.read(length) if length <= LARGEST_HEADER else b""
    try:
        tensors: dict[str, Any] = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        sizes = [size for tensor in tensors.values() for size in [*tensor["shape"], end]]
        whole = all(isinstance(size, int) for size in sizes)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise damaged(shard) from error
    if not whole:
        raise damaged(shard)
    if 8 + length + end != size:
        raise ModelError(
            f"{shard} is damaged: it has {size:,} bytes, but by its header "
            f"it should have {8 + length + end:,}. Fetch it again."
        )
    return tensors


def damaged(shard: Path) -> ModelError:
    """The error about a file with an unreadable header."""
    return ModelError(f"{shard} is not a safetensors file, or is damaged; fetch it again.")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelError if there is none."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON; fetch the file again.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} is not a JSON object; fetch the file again.")
    return data
