"""Option values with a syntax: --batch-size auto, --shard 2/4, --fail-under agreement=1."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from sts_cli.cli.options import OptionError
from sts_cli.inputs.items import Input
from sts_cli.machine.files import same_file
from sts_cli.outputs.formats import Format
from sts_cli.outputs.overlays import Overlays
from sts_cli.outputs.packed import rows_file
from sts_cli.outputs.settings import link_target, run_file
from sts_cli.outputs.sidecar import Sidecars, check_one_each
from sts_cli.profile import LAYERS, VISUAL, Profile
from sts_cli.profile_files import load_profile
from sts_cli.records import printable
from sts_cli.report.overlay import format_for, holds_mark
from sts_cli.report.visible import in_line

STRONGER = ("gentle", "balanced", "aggressive", "extreme")  # from weak to strong pruning


def rows_at_once(value: str) -> int | None:
    """A number, or None for `auto`."""
    if value == "auto":
        return None
    if not (value.isascii() and value.isdigit()) or int(value) < 1:
        raise OptionError(f"--batch-size {value}: give auto, or a whole number of 1 or more.")
    return int(value)


def shard_of(value: str | None) -> tuple[int, int]:
    """`2/4` as (2, 4)."""
    if value is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise OptionError(f"--shard {value}: give i/n with 1 <= i <= n, such as 1/4.")
    return int(match[1]), int(match[2])


def least_agreement(value: str | None, compare: bool) -> float | None:
    """`agreement=0.95` as 0.95."""
    if value is None:
        return None
    name, _, number = value.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if name != "agreement" or not 0 <= share <= 1:
        raise OptionError(f"--fail-under {value}: give agreement=X with 0 <= X <= 1.")
    if not compare:
        raise OptionError("--fail-under needs --compare, which measures agreement.")
    return share


def fallbacks(profile: Profile, on_oom: str) -> tuple[Profile, ...]:
    """The shipped profiles that keep fewer tokens, for --on-oom shrink; none for fail."""
    if on_oom not in ("fail", "shrink"):
        raise OptionError(f"--on-oom {on_oom} is unknown. Known: fail, shrink.")
    if on_oom == "fail":
        return ()
    average = profile.planned(VISUAL, LAYERS)
    plans = (load_profile(name) for name in STRONGER)
    return tuple(plan for plan in plans if plan.planned(VISUAL, LAYERS) < average)


def check_places(questions: Input, out: Path | None, sidecars: Sidecars | None) -> None:
    """Raise OptionError if answers would replace the questions, or each other."""
    inputs = [path for path in questions.files if path.is_file()]
    if out is not None and any(writes_over(out, path) for path in inputs):
        raise OptionError(f"--out {out} is the input; give another name for the answers.")
    if sidecars is not None and not questions.one_each:
        raise OptionError(
            "--sidecar writes one .txt per image, so it takes a folder or an image; for a question "
            "file, use --out."
        )
    if sidecars is not None and questions.kind not in ("folder", "image"):
        check_one_each(questions.items(), sidecars)


def writes_over(out: Path, input_: Path) -> bool:
    """True if writing `out` would replace the input, under any name."""
    target = link_target(out)
    rows = rows_file(out)  # of a .parquet; elsewhere, no such file is written
    beside = (rows, run_file(rows)) if out.suffix.lower() == ".parquet" else (run_file(out),)
    written = (target, *beside, target.with_name(target.name + ".part"))
    return any(same_file(path, input_) for path in written)


def check_replaced(option: str, path: Path, kind: str, ours: Callable[[Path], bool]) -> None:
    """Raise OptionError if writing `path` would replace what is no `kind` of file of sts."""
    if path.is_dir():
        raise OptionError(f"{option} {path} is a folder; give a file.")
    if path.exists() and not ours(path):
        raise OptionError(f"{option} {path} exists and is no {kind} of sts; give another name.")


def check_ids(questions: Input, form: Format) -> None:
    """Raise OptionError if ids repeat and the format identifies rows by their id alone."""
    if not form.by_id or questions.kind == "stdin":  # answers to stdin are never continued
        return
    seen: set[int] = set()
    for item in questions.items():
        key = form.key(item)
        if key in seen:
            raise OptionError(
                f"--format {form.name}: two rows have the id {item.id}. Give each row its own id, "
                "or use another --format."
            )
        seen.add(key)


def images_folder(questions: Input) -> dict[str, str]:
    """The folder of the images as a setting, if the input's identity does not include it."""
    if questions.kind in ("folder", "image"):
        return {}
    return {"images": printable(str(questions.start.resolve()))}


def tell_form(form: str | None, console: Console, quiet: bool) -> None:
    """Say in one line whose form the rows have, if it is not ours."""
    if form and not quiet:
        console.print(f"reading as {in_line(form)}")


def check_ending(option: str, path: Path, marked: bool = False) -> None:
    """Raise OptionError for an overlay in a format that Pillow does not write here.

    `marked` formats say in the file that it is an overlay.
    """
    form = format_for(path)
    if form is None or marked and not holds_mark(form):
        raise OptionError(
            f"{option} {path}: the name must end as a picture's, such as .png, .jpg or .webp."
        )


def overlays_at(value: str | None) -> Overlays | None:
    """The overlays of a run: `FOLDER`, or `FOLDER/*.png` for files of another format."""
    if value is None:
        return None
    path = Path(value)
    folder, name = (path.parent, path.name) if path.name.startswith("*.") else (path, "*.jpg")
    check_ending("--overlay", folder / name, marked=True)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--overlay {folder} is a file; give a folder, or FOLDER/*.png.")
    return Overlays(folder, Path(name).suffix)
