"""`sts doctor`: a check of this machine and installation."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console

from sts_cli.cli.diagnosis import Diagnosis, diagnose
from sts_cli.cli.options import Json
from sts_cli.report.console import stdout


def doctor(
    as_json: Json = False,
) -> None:
    """Check this machine and installation; exit with 1 if something is wrong.

    Reports device, memory, CPU features, precision, threads, load, versions, folders and optional
    packages.
    """
    from sts_cli.machine.runtime import settle_cpu

    settle_cpu()
    diagnosis = diagnose()
    if as_json:
        notes = {"problems": list(diagnosis.problems), "advice": list(diagnosis.advice)}
        typer.echo(json.dumps({"ok": not diagnosis.problems, **notes, **diagnosis.facts}))
    else:
        show(diagnosis, stdout(soft_wrap=True))
    if diagnosis.problems:
        raise typer.Exit(1)


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print the diagnosis for people: facts by topic, then advice, then problems."""
    for topic, facts in diagnosis.facts.items():
        console.print(topic, style="bold")
        for name, value in facts.items():
            console.print(f"  {name.replace('_', ' '):<18}{in_words(name, value)}")
    for sentence in diagnosis.advice:
        console.print("note", style="yellow", end="  ")
        console.print(sentence)
    for sentence in diagnosis.problems:
        console.print("problem", style="red", end="  ")
        console.print(sentence)
    if not diagnosis.problems:
        console.print("ready", style="green")


def in_words(name: str, value: Any) -> str:
    """One fact in words."""
    if isinstance(value, dict) and "for" in value:
        state = value["version"] or f"not installed: {value['install']}"
        return f"{state} ({value['for']})"
    if isinstance(value, dict):
        return ", ".join(
            f"{key.replace('_', ' ')} {in_words(key, part)}" for key, part in value.items()
        )
    if isinstance(value, list):
        return ", ".join(in_words(name, part) for part in value) or "none"
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name.startswith("memory") or name.endswith(("free", "bytes"))):
        return f"{value / 1e9:.1f} GB"
    return str(value)
