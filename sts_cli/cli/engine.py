"""From a model's source to a loaded model, with messages about slow steps."""

from __future__ import annotations

import contextlib
from time import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import Source
from sts_cli.cli.options import DEMO_HINT
from sts_cli.machine.libraries import check_libraries
from sts_cli.machine.runtime import settle_cpu, uncollected
from sts_cli.quantization.choice import quantized_folder

DAY = 86_400  # seconds

if TYPE_CHECKING:
    from sts_cli.families.default import Family
    from sts_cli.library import Model


def load_for(
    source: Source, request: Request, device: str, dtype: str, console: Console, quiet: bool
) -> Model:
    """The model that answers a request. The first import of torch happens here.

    A terminal shows a spinner until the model is ready. Raises ModelError, or ProfileError for a
    profile that does not work with the model.
    """

    def say(message: str) -> None:
        if not quiet:
            console.print(message, style="dim")

    loading = Text(f"Loading {source.name}", "dim")
    moving = console.is_terminal and not quiet
    with console.status(loading) if moving else contextlib.nullcontext():
        import_libraries()
        from sts_cli.library import load_model

        return load_model(
            source,
            request.profile,
            device=device,
            dtype=dtype,
            others=request.others,
            progress=say,
        )


def demo_note(source: Source, console: Console, quiet: bool) -> None:
    """Say, once a day, that the demo model is no real one; for the end of a run without errors."""
    if source.kind != "demo" or quiet:
        return
    folder = quantized_folder()
    if folder is not None:
        stamp = folder.with_name("demo-note")
        with contextlib.suppress(OSError):  # without a place to remember, it is said again
            if stamp.exists() and time() - stamp.stat().st_mtime < DAY:
                return
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()
    console.print(DEMO_HINT, style="dim")


def load_outline(source: Source) -> Family | None:
    """The family of a model, without its weights; None if the model is not on this machine.

    Raises ModelError.
    """
    import_libraries()
    from sts_cli.loading.model import outline

    return None if source.checkpoint is None else outline(source.name, source.checkpoint)


def import_libraries() -> None:
    """Import all that a model needs. Raises ModelError if a library is broken."""
    settle_cpu()
    with uncollected():
        check_libraries()
        import sts_cli.library  # noqa: F401
