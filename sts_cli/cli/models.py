"""`sts models`: what is usable on this machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from sts_cli.checkpoints.hub import cache_folder
from sts_cli.checkpoints.sources import Usable, usable
from sts_cli.families import FAMILIES
from sts_cli.report.console import stdout


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List the models on this machine, and the families that sts supports.

    Models are the demo, $STS_MODEL, and what is in the Hugging Face cache. Any folder with a
    transformers checkpoint works too: sts ask --model FOLDER IMAGE "question".
    """
    found = usable()
    if as_json:
        rows = [model_row(one) for one in found]
        typer.echo(json.dumps({"models": rows, "families": list(FAMILIES)}))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "family", "parameters", "size", "state"):
        table.add_column(column, justify="right" if column in ("parameters", "size") else "left")
    for one in found:
        table.add_row(*model_cells(one))
    console = stdout()
    console.print(table)
    console.print(f"\nSupported families: {', '.join(FAMILIES)}.")
    console.print(
        "Others that follow transformers' conventions are tried, and said to be untested."
    )
    console.print(f"Hub models are looked up in {cache_folder()}.")


def model_row(one: Usable) -> dict[str, Any]:
    """One model for programs; `problem` is null where it can be used."""
    row: dict[str, Any] = {"name": one.name, "usable": one.problem is None, "problem": one.problem}
    if one.source is None or one.source.checkpoint is None:
        return row
    checkpoint = one.source.checkpoint
    return {
        **row,
        "kind": one.source.kind,
        "path": str(checkpoint.folder),
        "family": checkpoint.model_type,
        "tested": checkpoint.tested,
        "parameters": checkpoint.weights.parameters,
        "bytes": checkpoint.weights.bytes,
    }


def model_cells(one: Usable) -> tuple[str, str, str, str, str]:
    """One model for people."""
    if one.source is None or one.source.checkpoint is None:
        return one.name, "", "", "", one.problem or "not on this machine yet"
    checkpoint = one.source.checkpoint
    return (
        one.name,
        checkpoint.model_type,
        count(checkpoint.weights.parameters),
        f"{checkpoint.weights.bytes / 1e6:,.0f} MB",
        "ready" if checkpoint.tested else "untested family",
    )


def count(parameters: int) -> str:
    """`7.1 B` for 7,060,000,000."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f} B"
    return f"{parameters / 1e6:.1f} M"
