"""sts ask: one question about one image; the answer is shown while it is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import find
from sts_cli.cli.asked import asked_about, meant_image, named
from sts_cli.cli.engine import demo_note, load_for
from sts_cli.cli.help import input_option, output_option
from sts_cli.cli.options import (
    DEFAULT,
    Compare,
    Device,
    Dtype,
    Json,
    MaxNewTokens,
    Model,
    OptionError,
    ProfileName,
    Quantization,
    Quiet,
    RunsLayers,
    check_choices,
    chosen_profile,
)
from sts_cli.cli.parsing import check_ending, check_replaced
from sts_cli.inputs.images import prepare
from sts_cli.machine.files import same_file
from sts_cli.outputs.disk import write_whole
from sts_cli.outputs.settings import link_target
from sts_cli.outputs.stream import to_stdout
from sts_cli.records import Item, KeptTokens, answer_row
from sts_cli.report.console import stderr, stream
from sts_cli.report.overlay import encoded, format_for, is_overlay, overlay
from sts_cli.report.single import side_by_side, speed
from sts_cli.report.visible import visible_json

if TYPE_CHECKING:
    from PIL import Image


def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE... [QUESTION]",
            help="Images (- reads one from stdin), then a question about all of them. Without "
            "one, the image is described.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    more: Annotated[
        list[str],
        input_option(
            "--image", "-i", metavar="IMAGE", help="An image; may be repeated.", show_default=False
        ),
    ] = [],  # noqa: B006
    overlay_: Annotated[
        Path | None,
        output_option(
            "--overlay",
            metavar="FILE",
            help="A picture (.png, .jpg, ...) of the tokens that each cut kept.",
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    profile: ProfileName = DEFAULT,
    compare: Compare = False,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantization = None,
    backend: RunsLayers = None,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Answer one question about an image, or about several.

    The answer streams to standard output; tokens and times go to standard error.
    A profile that escalates may withdraw an answer, so it is shown when it is known.

    \b
      sts ask street.jpg "what is on the sign?"
      sts ask before.jpg after.jpg "what has changed?"
      cat street.jpg | sts ask - --profile aggressive --compare
      sts ask street.jpg "how many people?" --overlay kept.png
    """
    console = stderr()
    check_choices(device, dtype, quantize)
    names, question = asked_about(words, more)
    if overlay_ is not None:
        if len(names) > 1:
            raise OptionError("--overlay draws one image here; sts batch --overlay draws several.")
        check_overlay(overlay_, names[0])
    plan = chosen_profile(profile, quantize, backend)
    source = find(model)
    images = tuple(named(name) for name in names)
    ready = prepare(Item(id="1", images=images, question=question, folder=Path()))
    if ready.item.problem is not None:
        meant = meant_image(names) if ready.item.problem.kind == "image_missing" else ""
        console.print(f"sts: {ready.item.problem.message}{meant}", style="red")
        raise typer.Exit(2)
    request = Request(
        (plan,),
        compare=compare,
        max_new_tokens=max_new_tokens or plan.max_new_tokens,
        places=overlay_ is not None,
    )
    vlm = load_for(source, request, device, dtype, console, quiet)
    (answer,) = vlm.answers([ready], request, on_text=None if json_ else show)
    if json_:
        stream(json.dumps(answer_row(answer), ensure_ascii=False) + "\n", shown=visible_json)
    elif answer.problem is None:
        stream("\n")
    if answer.problem is not None:
        message = f"sts: {answer.problem.kind}: {answer.problem.message}"
        console.print(message, style="red")
        raise typer.Exit(1)
    if overlay_ is not None:
        assert answer.kept is not None
        draw(overlay_, ready.images[0], answer.kept[0])
    for sentence in () if quiet else answer.notes:
        console.print(sentence, style="yellow")
    if compare and not quiet and not json_:
        side_by_side(console, answer)
    elif not quiet:
        console.print(speed(answer), style="dim")
    if overlay_ is not None and not quiet:
        console.print(f"Wrote {overlay_}.")
    demo_note(source, console, quiet)


def show(piece: str) -> None:
    """Write a piece of the answer. Raises OutputError."""
    with to_stdout():
        stream(piece)


def check_overlay(path: Path, image: str) -> None:
    """Raise OptionError if the overlay would replace a file that is no overlay."""
    check_ending("--overlay", path)
    if same_file(path, Path(image)):
        raise OptionError(f"--overlay {path} is the image; give another name.")
    check_replaced("--overlay", path, "overlay", is_overlay)


def draw(path: Path, image: Image.Image, kept: KeptTokens) -> None:
    """Write the overlay. Raises OutputError."""
    form = format_for(path)
    assert form is not None
    write_whole(link_target(path), encoded(overlay(image, kept), form))
