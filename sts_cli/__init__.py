"""Ask vision-language models about images, faster: training-free visual token pruning.

    import sts_cli
    vlm = sts_cli.load("demo", profile="aggressive")
    print(vlm.ask("sign.png", "what is on the sign?").text)

docs/library.md shows the rest. Nothing heavy is imported before `load`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sts_cli.profile import Backend, Cut, Profile, Quantize
from sts_cli.records import Answer, Item, Problem

if TYPE_CHECKING:
    from sts_cli.cluster.answerer import Answerer
    from sts_cli.library import Model

__version__ = "0.2.0"
__all__ = ["Answer", "Answerer", "Cut", "Item", "Problem", "Profile", "load", "load_profile"]


def __getattr__(name: str) -> Any:
    """`Answerer`, imported when it is asked for."""
    if name == "Answerer":
        from sts_cli.cluster.answerer import Answerer

        return Answerer
    raise AttributeError(f"module 'sts_cli' has no attribute '{name}'")


def load(
    model: str | Path | None = None,
    *,
    profile: str | Path | Profile = "balanced",
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize | None = None,
    backend: Backend | None = None,
    progress: Callable[[str], None] | None = None,
) -> Model:
    """A model that answers: "demo", a folder, or a Hugging Face id. None: $STS_MODEL, else demo.

    `profile` is a shipped profile's name, a YAML file, or a Profile. `device` is auto, cpu, cuda or
    cuda:N (or mps or xpu, which are not verified), `dtype` auto, bfloat16, float16 or float32.
    `quantize` and `backend` (auto, torch or openvino) replace the profile's own. `progress` is told
    what takes long. Raises errors.ModelError or errors.ProfileError, each with one sentence that
    says what to do.
    """
    from sts_cli.checkpoints.sources import find
    from sts_cli.machine.libraries import check_libraries
    from sts_cli.machine.runtime import settle_cpu
    from sts_cli.openvino.ready import wished_backend

    chosen = profile if isinstance(profile, Profile) else load_profile(profile)
    chosen = replace(
        chosen,
        quantize=quantize or chosen.quantize,
        backend=wished_backend(backend, chosen),
    )
    source = find(None if model is None else str(model))
    settle_cpu()
    check_libraries()
    from sts_cli.library import load_model

    return load_model(source, chosen, device=device, dtype=dtype, progress=progress)


def load_profile(profile: str | Path) -> Profile:
    """A shipped profile by its name, or one's own by the path of its YAML file.

    Raises errors.ProfileError.
    """
    from sts_cli.profile_files import load_profile as read

    return read(str(profile))
