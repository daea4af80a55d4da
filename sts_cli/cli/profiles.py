"""sts profiles: the list of profiles, and the explanation of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sts_cli import pruning
from sts_cli.cli.help import Command, Group
from sts_cli.cli.options import DEFAULT
from sts_cli.profile import LAYERS, VISUAL, Energy, Keep, Left, Narrowing, Profile
from sts_cli.profile_files import load_profile, shipped
from sts_cli.report.console import stdout
from sts_cli.report.visible import in_line

app = typer.Typer(cls=Group, invoke_without_command=True)


@app.callback()
def profiles(context: typer.Context) -> None:
    """List the profiles that come with sts, from weak to strong.

    `sts profiles show NAME` explains one; `sts profiles methods` lists the methods.
    """
    if context.invoked_subcommand is not None:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("profile", style="bold")
    table.add_column("kept", justify="right")
    table.add_column("about", overflow="fold")
    known = [load_profile(name) for name in shipped()]
    for profile in sorted(known, key=lambda one: -one.planned(VISUAL, LAYERS)):
        share = profile.planned(VISUAL, LAYERS) / VISUAL
        mark = " (default)" if profile.name == DEFAULT else ""
        most = "<= " if profile.follows else ""
        table.add_row(f"{profile.name}{mark}", f"{most}{share:.1%}", profile.about)
    stdout().print(table)


def narrowing(encoder: Narrowing) -> str:
    """The effect of `encoder`, in a sentence."""
    stays = "least like their neighbours" if encoder.method == "likeness" else "changed most"
    return (
        f"after {encoder.depth:.0%} of its layers, the vision tower runs on {encoder.keep:.0%} of "
        f"its patches, those that are {stays}; the others are rebuilt at its end"
    )


@app.command(cls=Command)
def show(
    name: Annotated[
        str, typer.Argument(metavar="PROFILE", help="A profile's name, or a YAML file.")
    ],
) -> None:
    """Explain one profile: its file, its stages, its budget in tokens."""
    profile = load_profile(name)
    path = shipped().get(name, Path(name))
    content = path.read_text("utf-8").rstrip()
    stdout(soft_wrap=True).print(f"# {in_line(str(path))}\n{content}\n\n{effect(profile)}")


@app.command(cls=Command)
def methods() -> None:
    """List the pruning methods: what each keeps, its source, what it needs, its options."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", style="bold")
    table.add_column("keeps; source; needs; options", overflow="fold")
    for name in pruning.names():
        known = pruning.options_of(name)
        needs = dict.fromkeys(pruning.IN_WORDS[need] for need in pruning.find(name).needs)
        files = [f"a {one} of the model" for one in known if isinstance(known[one], pruning.File)]
        lines = [
            f"{pruning.about(name)}.",
            f"{pruning.source_of(name)}; needs {' and '.join([*needs, *files]) or 'nothing'}",
            *(option(name, *one) for one in known.items()),
        ]
        table.add_row(in_line(name), "\n".join(map(in_line, lines)))
    stdout().print(table)


def option(method: str, name: str, known: pruning.Allowed) -> str:
    """An option with its values and its default, such as "weight 0 to 16 (0.1)"."""
    default = getattr(pruning.build(method, {}), name)
    if isinstance(known, pruning.File):
        return f"{name} a {known.ending} file ({default})"
    if isinstance(known, pruning.Range):
        return f"{name} {known.low:g} to {known.high:.10g} ({default:g})"
    return f"{name} {' or '.join(known)} ({default})"


def effect(profile: Profile) -> str:
    """The effect of a profile on an image of 576 tokens and 32 layers, in sentences."""
    lines = [f"For an image of {VISUAL} visual tokens and a language model of {LAYERS} layers:"]
    if profile.encoder is not None:
        lines.append(f"{narrowing(profile.encoder)}.")
    if profile.guide is not None:
        lines.append(f"first the guide {profile.guide} answers; what it looked at can be asked.")
    if not profile.cuts:
        return "\n".join([*lines, f"all {VISUAL} tokens enter all {LAYERS} layers."])
    places = zip(profile.cuts, profile.stops(LAYERS), profile.budgets(VISUAL), strict=True)
    for number, (cut, layer, left) in enumerate(places, 1):
        place = f"after layer {layer} of {LAYERS}" if layer else "before the first layer"
        kept = kept_in_words(cut.keep, left, profile.follows)
        lines.append(f"cut {number}, {place}, keeps {kept}: {pruning.about(cut.method)}.")
    if profile.attention == "proportional":
        lines.append("In attention, each token left counts as many as it stands for.")
    average, most = profile.planned(VISUAL, LAYERS), "at most " if profile.follows else ""
    lines.append(f"Average over all layers: {most}{average:.1f} tokens, {average / VISUAL:.1%}.")
    return "\n".join([*lines, *then(profile)])


def kept_in_words(keep: Keep, most: int, follows: bool) -> str:
    """The tokens that a cut keeps of an image, `most` at most, as a part of a sentence."""
    if isinstance(keep, Energy):
        low = keep.bounds(VISUAL)[0]
        span = f"{low} to {most}" if low > 1 else f"at most {most}"
        return f"as many as hold {100 * keep.energy:.4g}% of the image's energy, {span}"
    if isinstance(keep, Left):
        return f"{100 * keep.left:.4g}% of what is left, {'at most ' if follows else ''}{most}"
    return f"at most {most}" if follows else f"{most}"


def then(profile: Profile) -> list[str]:
    """A sentence for each profile that answers again what the one before was not sure of."""
    found = []
    for one in profile.ladder:
        if one.escalate is not None:
            to, share = one.escalate.to, one.escalate.at_most
            most = "" if share is None else f", at most {share:.1%} of the rows"
            found.append(
                f"An answer whose {one.escalate.measure} is below {one.escalate.below:g} is asked "
                f"again under {to.name}, with {to.planned(VISUAL, LAYERS):.0f} tokens{most}."
            )
    return found
