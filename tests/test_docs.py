"""The README's commands run, and the answers that it shows are the answers."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sts_cli.families import FAMILIES
from sts_cli.profile_files import load_profile, shipped

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
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


def test_the_readme_names_every_profile():
    assert all(f"`{name}`" in README for name in shipped())


def test_the_readme_shows_the_profile_as_it_is():
    profile = load_profile("aggressive")
    for cut in profile.cuts:
        assert f"keep: {cut.keep}}}" in README


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readme_says_which_language_models_each_family_is_tested_around(family: str):
    (row,) = (line for line in README.splitlines() if f"(`{family}`)" in line)
    around = ", ".join(name for name in FAMILIES[family][2] if not name.startswith(family))
    own = any(name.startswith(family) for name in FAMILIES[family][2])
    assert row.split("|")[2].strip() == ("its own" if own else around)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_the_readme_links_to_what_exists(link: str):
    assert (ROOT / link).exists()
