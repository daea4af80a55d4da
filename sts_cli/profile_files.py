"""Profiles as files: strict YAML, with clear messages about mistakes. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from sts_cli import pruning
from sts_cli.errors import ProfileError, did_you_mean
from sts_cli.profile import (
    ATTENTION,
    BACKEND,
    CHOICES,
    LAYERS,
    MEASURE,
    QUANTIZE,
    VISUAL,
    Amount,
    Attention,
    Backend,
    Choice,
    Cut,
    Energy,
    Escalate,
    Keep,
    Left,
    Measure,
    Narrowing,
    Profile,
    Quantize,
    in_words,
    spelled,
)

T = TypeVar("T")
LARGEST_FILE = 64 << 10  # bytes; profiles are a few lines
DEEPEST = 8  # levels of a profile's YAML
SHORT = ("structure", "semantics")  # one cut before the first layer, one between layers
SETTINGS = ("attention", "quantize", "backend", "batch_size", "max_new_tokens")
KEYS = ("about", *SHORT, "cuts", "encoder", "guide", *SETTINGS, "escalate")
RULES = ("energy", "left")  # budgets that follow the image, or the cut before
BOUNDS = ("at_most", "at_least")
ESCALATE = ("below", "to", "measure", "at_most")
DEMO = "demo"  # a model that a name means before any folder
LEAST = 0.25  # of a tower's patches that `encoder` keeps: the grid that `likeness` needs


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


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a profile's file, written as `mine.yaml, line 3: structure: keep`."""

    file: str
    lines: Mapping[tuple[str, ...], int]  # of each key, by its path
    path: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # as messages show them

    def at(self, key: str, name: str | None = None) -> Place:
        """The place of a key in here."""
        return replace(self, path=(*self.path, key), names=(*self.names, name or key))

    def on(self, key: str) -> Place:
        """This place, on the line of a key in here."""
        return replace(self, path=(*self.path, key))

    def __str__(self) -> str:
        paths = (self.path[:end] for end in range(len(self.path), 0, -1))
        line = next((self.lines[path] for path in paths if path in self.lines), None)
        start = self.file if line is None else f"{self.file}, line {line}"
        return ": ".join((start, *self.names))


class Mistakes:
    """The mistakes of a file, told together."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def of(self, check: Callable[..., T], *given: Any) -> T:
        """The value of a check. It is none if the check finds a mistake; `end` raises that."""
        try:
            return check(*given)
        except ProfileError as error:
            self.found.append(str(error))
            return cast(T, None)

    def end(self) -> None:
        """Raise ProfileError if there were mistakes, with a line for each."""
        if self.found:
            raise ProfileError("\n".join(self.found))


def parse(text: str, name: str, where: str, below: Sequence[str] = ()) -> Profile:
    """A profile from YAML text; `where` is the file's name in error messages.

    `below` are the files that escalate to it. Raises ProfileError with a line for each mistake.
    """
    data, lines = read_yaml(text, where)
    file = Place(where, lines)
    if not isinstance(data, dict):
        raise ProfileError(f"{where}: expected keys and values, such as 'about: ...'.")
    mistakes = Mistakes()
    mistakes.of(_known_keys, data, KEYS, file)
    cuts = mistakes.of(_cuts, data, file)
    attention = data.get("attention") or "plain"
    for key, words in (("quantize", QUANTIZE), ("backend", BACKEND)):
        if data.get(key) is not None:
            mistakes.of(_word, data[key], words, file.at(key))
    mistakes.of(_word, attention, ATTENTION, file.at("attention"))
    profile = Profile(
        name=name,
        about=mistakes.of(_about, data.get("about"), file.at("about")),
        cuts=cuts,
        encoder=mistakes.of(_encoder, data.get("encoder"), file.at("encoder")),
        guide=mistakes.of(_guide, data.get("guide"), cuts, file.at("guide")),
        attention=cast(Attention, attention),
        quantize=cast("Quantize | None", data.get("quantize")),
        backend=cast("Backend | None", data.get("backend")),
        batch_size=mistakes.of(_whole, data.get("batch_size"), file.at("batch_size")),
        max_new_tokens=mistakes.of(_whole, data.get("max_new_tokens"), file.at("max_new_tokens")),
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
    _known_keys(data, ESCALATE, where)
    mistakes = Mistakes()
    mistakes.of(_word, data.get("measure") or "probability", MEASURE, where.at("measure"))
    mistakes.of(_number, data.get("below"), 0.0, 1.0, where.at("below"))
    if data.get("at_most") is not None:
        mistakes.of(_number, data["at_most"], 0.0, 1.0, where.at("at_most"))
    mistakes.end()


def _escalate(data: Any, profile: Profile, file: Place, below: Sequence[str]) -> Escalate:
    """The escalation of `profile`, its next profile loaded; `below` are the files up to here."""
    where = file.at("escalate")
    name = path = _target(data) or ""
    if name not in shipped() and Path(name).suffix:  # a file is named as seen from this one
        path = str(Path(file.file).parent / name)
    if any(path == one or _same_file(path, one) for one in below):
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


def _same_file(one: str, other: str) -> bool:
    return Path(one).exists() and Path(other).exists() and Path(one).samefile(other)


def as_yaml(profile: Profile) -> str:
    """The text of a file that `parse` reads as this profile, but for its name.

    A profile that it escalates to is named, so it must be one that ships.
    """
    data: dict[str, Any] = {"about": profile.about} if profile.about else {}
    depths = [bool(cut.depth) for cut in profile.cuts]
    if depths in ([False], [True], [False, True]):
        data |= {SHORT[cut.depth > 0]: _spelled(cut) for cut in profile.cuts}
    elif profile.cuts:
        data["cuts"] = [_spelled(cut) for cut in profile.cuts]
    if profile.encoder is not None:
        data["encoder"] = asdict(profile.encoder)
    if profile.guide is not None:
        data["guide"] = profile.guide
    settings = {name: getattr(profile, name) for name in SETTINGS}
    data |= {name: value for name, value in settings.items() if value not in (None, "plain")}
    if profile.escalate is not None:
        step = {**asdict(profile.escalate), "to": profile.escalate.to.name}
        data["escalate"] = {key: step[key] for key in ESCALATE if step[key] is not None}
    return yaml.safe_dump(data, default_flow_style=None, sort_keys=False, width=100)


def _spelled(cut: Cut) -> dict[str, Any]:
    depth = {"depth": cut.depth} if cut.depth else {}
    return {"method": cut.method, **depth, "keep": spelled(cut.keep), **cut.options}


def read_yaml(text: str, where: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """The value of a YAML text, and the line of each key by its path. Raises ProfileError.

    Anchors and deep nesting are refused before anything is built: a few lines of them can fill the
    memory.
    """
    lines: dict[tuple[str, ...], int] = {}
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ProfileError(f"{where}, line {line}: anchors and aliases are not allowed.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ProfileError(f"{where}: nested deeper than {DEEPEST} levels.")
        for path, line in _keys_in(yaml.compose(text, Loader=yaml.SafeLoader)):
            if path in lines:
                raise ProfileError(
                    f"{where}, line {line}: {path[-1]} is there twice; the first is in line "
                    f"{lines[path]}."
                )
            lines[path] = line
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = where if mark is None else f"{where}, line {mark.line + 1}"
        reason = error.problem or error.context
        raise ProfileError(f"{place}: not valid YAML ({reason}).") from error
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise ProfileError(f"{where}: not valid YAML ({first_line}).") from error
    except (ValueError, OverflowError) as error:  # dates and numbers that Python cannot hold
        raise ProfileError(f"{where}: not valid YAML ({str(error)[:100]}).") from error
    return {} if data is None else data, lines


def _keys_in(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """The path and line of each key, and of each item of a list, in a YAML tree."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _keys_in(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            inner = (*path, str(number))
            yield inner, value.start_mark.line + 1
            yield from _keys_in(value, inner)


def _cuts(data: Mapping[str, Any], file: Place) -> tuple[Cut, ...]:
    """The cuts of a profile, in either spelling, from the first layer to the last."""
    short = {key: data[key] for key in SHORT if data.get(key) is not None}
    general = data.get("cuts")
    if general is not None and short:
        raise ProfileError(f"{file.on('cuts')}: give cuts, or structure and semantics, not both.")
    if general is None:
        given: list[tuple[Any, str | None, Place]] = [
            (value, key, file.at(key)) for key, value in short.items()
        ]
    elif isinstance(general, list):
        listed = file.on("cuts")
        given = [
            (value, None, listed.at(str(number), f"cut {number + 1}"))
            for number, value in enumerate(general)
        ]
    else:
        raise ProfileError(
            f"{file.on('cuts')}: cuts must be a list such as [{{method: ..., keep: ...}}]."
        )
    mistakes = Mistakes()
    cuts = [mistakes.of(_cut, *one) for one in given]
    mistakes.end()
    if cuts and isinstance(cuts[0].keep, Left):
        raise ProfileError(
            f"{given[0][2].at('keep')} is a share of what the cut before left, and there is none. "
            "Give a share or a number."
        )
    for (earlier, later), (_, _, place) in zip(pairwise(cuts), given[1:], strict=True):
        if later.depth <= earlier.depth:
            raise ProfileError(
                f"{place}: depth {later.depth:g} is not above {earlier.depth:g}, the depth of the "
                "cut before it. List cuts from the first layer to the last."
            )
        if _more(later.keep, earlier.keep):
            raise ProfileError(
                f"{place} keeps {in_words(later.keep)}, more than the {in_words(earlier.keep)} of "
                "the cut before it. Lower this keep, or raise that one."
            )
    return tuple(cuts)


def _cut(cut: Any, key: str | None, where: Place) -> Cut:
    """One cut; `key` is its short spelling, if any: structure or semantics."""
    if not isinstance(cut, dict):
        raise ProfileError(f"{where} must look like {{method: ..., keep: ...}}.")
    mistakes = Mistakes()
    method = mistakes.of(_method, cut, where)
    options = pruning.options_of(method) if method else {}
    depth = ("depth",) if key != "structure" else ()
    if method:  # else its options are not known
        mistakes.of(_known_keys, cut, ("method", "keep", *depth, *options), where)
    misspelt = bool(mistakes.found)  # then what is missing may be there under that name
    given = {
        name: mistakes.of(_option, cut[name], known, where.at(name))
        for name, known in options.items()
        if name in cut
    }
    if "depth" in cut or not misspelt:
        deep = mistakes.of(_depth, cut, key, where.at("depth"))
    if "keep" in cut or not misspelt:
        keep = mistakes.of(_keep, cut.get("keep"), where.at("keep"))
    mistakes.end()
    files = _digests(method, given, where)
    needs = pruning.find(method).needs
    if deep and any(need in pruning.OF_ENCODER for need in needs):
        raise ProfileError(
            f"{where}: {method} needs attention in the vision encoder, which is at hand before the "
            "first layer only. Leave depth out."
        )
    if not deep and any(need in pruning.WATCHED for need in needs):
        raise ProfileError(
            f"{where}: {method} needs the attention of earlier layers; there are none at depth 0. "
            "Give a depth above 0."
        )
    if isinstance(keep, Energy):
        _check_energy(method, deep, where.at("keep"))
    return Cut(method, keep, deep, given, files)


def _digests(method: str, options: Mapping[str, float | str], where: Place) -> Mapping[str, str]:
    """The digest of each file that a method reads. Raises ProfileError."""
    try:
        return pruning.digests(method, options)
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}.") from error


def _guide(value: Any, cuts: Sequence[Cut] | None, where: Place) -> str | None:
    """The guide, a folder as seen from the profile's file; `cuts` are None if they are wrong."""
    asking = [cut.method for cut in cuts or () if "guide" in pruning.find(cut.method).needs]
    if value is None and asking:
        raise ProfileError(
            f"{where} is missing: {asking[0]} keeps what a smaller model looked at. Give its name, "
            "as for --model."
        )
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ProfileError(f"{where} must be the name of a model, as for --model.")
    if cuts is not None and not asking:
        raise ProfileError(
            f"{where} is '{value}', but no cut asks a guide. Add a cut by sgl, or remove guide."
        )
    beside = Path(where.file).parent / value
    return str(beside) if value != DEMO and beside.is_dir() else value


def _check_energy(method: str, depth: float, where: Place) -> None:
    """Raise ProfileError if a cut cannot follow the image."""
    if depth:
        raise ProfileError(
            f"{where}: energy is counted before the first layer only. Give a share, a number, or "
            "{left: 0.5} of what the cut before left."
        )
    if not pruning.follows(method):
        able = [name for name in pruning.names() if pruning.follows(name)]
        raise ProfileError(
            f"{where}: {method} cannot follow the image, since it does not say how much of it a "
            f"choice leaves. Give a share or a number, or use {' or '.join(able)}."
        )


def _encoder(value: Any, where: Place) -> Narrowing | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ProfileError(f"{where} must look like {{method: ..., keep: ..., depth: ...}}.")
    _known_keys(value, ("method", "keep", "depth"), where)
    if "method" not in value:
        raise ProfileError(f"{where}: method is missing. Known: {', '.join(CHOICES)}.")
    mistakes = Mistakes()
    method = mistakes.of(_word, value["method"], CHOICES, where.at("method"))
    keep = mistakes.of(_number, value.get("keep"), LEAST, 1.0, where.at("keep"))
    depth = mistakes.of(_number, value.get("depth"), 0.0, 1.0, where.at("depth"))
    mistakes.end()
    return Narrowing(cast(Choice, method), keep, depth)


def _method(cut: Mapping[Any, Any], where: Place) -> str:
    """The name of the cut's method. Raises ProfileError if there is no such method."""
    method = str(cut.get("method"))
    known = pruning.names()
    if method not in known:
        given = f"is '{method}'" if "method" in cut else "is missing"
        raise ProfileError(
            f"{where}: method {given}. Known: {', '.join(known)}.{did_you_mean(method, known)}"
        )
    return method


def _depth(cut: Mapping[Any, Any], key: str | None, where: Place) -> float:
    """A cut's depth: 0 for structure, above 0 for semantics."""
    if key == "structure" or (key is None and "depth" not in cut):
        return 0.0
    depth = _number(cut.get("depth"), 0.0, 1.0, where)
    if key == "semantics" and depth == 0:
        raise ProfileError(
            f"{where} is 0, before the first layer: no layer has read the question yet. Give a "
            "depth above 0, or use structure."
        )
    return depth


def _known_keys(data: Mapping[Any, Any], known: Sequence[str], where: Place) -> None:
    """Raise ProfileError with a line for each key that is not known."""
    unknown = [str(key) for key in data if key not in known]
    if unknown:
        raise ProfileError(
            "\n".join(
                f"{where.on(key)}: unknown key '{key}'. Known: {', '.join(known)}."
                f"{did_you_mean(key, known)}"
                for key in unknown
            )
        )


def _keep(value: Any, where: Place) -> Keep:
    """A share, a number, or a rule: `{energy: 0.95, at_most: 0.25}` or `{left: 0.5}`."""
    if not isinstance(value, dict):
        return _amount(value, where)
    rules = [name for name in RULES if name in value]
    mistakes = Mistakes()
    mistakes.of(_known_keys, value, (*RULES, *BOUNDS), where)
    misspelt = bool(mistakes.found)  # then what is missing may be there under that name
    if len(rules) != 1 and not misspelt:
        raise ProfileError(
            f"{where} must look like {{energy: 0.95, at_most: 0.25}} or {{left: 0.5}}."
        )
    share = [mistakes.of(_share, value[name], where.at(name)) for name in rules]
    needed = ("at_most",) if rules == ["energy"] and not misspelt else ()
    bounds = {
        name: mistakes.of(_amount, value.get(name), where.at(name))
        for name in BOUNDS
        if name in needed or value.get(name) is not None
    }
    mistakes.end()
    if {*BOUNDS} <= {*bounds} and _more(bounds["at_least"], bounds["at_most"]):
        raise ProfileError(
            f"{where.at('at_least')} is {bounds['at_least']}, more than at_most, which is "
            f"{bounds['at_most']}."
        )
    rule: Energy | Left = (Energy if rules == ["energy"] else Left)(*share, **bounds)
    return rule


def _share(value: Any, where: Place) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ProfileError(f"{where} is {value!r}. Give a share above 0, at most 1.")
    return float(value)


def _amount(value: Any, where: Place) -> Amount:
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
        f"{where} is {value}. A share is above 0 and at most 1; "
        "a number of tokens is whole and at least 2."
    )


def _option(value: Any, known: pruning.Allowed, where: Place) -> float | str:
    if isinstance(known, pruning.Range):
        return _number(value, known.low, known.high, where)
    if isinstance(known, pruning.File):
        return _file(value, known, where)
    return _word(value, known, where)


def _file(value: Any, known: pruning.File, where: Place) -> str:
    """The path of a file, as seen from the profile's, or the word for one of ours."""
    if value == known.word:
        return known.word
    if not isinstance(value, str) or not value.endswith(known.ending):
        raise ProfileError(
            f"{where} is {value!r}. Give a {known.ending} file, as seen from this one, or "
            f"{known.word}."
        )
    return str(Path(where.file).parent / value)


def _word(value: Any, words: Sequence[str], where: Place) -> str:
    if value not in words:
        raise ProfileError(
            f"{where} is '{value}'. Known: {', '.join(words)}.{did_you_mean(str(value), words)}"
        )
    return str(value)


def _number(value: Any, low: float, high: float, where: Place) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        given = "is missing" if value is None else f"is {value!r}"
        raise ProfileError(f"{where} {given}. Give a number from {low:g} to {high:g}.")
    return float(value)


def _whole(value: Any, where: Place) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProfileError(f"{where} is {value!r}. Give a whole number, 1 or more.")
    return value


def _more(a: Keep, b: Keep) -> bool:
    """True if `a` surely keeps more than `b`; a share and a number cannot be compared."""
    if isinstance(b, Energy | Left):
        return b.at_most is not None and _more(a, b.at_most)
    if isinstance(a, Energy | Left):
        return a.at_least is not None and _more(a.at_least, b)
    return isinstance(a, int) == isinstance(b, int) and a > b
