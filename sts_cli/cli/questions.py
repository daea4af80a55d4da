"""The questions of sts eval and sts tune."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from sts_cli.cli.parsing import tell_form
from sts_cli.inputs.images import Prepared, decode_ahead
from sts_cli.inputs.items import open_input

SCENES = "scenes"


def questions_of(
    name: str, per_kind: int, level: float, development: bool, console: Console, quiet: bool
) -> Iterator[Prepared]:
    """The questions of a file, or of the built-in scenes. Raises InputError."""
    if name != SCENES:
        rows = open_input(name, tell=lambda form: tell_form(form, console, quiet))
        tell_form(rows.form, console, quiet)
        return decode_ahead(rows.items())
    from sts_cli.scenes.suite import DEVELOPMENT, HELD_OUT, suite

    return suite(per_kind, level, DEVELOPMENT if development else HELD_OUT)
