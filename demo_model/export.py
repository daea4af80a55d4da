"""Export of a run's last state to a checkpoint folder for transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from demo_model import build


def export(run: Path, folder: Path) -> float:
    """Write the checkpoint of the run in `run` to `folder`; returns its weights' size in MB."""
    state = torch.load(run / "state.pt", weights_only=True, map_location="cpu")
    width = state["model"]["lm_head.weight"].shape[1]
    size = next(size for size in build.SIZES.values() if size.width == width)
    tokens = build.tokenizer()
    llava = build.model(size, tokens, seed=0)
    llava.load_state_dict(state["model"])
    build.save(llava, tokens, folder)
    weights = folder / "model.safetensors"
    weights.chmod(0o644)  # safetensors lets only the owner read it
    return weights.stat().st_size / 1e6
