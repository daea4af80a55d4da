"""`sts doctor`: is this machine ready, and for what?"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from sts_cli.cli.diagnosis import Diagnosis, diagnose
from sts_cli.report.console import stdout


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check this machine and installation; exit with 1 if something is wrong.

    Reports the device, memory, CPU features, precision, threads and load, versions, folders, and
    what to install for what.
    """
    from sts_cli.machine.runtime import settle_cpu

    settle_cpu()
    found = diagnose()
    if as_json:
        told = {"problems": list(found.problems), "advice": list(found.advice)}
        typer.echo(json.dumps({"ok": not found.problems, **told, **found.facts}))
    else:
        show(found, stdout(soft_wrap=True))
    if found.problems:
        raise typer.Exit(1)


def show(found: Diagnosis, console: Console) -> None:
    """The diagnosis for people: topics, what is missing for what, problems last."""
    for topic, facts in found.facts.items():
        console.print(topic, style="bold")
        for name, value in facts.items():
            console.print(f"  {name.replace('_', ' '):<18}{text(name, value)}")
    for sentence in found.advice:
        console.print("note", style="yellow", end="  ")
        console.print(sentence)
    for sentence in found.problems:
        console.print("problem", style="red", end="  ")
        console.print(sentence)
    if not found.problems:
        console.print("ready", style="green")


def text(name: str, value: Any) -> str:
    """One fact in words."""
    if isinstance(value, dict) and "for" in value:
        state = value["version"] or f"not installed: {value['install']}"
        return f"{state} ({value['for']})"
    if isinstance(value, dict):
        return ", ".join(
            f"{key.replace('_', ' ')} {text(key, part)}" for key, part in value.items()
        )
    if isinstance(value, list):
        return ", ".join(text(name, part) for part in value) or "none"
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name.startswith("memory") or name.endswith(("free", "bytes"))):
        return f"{value / 1e9:.1f} GB"
    return str(value)
