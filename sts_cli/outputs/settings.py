"""What the answers in a file depend on: `NAME.run` beside it, which also makes the file ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sts_cli.checkpoints.fingerprint import changed
from sts_cli.errors import OutputError
from sts_cli.outputs.disk import write_whole

FRESH = "fresh"  # the settings of a --fresh run that is not complete


def file_meant(path: Path) -> Path:
    """The file behind a link, so that replacing it keeps the link."""
    return path.resolve() if path.is_symlink() else path


def run_file(path: Path) -> Path:
    """Where it stands what the answers in the file `path` depend on."""
    meant = file_meant(path)
    return meant.with_name(meant.name + ".run")


def read_settings(path: Path) -> dict[str, Any] | None:
    """What stands beside the output `path`: nothing in {}, None where it was and is lost.

    Raises OutputError for a file that sts did not write.
    """
    place = run_file(path)
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"Cannot read {place}: {error.strerror}.") from error
    if not content.strip(b"\0"):  # of a kill or a power cut
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not ("model" in found or FRESH in found):
        raise OutputError(
            f"{place} is not what sts writes beside its answers. Choose another name for the "
            "answers, or move that file away."
        )
    return found


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Replace what stands beside the output `path`, at once."""
    write_whole(run_file(path), json.dumps(settings, indent=1).encode() + b"\n")


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Whose answers a run `before` wrote, as the first thing that is not so `now`.

    None if they agree in all that both of them tell; older versions told less.
    """
    for name, value in now.items():
        same = before.get(name, value) == value
        if not same and (name != "files" or changed(before[name], value)):
            return answers_of(name, before[name], value, now.get("model"))
    return None


def answers_of(name: str, before: Any, now: Any, model: object) -> str:
    """`answers with compare 'False', not 'True'`: one setting that differs, in words."""
    if name == "input":
        return "answers to another input, or the input has changed since"
    if name == "images":
        return f"answers about another images folder: {short(before)}, not {short(now)}"
    if name == "files":
        files = changed(before, now)
        named = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
        return f"older answers: the model in {model} has changed since ({named})"
    if isinstance(before, dict) and isinstance(now, dict):
        part = next(key for key in {**now, **before} if before.get(key) != now.get(key))
        parts = f"{part} {short(before.get(part))}, not {short(now.get(part))}"
        return f"answers of another {name}: {parts}"
    return f"answers with {name} {short(before)}, not {short(now)}"


def short(value: object) -> str:
    """A setting in a message."""
    if isinstance(value, dict):
        return json.dumps(value)[:160]
    return "unset" if value is None else f"'{str(value)[:200]}'"
