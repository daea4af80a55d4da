"""What a user installs: one wheel with profiles, demo model, samples and fonts inside.

`make package` installs it in empty environments (tests/installing.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from sts_cli import __version__

ROOT = Path(__file__).parents[1]


def build(kind: str, tree: Path, out: Path, path: str = os.environ["PATH"]) -> Path:
    """The `kind` of package, built from a tree; programs are looked for in `path`."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)],
        cwd=tree,
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
    )
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder / "packed")) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"sts_cli-{__version__}"


def test_the_wheel_holds_what_the_readme_needs(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (*ROOT.glob("profiles/*.yaml"), *ROOT.glob("samples/*"), *ROOT.glob("docs/*.md")):
        assert f"sts_cli/{path.relative_to(ROOT).as_posix()}" in names
    for name in ("config.json", "model.safetensors", "tokenizer.json", "processor_config.json"):
        assert f"sts_cli/demo/{name}" in names
    for name in ("page.html", "page.css", "page.js"):
        assert f"sts_cli/report/templates/{name}" in names
    assert "sts_cli/pruning/learnpruner.safetensors" in names
    assert any(name.startswith("sts_cli/scenes/fonts/") for name in names)
    assert not any(name.startswith(("tests/", "demo_model/", "benchmarks/")) for name in names)


def test_the_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path):
    """Unpacked elsewhere, with nothing of the repository in sight."""
    place = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(place)
    environment = {**os.environ, "PYTHONPATH": str(place), "STS_MODEL": "demo"}
    sample = place / "sts_cli" / "samples" / "sign.png"
    for arguments in (
        ["profiles"],
        ["docs", "formats"],
        ["models"],
        ["ask", str(sample), "what is on the sign?"],
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "sts_cli", *arguments]
            if sys.version_info >= (3, 11)
            else [sys.executable, "-m", "sts_cli", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_weights_fit_the_promise():
    assert (ROOT / "sts_cli" / "demo" / "model.safetensors").stat().st_size <= 30e6


def test_the_sdist_is_enough_for_the_tests_and_for_the_wheel(
    sources: Path, wheel: Path, tmp_path: Path
):
    """Also where there is no git."""
    names = [".ci/run", "Makefile", "constraints.txt", "Dockerfile", "LICENSE", "CONTRIBUTING.md"]
    for pattern in ("tests/*.py", "benchmarks/**/*.py", "demo_model/*.py", "docs/*", "samples/*"):
        names += [path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)]
    assert [name for name in names if not (sources / name).is_file()] == []
    again = build("wheel", sources, tmp_path / "again", path="")
    assert again.name == wheel.name == f"sts_cli-{__version__}-py3-none-any.whl"
    listed, wanted = (sorted(zipfile.ZipFile(one).namelist()) for one in (again, wheel))
    assert listed == wanted


def test_the_licences_of_the_fonts_are_in_the_wheel(wheel: Path):
    packed = zipfile.ZipFile(wheel)
    home = f"sts_cli-{__version__}.dist-info"
    facts = message_from_bytes(packed.read(f"{home}/METADATA"))
    licences = sorted(ROOT.glob("sts_cli/scenes/fonts/licenses/*.txt"))
    names = ["LICENSE", *(path.relative_to(ROOT).as_posix() for path in licences)]
    assert len(licences) >= 6 and facts.get_all("License-File") == names
    for name in names:
        assert packed.read(f"{home}/licenses/{name}") == (ROOT / name).read_bytes()


# sts-cli is on no index: pip takes `.` or a wheel, but not that name
INDEXED = re.compile(
    r"(?:pip3? install|pipx (?:install|run)|uv tool (?:install|run)|uv (?:pip install|add)|uvx)"
    r"(?: [^\n`'\"]*)? [\"']?sts-cli(?![\w.-])"
)


def texts() -> list[Path]:
    """What people read: documentation, and the code that makes messages."""
    patterns = ("README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile", "docs/*.md")
    more = ("Dockerfile", "demo_model/*.md", "profiles/*", "sts_cli/**/*.py", "sts_cli/demo/*.md")
    return [path for pattern in (*patterns, *more) for path in ROOT.glob(pattern)]


def test_no_instruction_takes_sts_from_an_index_that_does_not_have_it():
    found = {path.name: INDEXED.findall(path.read_text("utf-8")) for path in texts()}
    assert len(found) > 100
    assert {name: hits for name, hits in found.items() if hits} == {}


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("pip install 'sts-cli[html]'", True),
        ("pip install sts-cli", True),
        ("pip install --force-reinstall sts-cli'.", True),
        ('uv tool install "sts-cli[openvino]"', True),
        ("uvx sts-cli", True),
        ('pip install ".[openvino]"', False),
        ("pip install dist/sts_cli-0.2.0-py3-none-any.whl", False),
        ("pipx inject sts-cli openvino", False),
        ("`pip install pyarrow` is what sts-cli needs", False),
    ],
)
def test_such_instructions_are_found(command: str, wrong: bool):
    assert bool(INDEXED.search(command)) is wrong


def test_docker_sees_what_the_wheel_is_made_of():
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    seen = {line.removeprefix("!") for line in lines if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    included = re.findall(r'^"(\w+)" = "sts_cli/\w+"$', project, re.MULTILINE)
    assert len(included) == 3 and "*" in lines
    assert seen == {"pyproject.toml", "README.md", "LICENSE", "sts_cli", *included}
