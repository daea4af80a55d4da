"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, cast

from sts_cli.cli.help import (
    input_option,
    model_option,
    output_option,
    pruning_option,
    speed_option,
)
from sts_cli.errors import ProfileError, StsError, did_you_mean
from sts_cli.openvino.ready import wished_backend
from sts_cli.profile import QUANTIZE, Profile, Quantize
from sts_cli.profile_files import load_profile

Model = Annotated[
    str | None,
    model_option(
        "--model",
        "-m",
        metavar="MODEL",
        help="demo, a folder, or a Hugging Face id.",
        show_default="$STS_MODEL, else demo",
    ),
]
ProfileName = Annotated[
    str, pruning_option("--profile", "-p", metavar="PROFILE", help="A name, or a YAML file.")
]
Compare = Annotated[
    bool, pruning_option("--compare", "-c", help="Also answer without pruning; show both.")
]
Device = Annotated[
    str, model_option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N; not verified: mps, xpu.")
]
Dtype = Annotated[str, model_option(metavar="TYPE", help="auto, bfloat16, float16 or float32.")]
Quantization = Annotated[
    str | None,
    speed_option(
        "--quantize",
        metavar="KIND",
        help="auto, none, int8, int4, or nf4 (for GPUs).",
        show_default="the profile's, else none",
    ),
]
RunsLayers = Annotated[
    str | None,
    speed_option(
        "--backend",
        metavar="NAME",
        help="auto, torch or openvino.",
        show_default="the profile's, else $STS_BACKEND, else auto",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    speed_option(
        min=1,
        metavar="N",
        help="Longest answer, in tokens.",
        show_default="the profile's, else the model's",
    ),
]
BatchSize = Annotated[
    str,
    speed_option(
        metavar="N", help="Questions per batch: auto, or a number; halved if memory is short."
    ),
]
Limit = Annotated[int | None, input_option(min=1, metavar="N", help="Only the first N questions.")]
PerKind = Annotated[
    int, input_option(min=1, metavar="N", help="Questions of each kind; for scenes only.")
]
Level = Annotated[
    float,
    input_option(
        min=0, max=1, metavar="SHARE", help="Share of hard questions, 0 to 1; for scenes only."
    ),
]
Json = Annotated[bool, output_option("--json", help="One JSON object on stdout.")]
Quiet = Annotated[bool, output_option("--quiet", "-q", help="Only answers and errors.")]

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
