"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, cast

import typer

from sts_cli.errors import ProfileError, StsError, did_you_mean
from sts_cli.openvino.ready import wished_backend
from sts_cli.profile import QUANTIZE, Profile, Quantize
from sts_cli.profile_files import load_profile

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="demo, a local folder, or a Hugging Face id. [default: $STS_MODEL, else demo]",
        show_default=False,
    ),
]
ProfileName = Annotated[
    str, typer.Option("--profile", "-p", help="A profile's name, or a YAML file.")
]
Compare = Annotated[
    bool, typer.Option("--compare", "-c", help="Also answer without pruning; show both.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; not verified: mps, xpu.")]
Dtype = Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")]
Quantization = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        help="auto, none, int8, int4, or nf4 (for GPUs). [default: the profile's, else none]",
        show_default=False,
    ),
]
RunsLayers = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="auto, torch or openvino. [default: the profile's, else $STS_BACKEND]",
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer, in tokens. [default: the model's]")
]
BatchSize = Annotated[
    str, typer.Option(help="Questions per batch: auto, or a number; halved if memory is short.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only answers and errors.")]

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
