"""`sts models`: the models that this machine can use."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.table import Table

from sts_cli.checkpoints.hub import cache_folder
from sts_cli.checkpoints.sources import Usable, usable
from sts_cli.cli.options import Json
from sts_cli.families import FAMILIES
from sts_cli.report.console import stdout


def models(
    as_json: Json = False,
) -> None:
    """List the models on this machine, and the families that sts supports.

    Models are the demo, $STS_MODEL, and those in the Hugging Face cache. Any folder with a
    transformers checkpoint works too: sts ask --model FOLDER IMAGE "question".
    """
    known = usable()
    if as_json:
        facts = [model_facts(model) for model in known]
        typer.echo(json.dumps({"models": facts, "families": list(FAMILIES)}))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "family", "parameters", "size", "state"):
        table.add_column(column, justify="right" if column in ("parameters", "size") else "left")
    for model in known:
        table.add_row(*model_cells(model))
    console = stdout()
    console.print(table)
    console.print(f"\nSupported families: {', '.join(FAMILIES)}.")
    console.print("Other families of transformers may work; sts says that they are untested.")
    console.print(f"Models of the Hugging Face Hub are in {cache_folder()}.")


def model_facts(model: Usable) -> dict[str, Any]:
    """One model for programs; `problem` is null if the model can be used."""
    problem = model.problem
    facts: dict[str, Any] = {"name": model.name, "usable": problem is None, "problem": problem}
    if model.source is None or model.source.checkpoint is None:
        return facts
    checkpoint = model.source.checkpoint
    return {
        **facts,
        "kind": model.source.kind,
        "path": str(checkpoint.folder),
        "family": checkpoint.model_type,
        "tested": checkpoint.tested,
        "parameters": checkpoint.weights.parameters,
        "bytes": checkpoint.weights.bytes,
    }


def model_cells(model: Usable) -> tuple[str, str, str, str, str]:
    """One model for people."""
    if model.source is None or model.source.checkpoint is None:
        return model.name, "", "", "", model.problem or "not on this machine yet"
    checkpoint = model.source.checkpoint
    return (
        model.name,
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
