"""The cuts of a profile's file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sts_cli import pruning
from sts_cli.errors import ProfileError, did_you_mean
from sts_cli.profile import Cut, Energy, Left, in_words
from sts_cli.profile_files.keeps import keeps_more, read_keep
from sts_cli.profile_files.keys import SHORT
from sts_cli.profile_files.mistakes import Mistakes, Place
from sts_cli.profile_files.values import check_keys, read_number, read_option


def read_cuts(data: Mapping[str, Any], file: Place) -> tuple[Cut, ...]:
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
        if keeps_more(later.keep, earlier.keep):
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
        mistakes.of(check_keys, cut, ("method", "keep", *depth, *options), where)
    misspelt = bool(mistakes.found)  # then what is missing may be there under that name
    given = {
        name: mistakes.of(read_option, cut[name], known, where.at(name))
        for name, known in options.items()
        if name in cut
    }
    if "depth" in cut or not misspelt:
        deep = mistakes.of(_depth, cut, key, where.at("depth"))
    if "keep" in cut or not misspelt:
        keep = mistakes.of(read_keep, cut.get("keep"), where.at("keep"))
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
    depth = read_number(cut.get("depth"), 0.0, 1.0, where)
    if key == "semantics" and depth == 0:
        raise ProfileError(
            f"{where} is 0, before the first layer: no layer has read the question yet. Give a "
            "depth above 0, or use structure."
        )
    return depth


def _digests(method: str, options: Mapping[str, float | str], where: Place) -> Mapping[str, str]:
    """The digest of each file that a method reads. Raises ProfileError."""
    try:
        return pruning.digests(method, options)
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}.") from error


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
