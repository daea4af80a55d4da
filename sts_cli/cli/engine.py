"""From a model's source to an engine, telling what takes long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from sts_cli.cli.options import DEMO_HINT
from sts_cli.libraries import check_libraries
from sts_cli.profile import Profile
from sts_cli.runtime import settle_cpu
from sts_cli.sources import Source

if TYPE_CHECKING:
    from sts_cli.engine.engine import Engine
    from sts_cli.families.default import Family


def load_engine(
    source: Source,
    profile: Profile,
    device: str,
    dtype: str,
    console: Console,
    quiet: bool,
    fallbacks: Sequence[Profile] = (),
) -> tuple[Engine, str]:
    """Load the model, and say in which precision; this is where torch is first imported.

    Raises ModelError, or ProfileError for a profile that the model cannot honour.
    """
    settle_cpu()
    check_libraries()
    from sts_cli.engine.engine import Engine
    from sts_cli.loading import load

    if source.kind == "demo" and not quiet:
        console.print(DEMO_HINT, style="dim")

    def say(message: str) -> None:
        if not quiet:
            console.print(message, style="dim")

    loaded = load(
        source, device=device, dtype=dtype, quantize=profile.quantize or "none", progress=say
    )
    engine = Engine(loaded)
    for one in (profile, *fallbacks):
        engine.check(one)
    return engine, f"{str(loaded.dtype).removeprefix('torch.')}, {loaded.quantize}"


def load_outline(source: Source) -> Family | None:
    """What a model makes of images and prompts, without its weights; None if it is not here yet.

    Raises ModelError.
    """
    settle_cpu()
    check_libraries()
    from sts_cli.loading import outline

    return None if source.checkpoint is None else outline(source.name, source.checkpoint)
