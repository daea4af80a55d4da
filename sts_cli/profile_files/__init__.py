"""Profiles as files: strict YAML, with clear messages about mistakes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from sts_cli.errors import ProfileError, did_you_mean
from sts_cli.machine.files import same_file
from sts_cli.profile import (
    ATTENTION,
    BACKEND,
    LAYERS,
    MEASURE,
    QUANTIZE,
    VISUAL,
    Attention,
    Backend,
    Escalate,
    Measure,
    Profile,
    Quantize,
)
from sts_cli.profile_files.cuts import read_cuts
from sts_cli.profile_files.encoder import read_encoder
from sts_cli.profile_files.guide import read_guide
from sts_cli.profile_files.keys import ESCALATE, KEYS
from sts_cli.profile_files.lines import read_yaml
from sts_cli.profile_files.mistakes import Mistakes, Place
from sts_cli.profile_files.values import check_keys, read_number, read_whole, read_word

LARGEST_FILE = 64 << 10  # bytes; profiles are a few lines


def shipped() -> dict[str, Path]:
    """The profiles that come with the package: name -> file."""
    installed = Path(str(files("sts_cli"))) / "profiles"
    folder = installed if installed.is_dir() else installed.parents[1] / "profiles"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_profile(name_or_path: str, below: Sequence[str] = ()) -> Profile:
    """A shipped profile by name, or any YAML file by path.

    `below` are the files that escalate to it. Raises ProfileError, which names the file, the key
    and the valid values.
    """
    known = shipped()
    if name_or_path in known:
        return parse(known[name_or_path].read_text("utf-8"), name_or_path, name_or_path, below)
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        raise ProfileError(
            f"No profile named '{name_or_path}'. Known: {', '.join(known)}."
            f"{did_you_mean(name_or_path, known)} For your own, give a path to a .yaml file."
        )
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        text_at_fault = isinstance(error, UnicodeDecodeError)
        reason = "it is not UTF-8 text" if text_at_fault else getattr(error, "strerror", error)
        raise ProfileError(f"Cannot read the profile {path}: {reason}.") from error
    if len(content) > LARGEST_FILE:
        raise ProfileError(f"{path} is larger than {LARGEST_FILE >> 10} KiB: not a profile.")
    return parse(text, path.stem, str(path), below)


def parse(text: str, name: str, where: str, below: Sequence[str] = ()) -> Profile:
    """A profile from YAML text; `where` is the file's name in error messages.

    `below` are the files that escalate to it. Raises ProfileError with a line for each mistake.
    """
    data, lines = read_yaml(text, where)
    file = Place(where, lines)
    if not isinstance(data, dict):
        raise ProfileError(f"{where}: expected keys and values, such as 'about: ...'.")
    mistakes = Mistakes()
    mistakes.of(check_keys, data, KEYS, file)
    cuts = mistakes.of(read_cuts, data, file)
    attention = data.get("attention") or "plain"
    for key, words in (("quantize", QUANTIZE), ("backend", BACKEND)):
        if data.get(key) is not None:
            mistakes.of(read_word, data[key], words, file.at(key))
    mistakes.of(read_word, attention, ATTENTION, file.at("attention"))
    profile = Profile(
        name=name,
        about=mistakes.of(_about, data.get("about"), file.at("about")),
        cuts=cuts,
        encoder=mistakes.of(read_encoder, data.get("encoder"), file.at("encoder")),
        guide=mistakes.of(read_guide, data.get("guide"), cuts, file.at("guide")),
        attention=cast(Attention, attention),
        quantize=cast("Quantize | None", data.get("quantize")),
        backend=cast("Backend | None", data.get("backend")),
        batch_size=mistakes.of(read_whole, data.get("batch_size"), file.at("batch_size")),
        max_new_tokens=mistakes.of(
            read_whole, data.get("max_new_tokens"), file.at("max_new_tokens")
        ),
    )
    step = data.get("escalate")
    if step is not None:
        mistakes.of(_check_step, step, file.at("escalate"))
    mistakes.end()
    if attention != "plain" and not cuts:
        raise ProfileError(
            f"{file.at('attention')} is '{attention}', but there are no cuts. Add structure, "
            "semantics or cuts, or remove attention."
        )
    if step is None:
        return profile
    return replace(profile, escalate=_escalate(step, profile, file, (*below, where)))


def _about(value: Any, where: Place) -> str:
    if value is not None and not isinstance(value, str):
        raise ProfileError(f"{where} must be text.")
    return value or ""


def _target(data: Any) -> str | None:
    """The name of the next profile."""
    name = data.get("to") if isinstance(data, dict) else None
    if name is False:  # YAML's reading of a bare off
        return "off"
    return name if isinstance(name, str) else None


def _check_step(data: Any, where: Place) -> None:
    """Raise ProfileError for mistakes in `escalate` that its next profile has no part in."""
    if _target(data) is None:
        raise ProfileError(f"{where} must look like {{below: 0.9, to: balanced}}.")
    check_keys(data, ESCALATE, where)
    mistakes = Mistakes()
    mistakes.of(read_word, data.get("measure") or "probability", MEASURE, where.at("measure"))
    mistakes.of(read_number, data.get("below"), 0.0, 1.0, where.at("below"))
    if data.get("at_most") is not None:
        mistakes.of(read_number, data["at_most"], 0.0, 1.0, where.at("at_most"))
    mistakes.end()


def _escalate(data: Any, profile: Profile, file: Place, below: Sequence[str]) -> Escalate:
    """The escalation of `profile`, its next profile loaded; `below` are the files up to here."""
    where = file.at("escalate")
    name = path = _target(data) or ""
    if name not in shipped() and Path(name).suffix:  # a file is named as seen from this one
        path = str(Path(file.file).parent / name)
    if any(path == one or same_file(Path(path), Path(one)) for one in below):
        raise ProfileError(f"{where} leads back to {path}: {' -> '.join((*below, path))}.")
    next_ = load_profile(path, below)
    if next_.guide is not None:
        raise ProfileError(
            f"{where}: '{name}' has a guide, which only the first profile of a cascade may have. "
            "Remove it there."
        )
    for setting in ("quantize", "backend", "batch_size", "max_new_tokens"):
        wished, own = getattr(next_, setting), getattr(profile, setting)
        if wished is not None and wished != own:
            raise ProfileError(
                f"{where}: '{name}' asks for {setting} {wished}, but the profiles of a cascade "
                f"share one model and batch. Give {setting} in {file.file}, or remove it there."
            )
    here, there = (one.planned(VISUAL, LAYERS) for one in (profile, next_))
    if there <= here:
        raise ProfileError(
            f"{where}: '{name}' keeps {there:.0f} of {VISUAL} visual tokens on average, not "
            f"more than the {here:.0f} of this profile. Escalate to one that keeps more."
        )
    share = data.get("at_most")
    return Escalate(
        float(data["below"]),
        next_,
        cast(Measure, data.get("measure") or "probability"),
        None if share is None else float(share),
    )
