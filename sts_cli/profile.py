"""Profiles: how many visual tokens to keep, and by which method. Strict YAML, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from sts_cli.errors import ProfileError, did_you_mean
from sts_cli.pruning import SEMANTICS, STRUCTURE, Choice, Method, Number

Keep = float | int  # a share of the image's visual tokens (0 < x <= 1), or a number of them (>= 2)
Attention = Literal["plain", "proportional"]  # to what is left: as it is, or by what it stands for
ATTENTION: tuple[Attention, ...] = ("plain", "proportional")
Quantize = Literal["auto", "none", "int8", "int4", "nf4"]
QUANTIZE: tuple[Quantize, ...] = ("auto", "none", "int8", "int4", "nf4")
VISUAL, LAYERS = 576, 32  # LLaVA-1.5-7B's, to compare profiles by


@dataclass(frozen=True, slots=True)
class Structure:
    """Stage 1, right after the vision encoder: which visual tokens enter the language model."""

    method: str
    keep: Keep
    options: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Semantics:
    """Stage 2, inside the language model: which visual tokens enter the layers after `depth`."""

    method: str
    depth: float  # share of the layers that run before the cut
    keep: Keep
    options: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """A named trade of visual tokens for speed. `off` is the profile without stages."""

    name: str
    about: str = ""
    structure: Structure | None = None
    semantics: Semantics | None = None
    attention: Attention = "plain"
    quantize: Quantize | None = None
    batch_size: int | None = None
    max_new_tokens: int | None = None

    def budget(self, visual: int) -> tuple[int, int]:
        """Tokens kept of `visual` tokens: (after stage 1, after stage 2)."""
        structure = kept(self.structure.keep, visual) if self.structure else visual
        semantics = kept(self.semantics.keep, visual) if self.semantics else structure
        return structure, min(structure, semantics)

    def cut(self, layers: int) -> int:
        """How many of the language model's layers run before stage 2; all without a stage 2."""
        if self.semantics is None:
            return layers
        return min(layers, max(1, round(self.semantics.depth * layers)))

    def average(self, visual: int, layers: int) -> float:
        """Visual tokens per layer, averaged over the language model's layers."""
        return self.averaged(*self.budget(visual), layers)

    def averaged(self, structure: int, semantics: int, layers: int) -> float:
        """The same where so many tokens are left after stage 1 and after stage 2."""
        cut = self.cut(layers)
        return (cut * structure + (layers - cut) * semantics) / layers


def kept(keep: Keep, visual: int) -> int:
    """The number of tokens that `keep` means for an image of `visual` tokens; at least 1."""
    if visual == 0:
        return 0
    wanted = keep if isinstance(keep, int) else math.floor(keep * visual + 0.5)
    return max(1, min(visual, wanted))


def shipped() -> dict[str, Path]:
    """The profiles that come with the package: name -> file."""
    installed = Path(str(files("sts_cli"))) / "profiles"
    folder = installed if installed.is_dir() else installed.parents[1] / "profiles"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or any YAML file by path.

    Raises ProfileError, which names the file, the key and what is known.
    """
    known = shipped()
    if name_or_path in known:
        return parse(known[name_or_path].read_text("utf-8"), name_or_path, name_or_path)
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        raise ProfileError(
            f"No profile named '{name_or_path}'. Known: {', '.join(known)}."
            f"{did_you_mean(name_or_path, known)} Your own profile is a path to a .yaml file."
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ProfileError(f"Cannot read the profile {path}: {reason}.") from error
    return parse(text, path.stem, str(path))


def parse(text: str, name: str, where: str) -> Profile:
    """A profile from YAML text; `where` is what error messages call the file."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise ProfileError(f"{where}: not valid YAML ({first_line}).") from error
    data = {} if data is None else data
    _known_keys(data, [one.name for one in fields(Profile) if one.name != "name"], where)
    structure = semantics = None
    if data.get("structure") is not None:
        structure = Structure(*_stage(data["structure"], STRUCTURE, f"{where}: structure", ()))
    if data.get("semantics") is not None:
        stage, place = data["semantics"], f"{where}: semantics"
        method, keep, options = _stage(stage, SEMANTICS, place, ("depth",))
        depth = _number(stage.get("depth"), 0.0, 1.0, f"{place}: depth")
        semantics = Semantics(method, depth, keep, options)
    if structure and semantics and _more(semantics.keep, structure.keep):
        raise ProfileError(
            f"{where}: semantics keeps {semantics.keep}, more than the {structure.keep} that "
            "structure leaves. Lower semantics.keep or raise structure.keep."
        )
    quantize, attention = data.get("quantize"), data.get("attention") or "plain"
    if quantize is not None:
        _word(quantize, QUANTIZE, f"{where}: quantize")
    _word(attention, ATTENTION, f"{where}: attention")
    if attention != "plain" and structure is semantics is None:
        raise ProfileError(
            f"{where}: attention is '{attention}', but nothing is pruned: every token stands for "
            "itself. Add structure or semantics, or leave attention out."
        )
    about = data.get("about") or ""
    if not isinstance(about, str):
        raise ProfileError(f"{where}: about must be text.")
    return Profile(
        name=name,
        about=about,
        structure=structure,
        semantics=semantics,
        attention=cast("Attention", attention),
        quantize=cast("Quantize | None", quantize),
        batch_size=_whole(data.get("batch_size"), f"{where}: batch_size"),
        max_new_tokens=_whole(data.get("max_new_tokens"), f"{where}: max_new_tokens"),
    )


def _stage(
    stage: Any, methods: Mapping[str, Method], where: str, also: tuple[str, ...]
) -> tuple[str, Keep, dict[str, float | str]]:
    """The method's name, its keep and its options; `also` are keys that the caller reads."""
    if not isinstance(stage, dict):
        raise ProfileError(f"{where} must look like {{method: ..., keep: ...}}.")
    method = str(stage.get("method"))
    if method not in methods:
        given = f"is '{method}'" if "method" in stage else "is missing"
        raise ProfileError(
            f"{where}: method {given}. Known: {', '.join(methods)}.{did_you_mean(method, methods)}"
        )
    known = methods[method].options
    _known_keys(stage, ("method", "keep", *also, *known), where)
    options = {
        key: _option(stage[key], known[key], f"{where}: {key}") for key in known if key in stage
    }
    return method, _keep(stage.get("keep"), f"{where}: keep"), options


def _known_keys(data: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(data, dict):
        raise ProfileError(f"{where}: expected keys and values, such as 'about: ...'.")
    for key in data:
        if key not in known:
            raise ProfileError(
                f"{where}: unknown key '{key}'. Known: {', '.join(known)}."
                f"{did_you_mean(str(key), known)}"
            )


def _keep(value: Any, where: str) -> Keep:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        given = "is missing" if value is None else f"is {value!r}"
        raise ProfileError(
            f"{where} {given}. Give a share of the image's visual tokens (0 < x <= 1) "
            "or a whole number of them (2 or more)."
        )
    if isinstance(value, int) and value >= 2:
        return value
    if 0 < value <= 1:
        return float(value)
    raise ProfileError(
        f"{where} is {value}. A share lies above 0 and at most at 1; "
        "a number of tokens is whole and at least 2."
    )


def _option(value: Any, kind: Choice | Number, where: str) -> float | str:
    if isinstance(kind, Number):
        return _number(value, kind.low, kind.high, where)
    return _word(value, kind.words, where)


def _word(value: Any, words: Sequence[str], where: str) -> str:
    if value not in words:
        raise ProfileError(
            f"{where} is '{value}'. Known: {', '.join(words)}.{did_you_mean(str(value), words)}"
        )
    return str(value)


def _number(value: Any, low: float, high: float, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        given = "is missing" if value is None else f"is {value!r}"
        raise ProfileError(f"{where} {given}. Give a number from {low:g} to {high:g}.")
    return float(value)


def _whole(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProfileError(f"{where} is {value!r}. Give a whole number, 1 or more.")
    return value


def _more(a: Keep, b: Keep) -> bool:
    """Whether `a` surely keeps more than `b`; shares and counts cannot be compared."""
    return isinstance(a, int) == isinstance(b, int) and a > b
