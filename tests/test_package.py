"""What a user installs: one wheel with profiles, demo model, samples and fonts inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (found,) = out.glob("*.whl")
    return found


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
