"""The guide of a profile's file: a smaller model that answers first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sts_cli import pruning
from sts_cli.errors import ProfileError
from sts_cli.profile import Cut
from sts_cli.profile_files.mistakes import Place

DEMO = "demo"  # a model that a name means before any folder


def read_guide(value: Any, cuts: Sequence[Cut] | None, where: Place) -> str | None:
    """The guide, a folder as seen from the profile's file; `cuts` are None if they are wrong."""
    asking = [cut.method for cut in cuts or () if "guide" in pruning.find(cut.method).needs]
    if value is None and asking:
        raise ProfileError(
            f"{where} is missing: {asking[0]} keeps what a smaller model looked at. Give its name, "
            "as for --model."
        )
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ProfileError(f"{where} must be the name of a model, as for --model.")
    if cuts is not None and not asking:
        raise ProfileError(
            f"{where} is '{value}', but no cut asks a guide. Add a cut by sgl, or remove guide."
        )
    beside = Path(where.file).parent / value
    return str(beside) if value != DEMO and beside.is_dir() else value
