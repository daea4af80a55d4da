"""Quantized models on disk, so that a large one is quantized once. Delete the folder at will."""

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
from sts_cli.quantization.choice import kept_folder

LAYOUT = 2  # of what we keep; a new number forgets the old
LONG = 5.0  # seconds of loading from which it is worth the disk,
LARGE = 100_000_000  # for a model of so many bytes
GENERATION = "generation_config.json"
STALE = 24 * 3600  # seconds after which what an interrupted run left is removed


def place(
    checkpoint: Checkpoint, quantize: Quantize, device: torch.device, dtype: torch.dtype
) -> Path | None:
    """The folder for this checkpoint in this precision, whether or not it is there.

    Its name changes with the files, and with everything that changes the packed layout.
    """
    folder = kept_folder()
    if folder is None:
        return None
    key = hashlib.sha256()
    for part in (
        (LAYOUT, quantize, device.type, dtype),
        (torch.__version__, transformers.__version__, version("bitsandbytes")),
        torch.backends.cpu.get_cpu_capability(),
        fingerprint(checkpoint),  # the generation settings, too, are kept with the weights
    ):
        key.update(repr(part).encode())
    return folder / f"{checkpoint.model_type}-{quantize}-{key.hexdigest()[:20]}"


def is_whole(folder: Path) -> bool:
    """Whether a kept model is there and complete; a damaged one is removed."""
    if not folder.is_dir():
        return False
    try:
        read_weights(folder)
        read_json(folder / "config.json")
    except (ModelError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def keep(
    model: Any, checkpoint: Checkpoint, folder: Path, size: int, say: Callable[[str], None]
) -> None:
    """Save a quantized model of about `size` bytes as `folder`, at once or not at all.

    A disk that is full or read-only is told to `say`: it costs time at the next start, no more.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(folder.parent)
        if shutil.disk_usage(folder.parent).free < 2 * size:
            say(f"Not keeping the quantized weights: too little space in {folder.parent}")
            return
        say(f"Keeping the quantized weights in {folder}")
        with tempfile.TemporaryDirectory(prefix="part-", dir=folder.parent) as part:
            made = Path(part) / "model"
            save(model, made)
            settings = checkpoint.folder / GENERATION
            if settings.is_file():
                shutil.copyfile(settings, made / GENERATION)
            if not folder.exists():
                made.rename(folder)
    except (OSError, SafetensorError) as error:
        say(f"Not keeping the quantized weights: {error}")


def save(model: Any, folder: Path) -> None:
    """Weights and config. transformers would refuse to write many a model's generation settings."""
    settings, model.generation_config = model.generation_config, transformers.GenerationConfig()
    try:
        model.save_pretrained(folder)
    finally:
        model.generation_config = settings
    (folder / GENERATION).unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove what runs that were killed left in `folder`."""
    for part in folder.glob("part-*"):
        if time.time() - part.stat().st_mtime > STALE:
            shutil.rmtree(part, ignore_errors=True)
