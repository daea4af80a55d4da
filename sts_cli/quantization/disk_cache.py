"""A cache of quantized models on disk. Users may delete its folder at any time."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.checkpoints.fingerprint import fingerprint
from sts_cli.checkpoints.weights import read_json, read_weights
from sts_cli.errors import ModelError
from sts_cli.profile import Quantize
from sts_cli.quantization.choice import quantized_folder

LAYOUT = 3  # version of the cached files; with a new number, older ones are not read
LEAST_SECONDS = 5.0  # a model is only cached if loading took longer than this,
LEAST_BYTES = 100_000_000  # and if it is larger than this
GENERATION = "generation_config.json"
STALE = 24 * 3600  # age in seconds at which files of an interrupted run are removed


def cache_path(
    checkpoint: Checkpoint, quantize: Quantize, device: torch.device, dtype: torch.dtype
) -> Path | None:
    """The folder for this checkpoint in this precision; it may not exist. None: no cache.

    Its name changes with the checkpoint's files, and with everything that changes the packed
    layout. Raises ModelError if the files cannot be read.
    """
    folder = quantized_folder()
    if folder is None:
        return None
    key = hashlib.sha256()
    for part in (
        (LAYOUT, quantize, device.type, dtype),
        (torch.__version__, transformers.__version__, version("bitsandbytes")),
        torch.backends.cpu.get_cpu_capability(),
        fingerprint(checkpoint),  # covers the generation settings, which are cached too
    ):
        key.update(repr(part).encode())
    return folder / f"{checkpoint.model_type}-{quantize}-{key.hexdigest()[:20]}"


def is_complete(folder: Path) -> bool:
    """True if `folder` holds a complete cached model. Removes a damaged one."""
    if not folder.is_dir():
        return False
    try:
        read_weights(folder)
        read_json(folder / "config.json")
    except (ModelError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def store(
    model: Any, checkpoint: Checkpoint, folder: Path, size: int, say: Callable[[str], None]
) -> None:
    """Save a quantized model of about `size` bytes as `folder`, completely or not at all.

    If the disk is full or read-only, `say` gets a message and the next start quantizes again.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(folder.parent)
        if shutil.disk_usage(folder.parent).free < 2 * size:
            say(f"Not saving the quantized weights: too little space in {folder.parent}")
            return
        say(f"Saving the quantized weights in {folder}")
        with tempfile.TemporaryDirectory(prefix="part-", dir=folder.parent) as part:
            new = Path(part) / "model"
            save(model, new)
            settings = checkpoint.folder / GENERATION
            if settings.is_file():
                shutil.copyfile(settings, new / GENERATION)
            if not folder.exists():
                new.rename(folder)
    except (OSError, SafetensorError) as error:
        say(f"Not saving the quantized weights: {error}")


def save(model: Any, folder: Path) -> None:
    """Write weights and config, but not the generation settings: transformers may refuse them."""
    settings, model.generation_config = model.generation_config, transformers.GenerationConfig()
    try:
        model.save_pretrained(folder)
    finally:
        model.generation_config = settings
    (folder / GENERATION).unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove old unfinished files of killed runs from `folder`."""
    for part in folder.glob("part-*"):
        if time.time() - part.stat().st_mtime > STALE:
            shutil.rmtree(part, ignore_errors=True)
