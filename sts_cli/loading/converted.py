"""A model whose layers and vision tower OpenVINO runs: converted once, then read from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.families import adapter
from sts_cli.openvino.decoder import OpenVinoDecoder, settings_for
from sts_cli.openvino.kept import Shelf, place, whole
from sts_cli.openvino.ready import NotConvertible
from sts_cli.openvino.rest import keep_rest, read_rest
from sts_cli.openvino.tower import OpenVinoTower
from sts_cli.openvino.weights import Weights


def read_converted(
    checkpoint: Checkpoint,
    config: Any,
    processor: Any,
    dtype: torch.dtype,
    weights: Weights,
    read: Callable[[torch.dtype], Any],
    say: Callable[[str], None],
) -> tuple[Any, OpenVinoDecoder, Any]:
    """The model without its layers, the decoder that has them, and the encoder of its images.

    `read` reads the whole model in a dtype; it is called only for a conversion. Raises
    NotConvertible for what OpenVINO cannot take, ModelError for a damaged checkpoint.
    """
    folder = place(checkpoint, weights, dtype)
    shelf = Shelf(folder, say)
    model = None
    if folder is not None and whole(shelf, config.get_text_config().num_hidden_layers):
        model = read_rest(config, checkpoint.folder, folder, dtype)
    if model is not None:
        decoder = OpenVinoDecoder(model, shelf, weights, settings_for(dtype, weights))
        return model, decoder, tower_of(model, processor, shelf, decoder, say)
    model = read(stored_dtype(config, dtype))
    say("Converting the model for OpenVINO" + (f", once; kept in {folder}" if folder else ""))
    decoder = OpenVinoDecoder(model, shelf, weights, settings_for(dtype, weights))

    def tell(done: int, layers: int) -> None:
        if done and done * 4 // layers > (done - 1) * 4 // layers:
            say(f"Converted {done} of {layers} layers")

    decoder.convert(tell)
    model.to(dtype)
    if folder is not None and shelf.writes:
        keep(model, folder, say)
    return model, decoder, tower_of(model, processor, shelf, decoder, say)


def stored_dtype(config: Any, dtype: torch.dtype) -> torch.dtype:
    """The checkpoint's own dtype where it is narrower than `dtype`: layers take half the memory."""
    own = config.dtype
    return own if own in (torch.bfloat16, torch.float16) and dtype == torch.float32 else dtype


def keep(model: Any, folder: Path, say: Callable[[str], None]) -> None:
    """Keep what the pieces do not hold; without room for it the next start converts again."""
    try:
        keep_rest(model, folder)
    except OSError as error:
        say(f"Not keeping the converted model: {error}")


@torch.inference_mode()
def tower_of(
    model: Any,
    processor: Any,
    shelf: Shelf,
    decoder: OpenVinoDecoder,
    say: Callable[[str], None],
) -> Any:
    """The vision tower compiled; the model itself where OpenVINO cannot take its tower."""
    try:
        weights: Weights = "none" if decoder.weights == "none" else "int8"
        tower = OpenVinoTower(model, shelf, settings_for(model.dtype, weights), weights)
        if not tower.compile_kept():
            family = adapter(model, processor, tower)
            family.encode([family.pixels(Image.new("RGB", (64, 64)))])
    except NotConvertible as error:
        say(f"{error} PyTorch runs the vision tower.")
        return model
    return tower
