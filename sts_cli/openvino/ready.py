"""Chooses between OpenVINO and PyTorch. Imports nothing that costs time."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.errors import ModelError, did_you_mean
from sts_cli.families import CROSS_ATTENDED
from sts_cli.machine.packages import to_add
from sts_cli.profile import BACKEND, Backend, Profile, Quantize

FIRST, BEFORE = (2026, 0), (2027, 0)  # versions that were tested, or are near those


class NotConvertible(ModelError):
    """A model, or a part of one, that OpenVINO cannot take."""


def problem() -> str | None:
    """The reason why OpenVINO cannot be used, in one sentence; None if it can."""
    try:
        installed = version("openvino")
    except PackageNotFoundError:
        return f"OpenVINO is not installed; run: {to_add('openvino')}"
    parts = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    if not FIRST <= parts < BEFORE:
        return (
            f"OpenVINO {installed} is installed, but sts needs a version from {FIRST[0]}."
            f"{FIRST[1]} and below {BEFORE[0]}; run: {to_add('openvino')}"
        )
    if platform.machine().lower() not in ("x86_64", "amd64", "arm64", "aarch64"):
        return f"OpenVINO does not run on {platform.machine()}."
    return None


def wished_backend(given: str | None, profile: Profile) -> Backend:
    """The backend that was asked for: by the user, else the profile, else $STS_BACKEND, else auto.

    Raises ModelError for one that does not exist.
    """
    variable = os.environ.get("STS_BACKEND") or "auto"
    wish = given or profile.backend or variable
    for known in BACKEND:
        if wish == known:
            return known
    place = "--backend" if given else "STS_BACKEND"
    raise ModelError(
        f"{place} {wish} is unknown. Known: {', '.join(BACKEND)}.{did_you_mean(wish, BACKEND)}"
    )


def choose_backend(
    wish: Backend, checkpoint: Checkpoint, device: str, quantize: Quantize
) -> Backend:
    """The backend for `wish` on a `device` ("cpu", "cuda") and `quantize`: never "auto".

    Raises ModelError if OpenVINO was asked for by name and cannot be used.
    """
    if wish == "torch":
        return "torch"
    reason = obstacle(checkpoint, device, quantize) or problem()
    if reason is None:
        return "openvino"
    if wish == "openvino":
        raise ModelError(f"--backend openvino: {reason}")
    return "torch"


def obstacle(checkpoint: Checkpoint, device: str, quantize: Quantize) -> str | None:
    """The reason why OpenVINO is not the one to run a model, in one sentence."""
    if device != "cpu":
        return f"sts runs it on CPUs only, not on '{device}'; use --device cpu."
    if quantize == "nf4":
        return "nf4 weights are for PyTorch; use --quantize int8 or --quantize int4."
    if checkpoint.config.get("quantization_config"):
        return f"{checkpoint.folder} is quantized already; use the model that it was made from."
    if checkpoint.model_type in CROSS_ATTENDED:
        return (
            f"'{checkpoint.model_type}' reads images through cross-attention, which only PyTorch "
            "runs; use --backend torch."
        )
    if not checkpoint.tested:
        return f"'{checkpoint.model_type}' is an untested family; use --backend torch."
    return None
