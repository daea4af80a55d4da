"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, cast

import typer

from sts_cli.cli.help import INPUT, MODEL, OUTPUT, PRUNING, SPEED
from sts_cli.errors import ProfileError, StsError, did_you_mean
from sts_cli.openvino.ready import wished_backend
from sts_cli.profile import QUANTIZE, Profile, Quantize
from sts_cli.profile_files import load_profile

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="demo, a folder, or a Hugging Face id.",
        show_default="$STS_MODEL, else demo",
        rich_help_panel=MODEL,
    ),
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        metavar="PROFILE",
        help="A name, or a YAML file.",
        rich_help_panel=PRUNING,
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        "-c",
        help="Also answer without pruning; show both.",
        rich_help_panel=PRUNING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N; not verified: mps, xpu.",
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(metavar="TYPE", help="auto, bfloat16, float16 or float32.", rich_help_panel=MODEL),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="KIND",
        help="auto, none, int8, int4, or nf4 (for GPUs).",
        show_default="the profile's, else none",
        rich_help_panel=SPEED,
    ),
]
RunsLayers = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="auto, torch or openvino.",
        show_default="the profile's, else $STS_BACKEND, else auto",
        rich_help_panel=SPEED,
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Longest answer, in tokens.",
        show_default="the profile's, else the model's",
        rich_help_panel=SPEED,
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Questions per batch: auto, or a number; halved if memory is short.",
        rich_help_panel=SPEED,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Only the first N questions.", rich_help_panel=INPUT),
]
PerKind = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Questions of each kind; for scenes only.",
        rich_help_panel=INPUT,
    ),
]
Level = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar="SHARE",
        help="Share of hard questions, 0 to 1; for scenes only.",
        rich_help_panel=INPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only answers and errors.", rich_help_panel=OUTPUT),
]

DEFAULT = "balanced"  # the profile, if nobody names one
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPES = ("auto", "bfloat16", "float16", "float32")


class OptionError(StsError):
    """An option with a value that is not allowed."""


def check_choices(device: str, dtype: str, quantize: str | None) -> None:
    """Raise OptionError for a value that is wrong on every machine."""
    for option, value, known in (
        ("--device", device.split(":")[0], DEVICES),
        ("--dtype", dtype, DTYPES),
        ("--quantize", quantize or "none", QUANTIZE),
    ):
        check_choice(option, value, known)
    if ":" in device and not device.partition(":")[2].isdigit():
        raise OptionError(f"--device {device}: a device's number follows, as in cuda:0.")


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Raise OptionError for a value that is not known."""
    if value not in known:
        raise OptionError(
            f"{option} {value} is unknown. Known: {', '.join(known)}.{did_you_mean(value, known)}"
        )


def chosen_profile(name: str, quantize: str | None, backend: str | None) -> Profile:
    """The profile; --quantize and --backend replace its own settings."""
    profile = load_profile(name)
    wanted = quantize or profile.quantize or "none"
    if wanted not in QUANTIZE:
        raise ProfileError(f"--quantize {wanted} is unknown. Known: {', '.join(QUANTIZE)}.")
    return replace(
        profile, quantize=cast(Quantize, wanted), backend=wished_backend(backend, profile)
    )


DEMO_HINT = (
    "demo model: it reads signs and shapes in drawn scenes, not photographs. For real pictures: "
    "--model FOLDER, or a Hugging Face id such as llava-hf/llava-1.5-7b-hf."
)
