"""From a model's source to a loaded model, with messages about slow steps."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import Source
from sts_cli.cli.options import DEMO_HINT
from sts_cli.machine.libraries import check_libraries
from sts_cli.machine.runtime import settle_cpu, uncollected

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
    if source.kind == "demo" and not quiet:
        console.print(DEMO_HINT, style="dim")

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
