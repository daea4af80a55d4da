"""The README's commands run, and the answers that it shows are the answers."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import sts

from benchmarks.accuracy import conditions
from sts_cli import pruning
from sts_cli.families import FAMILIES
from sts_cli.profile_files import load_profile, parse, shipped

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")
METHODS = (ROOT / "docs" / "method.md").read_text("utf-8")
SCHEDULES = re.findall(r"```yaml\n(.*?)```", METHODS, re.S)
FIRST_STEPS = (ROOT / "docs" / "first-steps.md").read_text("utf-8")
RECIPE = re.findall(r"^\t\$\(BIN\)/sts (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.S)
COMMANDS = [
    (line.removeprefix("$ "), block)
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("$ ")
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples, as the README's commands expect."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "samples", folder / "samples")
    return folder


@pytest.mark.parametrize(("command", "block"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_the_readme_command_runs(command: str, block: str, place: Path):
    program, *arguments = shlex.split(command)
    assert program == "sts"
    done = subprocess.run(
        [sys.executable, "-m", "sts_cli", *arguments], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in block.splitlines() if line and not line.startswith("$ ")]
    told = done.stdout.strip() if arguments[0] == "ask" and shown else None
    assert told is None or told in shown


def test_the_readme_has_commands_to_run():
    assert len(COMMANDS) >= 5


def test_the_first_steps_run_as_the_page_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the order of the page: a command may go on with what one before wrote."""
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    text = "\n".join(re.findall(r"```console\n(.*?)```", FIRST_STEPS, re.S))
    steps = [step.strip().partition("\n") for step in re.split(r"^\$ sts ", text, flags=re.M)[1:]]
    assert len(steps) >= 10
    for command, _, shown in steps:
        done = sts(*shlex.split(command))
        mistake = shown.startswith("sts: ")
        assert done.code == (2 if mistake else 0), (command, done.err)
        assert not shown or (done.err if mistake else done.out).strip() == shown, command


def test_make_demo_fits_one_screen(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    rows = [".venv/bin/sts " + command for command in RECIPE] + ["the bar of progress"]
    for command in RECIPE:
        done = sts(*shlex.split(command))
        assert done.code == 0, done.err
        rows += done.out.splitlines() if command.startswith("ask") else done.err.splitlines()
    assert len(rows) >= 15
    assert sum(-(-len(row) // 80) for row in rows) <= 23  # and a prompt


def test_the_readme_tells_what_each_profile_keeps_as_sts_profiles_does():
    section = README.partition("\n## Profiles\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([\d.]+)%", section, re.M)
    shares = {name: float(told) for names, told in rows for name in re.findall(r"`(\w+)`", names)}
    listed = re.findall(r"^(\w+)(?: \(default\))? +([\d.]+)%", sts("profiles").out, re.M)
    assert shares == {name: float(f"{float(told):.2g}") for name, told in listed}
    assert set(shares) == set(shipped())


def test_the_readme_shows_the_profile_as_it_is():
    profile = load_profile("aggressive")
    for cut in profile.cuts:
        assert f"keep: {cut.keep}}}" in README


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_says_which_language_models_each_family_is_tested_around(family: str):
    (row,) = (line for line in MODELS.splitlines() if f"(`{family}`)" in line)
    around = ", ".join(name for name in FAMILIES[family][2] if not name.startswith(family))
    own = any(name.startswith(family) for name in FAMILIES[family][2])
    assert row.split("|")[2].strip() == ("its own" if own else around)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_the_readme_links_to_what_exists(link: str):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)[^):]*\)", FIRST_STEPS))
def test_the_first_steps_link_to_what_exists(link: str):
    assert (ROOT / "docs" / link).exists()


OURS = ("grid", "instruction", "pooling", "random", "relevance", "repulsion")


@pytest.mark.parametrize("name", [name for name in pruning.names() if name not in OURS])
def test_every_other_method_is_in_the_table_with_its_source(name: str):
    (row,) = (line for line in METHODS.splitlines() if line.startswith(f"| `{name}` |"))
    assert row.split("|")[2].strip() == pruning.source_of(name)


@pytest.mark.parametrize("text", SCHEDULES)
def test_the_schedules_of_the_papers_are_profiles_and_keep_what_they_say(text: str):
    profile = parse(text, "schedule", "docs/method.md")
    average = re.search(r"(\d+)(%| of 576) [a-z ]*on average", profile.about)
    planned = profile.planned(576, 32)
    told = {"%": 5.76, " of 576": 1.0}[average[2]] * int(average[1]) if average else planned
    assert planned == pytest.approx(told, rel=0.02)


def test_the_page_compares_all_methods_at_equal_tokens():
    seen = set()
    for condition in conditions():
        budget = condition.name.rpartition(" ")[2]
        planned = condition.profile.planned(576, 8)
        told = int(budget) if budget.isdecimal() and condition.view == "whole" else 576
        assert planned == pytest.approx(told, abs=0.6)
        seen |= {cut.method for cut in condition.profile.cuts}
    assert seen == set(pruning.names())
