"""The number of questions at once that fit into memory, by their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sts_cli.answering.features import ImageFeatures, Refused
from sts_cli.answering.request import Request
from sts_cli.decoding.masks import readers
from sts_cli.profile import Profile

if TYPE_CHECKING:
    from sts_cli.engine.engine import Engine

MOST = {"cpu": 8, "cuda": 16}  # rows; more gain little on a CPU (benchmarks/batch_sizes.py)
TEXT = 256  # tokens of a question and its template
SHARE = 0.5  # of the free memory, for what is not counted below
ENCODER = 32  # values in a vision encoder for each of its input: 18 in Qwen2-VL, 30 in SigLIP
MATRICES = 1.5  # of N x N float32 values that choosing among N tokens holds
LAYER = 8  # hidden states of a layer that are alive at once, its MLP's apart


def most_rows(device: torch.device) -> int:
    """Rows at once beyond which a device of this kind gains nothing."""
    return MOST.get(device.type, MOST["cpu"])


def fitting_rows(
    engine: Engine,
    request: Request,
    pictures: Sequence[ImageFeatures],
    free: int | None,
) -> int:
    """The number of questions such as one about `pictures` in a batch: 1 to `most_rows`.

    `free` is in bytes; None where the system does not tell. A size to start from: halving a batch
    is for what it leaves out.
    """
    most = most_rows(engine.clock.device)
    if free is None:
        return most
    try:
        visual = sum(one.pixels.count for one in pictures)
        values = sum(t.numel() for one in pictures for t in one.pixels.inputs.values())
    except Refused:  # told in the answer to its question
        return most
    new = request.max_new_tokens or engine.max_new_tokens
    config, width = engine.family.model.get_decoder().config, engine.family.model.dtype.itemsize
    row = width * max(
        sum(row_values(config, one, visual, values, new) for one in profile.ladder)
        for profile in request.profiles
    )
    shared = choosing_bytes(visual) if any(one.cuts for one in request.profiles) else 0
    return max(1, min(most, int((SHARE * free - shared) / row)))


def row_values(config: Any, profile: Profile, visual: int, values: int, new: int) -> float:
    """Numbers that one question of `visual` tokens, out of `values` of pixels, keeps in memory.

    Its KV cache, and the larger of what encoding its images and running a layer take besides.
    """
    layers, hidden = config.num_hidden_layers, config.hidden_size
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    reading = len(readers(config))
    cached = reading * profile.planned(visual, reading) + layers * (TEXT + new)
    entering = (profile.budgets(visual)[0] if profile.cuts else visual) + TEXT
    prompt = 2 * (visual + TEXT) * hidden  # before and after the images' features are put in
    layer = entering * (LAYER * hidden + 3 * inner)
    return 2 * heads * size * cached + max(ENCODER * values, prompt + layer)


def choosing_bytes(visual: int) -> float:
    """Memory for choosing among an image's `visual` tokens, whatever the number of questions."""
    return MATRICES * 4 * visual**2
