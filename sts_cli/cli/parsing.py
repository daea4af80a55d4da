"""Options whose text means something: --batch-size auto, --shard 2/4, --fail-under agreement=1."""

from __future__ import annotations

import re
from pathlib import Path

from sts_cli.cli.options import OptionError
from sts_cli.inputs.items import Input
from sts_cli.outputs.formats import Format
from sts_cli.outputs.settings import file_meant, run_file
from sts_cli.outputs.sidecar import Sidecars, check_one_each
from sts_cli.profile import LAYERS, VISUAL, Profile
from sts_cli.profile_files import load_profile
from sts_cli.records import printable

STRONGER = ("gentle", "balanced", "aggressive", "extreme")  # in this order


def rows_at_once(text: str) -> int | None:
    """`auto` or a number."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise OptionError(f"--batch-size {text}: give auto, or a whole number of 1 or more.")
    return int(text)


def shard_of(text: str | None) -> tuple[int, int]:
    """`2/4` as (2, 4)."""
    if text is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise OptionError(f"--shard {text}: give i/n with 1 <= i <= n, such as 1/4.")
    return int(match[1]), int(match[2])


def least_agreement(text: str | None, compare: bool) -> float | None:
    """`agreement=0.95` as 0.95."""
    if text is None:
        return None
    name, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if name != "agreement" or not 0 <= share <= 1:
        raise OptionError(f"--fail-under {text}: give agreement=X with 0 <= X <= 1.")
    if not compare:
        raise OptionError("--fail-under needs --compare, which finds out how many answers agree.")
    return share


def fallbacks(profile: Profile, on_oom: str) -> tuple[Profile, ...]:
    """The shipped profiles that keep fewer tokens, for --on-oom shrink; none for fail."""
    if on_oom not in ("fail", "shrink"):
        raise OptionError(f"--on-oom {on_oom}: give fail or shrink.")
    if on_oom == "fail":
        return ()
    kept = profile.planned(VISUAL, LAYERS)
    profiles = (load_profile(name) for name in STRONGER)
    return tuple(weaker for weaker in profiles if weaker.planned(VISUAL, LAYERS) < kept)


def check_places(rows: Input, out: Path | None, sidecars: Sidecars | None) -> None:
    """Raise OptionError where answers would be written over questions, or over each other."""
    if out is not None and rows.path.is_file() and writes_over(out, rows.path):
        raise OptionError(f"--out {out} is the input; give the answers a file of their own.")
    if sidecars is not None and not rows.one_each:
        raise OptionError(
            "--sidecar writes one .txt for each image, so it takes a folder or an image: a "
            "question file may ask several questions about one image."
        )
    if sidecars is not None and rows.kind not in ("folder", "image"):
        check_one_each(rows.items(), sidecars)


def writes_over(out: Path, input_: Path) -> bool:
    """True if the input is one of the files that writing `out` replaces, under any name."""
    meant = file_meant(out)
    written = (meant, run_file(out), meant.with_name(meant.name + ".part"))
    return any(path.exists() and path.samefile(input_) for path in written)


def check_ids(rows: Input, form: Format) -> None:
    """Raise OptionError if ids repeat in a file whose answers only ids will tell apart."""
    if not form.by_id or rows.kind == "stdin":  # which is never continued
        return
    seen: set[int] = set()
    for item in rows.items():
        key = form.key(item)
        if key in seen:
            raise OptionError(
                f"--format {form.name}: two rows have the id {item.id}, and nothing else tells "
                "their answers apart. Give each row an id of its own, or use another --format."
            )
        seen.add(key)


def images_folder(rows: Input, images: Path | None) -> dict[str, str]:
    """The folder of the images where the input's own identity does not tell it, as a setting."""
    if rows.kind in ("folder", "image"):
        return {}
    folder = images or (Path() if rows.kind == "stdin" else rows.path.parent)
    return {"images": printable(str(folder.resolve()))}
