"""sts tune: the strongest profile that keeps the answers to the user's own questions."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from sts_cli.answering.request import OFF, Request
from sts_cli.checkpoints.sources import find
from sts_cli.cli.engine import demo_note, load_for
from sts_cli.cli.front import show, write_front
from sts_cli.cli.help import input_option, output_option, pruning_option
from sts_cli.cli.options import (
    BatchSize,
    Device,
    Dtype,
    Level,
    Limit,
    MaxNewTokens,
    Model,
    OptionError,
    PerKind,
    Quantization,
    Quiet,
    RunsLayers,
    check_choices,
)
from sts_cli.cli.page import check_html
from sts_cli.cli.parsing import rows_at_once
from sts_cli.cli.plans import on_one_model
from sts_cli.cli.questions import SCENES, questions_of
from sts_cli.outputs.disk import write_whole
from sts_cli.outputs.settings import link_target
from sts_cli.profile import Profile
from sts_cli.profile_files import parse, shipped
from sts_cli.profile_files.writing import as_yaml
from sts_cli.report.console import stderr, stdout

if TYPE_CHECKING:
    from sts_cli.evaluation.tune import Tuned

NOT_PROVED = 3


def tune(
    questions: Annotated[
        str,
        typer.Argument(
            metavar="QUESTIONS",
            help="A question file; truths are not needed. Or the word scenes.",
        ),
    ],
    per_kind: PerKind = 50,
    level: Level = 0.5,
    limit: Limit = None,
    seed: Annotated[
        int, input_option(metavar="N", help="Decides which questions the search sees.")
    ] = 0,
    out: Annotated[Path, output_option("--out", "-o", metavar="FILE", help="The profile.")] = Path(
        "tuned.yaml"
    ),
    html: Annotated[
        Path | None,
        output_option(
            "--html", metavar="FILE", help="A page with the front: agreement against speed."
        ),
    ] = None,
    force: Annotated[bool, output_option("--force", help="Replace --out.")] = False,
    quiet: Quiet = False,
    keep_agreement: Annotated[
        float,
        pruning_option(
            min=0.5,
            max=0.999,
            metavar="SHARE",
            help="The share of answers that must stay the same.",
        ),
    ] = 0.95,
    cascade: Annotated[
        bool,
        pruning_option("--cascade", help="Answers that are not certain are given again by off."),
    ] = False,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantization = None,
    backend: RunsLayers = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = "auto",
) -> None:
    """Find the strongest profile that keeps the answers, on your model and your questions.

    A third of the questions (60 at most) is for the search. The others prove the result: the
    profile keeps --keep-agreement with 95% confidence. All images are held in memory.

    Exit code 0: proved; 3: not proved with these questions, and the profile says so.

    \b
      sts tune questions.jsonl --keep-agreement 0.97 --out mine.yaml
      sts batch questions.jsonl --profile mine.yaml
    """
    console = stderr()
    check_choices(device, dtype, quantize)
    check_profile(out, force)
    if html is not None:
        check_html(html)
    size = rows_at_once(batch_size)
    (plan,) = on_one_model([OFF], quantize, backend)
    source = find(model)
    ready = questions_of(questions, per_kind, level, True, console, quiet)
    request = Request((plan,), batch_size=size, max_new_tokens=max_new_tokens)
    vlm = load_for(source, request, device, dtype, console, quiet)
    from sts_cli.evaluation.tune import tune as search

    moving = console.is_terminal and not quiet
    with console.status("searching") if moving else contextlib.nullcontext() as spinner:

        def say(text: str) -> None:
            if spinner is not None:
                spinner.update(text)

        found = search(
            vlm,
            ready,
            keep_agreement,
            request,
            seed=seed,
            limit=limit,
            cascade=cascade,
            say=say,
        )
    name = "scenes" if questions == SCENES else Path(questions).name
    profile = written(found, name, source.name, out)
    show(stdout(), found)
    if html is not None:
        write_front(html, found, profile.about)
        if not quiet:
            console.print(f"Wrote {html}.")
    if found.problem is not None:
        console.print(
            f"{found.failed} questions have errors and are not counted; the first: "
            f"{found.problem.kind}: {found.problem.message}",
            style="yellow",
        )
    if not quiet:
        console.print(f"Wrote {out}: {profile.about}")
    if found.best is None:
        console.print(f"sts: {shortfall(found)}", style="red")
        raise typer.Exit(NOT_PROVED)
    demo_note(source, console, quiet)


def check_profile(path: Path, force: bool) -> None:
    """Raise OptionError for a file that is no profile's, or that is there."""
    if path.suffix not in (".yaml", ".yml"):
        raise OptionError(f"--out {path}: the name must end in .yaml.")
    if path.is_dir() or path.exists() and not force:
        raise OptionError(f"--out {path} exists; give another name, or --force.")
    if path.resolve() in {file.resolve() for file in shipped().values()}:
        raise OptionError(f"--out {path} is a profile of sts; give another name.")


def written(found: Tuned, questions: str, model: str, path: Path) -> Profile:
    """The profile that was chosen, with its evidence, after it is written. Raises OutputError."""
    about = f"{evidence(found)} Questions: {questions}. Model: {model}."
    profile = replace(found.chosen.profile, name=path.stem, about=about)
    text = as_yaml(profile)
    assert parse(text, profile.name, str(path)) == profile
    write_whole(link_target(path), text.encode())
    return profile


def evidence(found: Tuned) -> str:
    """What is known of the chosen profile, in two sentences."""
    one = found.chosen
    proof = "" if found.best else "Not proved: "
    return (
        f"{proof}{one.agreed} of {one.asked} unseen answers agree with off, so at least "
        f"{one.proved:.1%} do (95% confidence; asked for: {found.target:.1%}). "
        f"{one.tokens:.0f} visual tokens on average, prefill "
        f"x{median(one.tally.prefill):.1f}, total x{median(one.tally.total):.1f}."
    )


def shortfall(found: Tuned) -> str:
    """The reason that nothing is proved, and what to do."""
    one = found.chosen
    if found.missing:
        return (
            f"{found.target:.1%} cannot be proved by {one.asked} unseen questions, even if all "
            f"answers agree. Give {found.missing} more, or --keep-agreement "
            f"{int(1000 * one.proved) / 1000:g}."
        )
    if one.proved >= found.target:
        return (
            f"{one.proved:.1%} would do, but a weaker pruning does not prove {found.target:.1%}, "
            "so this may be chance. Give more questions."
        )
    return (
        f"no profile keeps {found.target:.1%}. The safest proves {one.proved:.1%}: give that to "
        "--keep-agreement, or more questions."
    )
