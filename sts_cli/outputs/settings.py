"""The settings that answers depend on: `NAME.run` beside them, which also marks them as ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sts_cli.checkpoints.fingerprint import changed
from sts_cli.errors import OutputError
from sts_cli.outputs.disk import write_whole

FRESH = "fresh"  # key of the settings of a --fresh run that is not complete


def link_target(path: Path) -> Path:
    """The file behind a link, which is replaced while the link stays."""
    return path.resolve() if path.is_symlink() else path


def run_file(path: Path) -> Path:
    """The file with the settings of the answers in `path`."""
    target = link_target(path)
    return target.with_name(target.name + ".run")


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings of the output `path`: {} if there are none, None if they are lost.

    Raises OutputError for a file that sts did not write.
    """
    file = run_file(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"Cannot read {file}: {error.strerror}.") from error
    if not content.strip(b"\0"):  # after a kill or a power cut
        return None
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not ("model" in settings or FRESH in settings):
        raise OutputError(
            f"{file} was not written by sts. Choose another name for the answers, or move that "
            "file away."
        )
    return settings


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Replace the settings of the output `path`, at once."""
    write_whole(run_file(path), json.dumps(settings, indent=1).encode() + b"\n")


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that the run `before` and the run `now` do not share, in words.

    None if all that both have are equal; older versions wrote fewer settings.
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
    """A setting, short enough for a message."""
    if isinstance(value, dict):
        return json.dumps(value)[:160]
    return "unset" if value is None else f"'{str(value)[:200]}'"
