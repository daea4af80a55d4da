"""`sts models` and `sts doctor`: what people and programs are told, and the exit code."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from typer.testing import CliRunner

from sts_cli.checkpoints.hub import is_hub_id
from sts_cli.checkpoints.sources import demo_folder
from sts_cli.cli.doctor import doctor
from sts_cli.cli.models import count, models
from sts_cli.errors import ModelError
from sts_cli.families import FAMILIES
from sts_cli.machine.packages import EXTRAS, to_install

app = typer.Typer()
app.command()(models)
app.command()(doctor)


def has_demo() -> bool:
    try:
        return demo_folder().is_dir()
    except ModelError:
        return False


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "STS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "huggingface" / "hub"


def test_models_as_json(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    done = CliRunner().invoke(app, ["models", "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert told["families"] == list(FAMILIES)
    assert [row["name"] for row in told["models"]] == ["demo", str(tiny_checkpoint)]
    mine = told["models"][1]
    assert mine["bytes"] == (tiny_checkpoint / "model.safetensors").stat().st_size
    del mine["bytes"], mine["parameters"]
    assert mine == {
        "name": str(tiny_checkpoint),
        "usable": True,
        "problem": None,
        "kind": "folder",
        "path": str(tiny_checkpoint),
        "family": "llava",
        "tested": True,
    }


def test_models_for_people(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))
    (broken / "chat_template.jinja").unlink()
    monkeypatch.setenv("STS_MODEL", str(broken))
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    assert "has no chat template" in " ".join(done.stdout.split())
    assert f"Supported families: {', '.join(FAMILIES)}." in done.stdout


def test_trash_in_the_cache_is_no_model_and_stops_nothing(hub_cache: Path) -> None:
    for name in ("a--i--j", "a--b\x1b", "a--b.git", "a--b-", "-a--b", "a"):
        (hub_cache / f"models--{name}").mkdir(parents=True)
    (hub_cache / "models--a--file").touch()
    snapshots = {}
    for name in ("dangling", "nonsense"):
        folder = hub_cache / f"models--a--{name}"
        snapshots[name] = folder / "snapshots" / "0123"
        snapshots[name].mkdir(parents=True)
        (snapshots[name] / "model.safetensors").write_text("trash")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0123")
    (snapshots["dangling"] / "config.json").symlink_to("/nowhere")
    (snapshots["nonsense"] / "config.json").write_text("{bad")
    done = CliRunner().invoke(app, ["models", "--json"])
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)["models"]
    assert [row["name"] for row in told] == ["demo", "a/dangling", "a/file", "a/nonsense"]
    assert not any("path" in row for row in told[1:])


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "STS_CACHE"])
def test_a_cache_of_nobody_is_a_cache_without_models(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(name, "~no-such-user/x")
    for command in ("models", "doctor"):
        done = CliRunner().invoke(app, [command, "--json"])
        assert isinstance(done.exception, SystemExit | None), done.exception
    assert json.loads(done.stdout)["folders"]["hub_cache_models"] == 0


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "A-b/c.d_e",
        "a/b--c",
        "a/b..c",
        "a/b.git",
        "a/b-",
        "a-/b",
        "ä/b",
        "a/" + "b" * 97,
        "a/",
    ],
)
def test_an_id_of_the_hub_is_what_the_hub_says(name: str) -> None:
    try:
        validate_repo_id(name)
        told = True
    except HFValidationError:
        told = False
    assert is_hub_id(name) is told


def test_counts_are_short() -> None:
    assert [count(n) for n in (7_700_000, 494_000_000, 7_060_000_000)] == [
        "7.7 M",
        "494.0 M",
        "7.1 B",
    ]


def test_doctor_as_json() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    told = json.loads(done.stdout)
    assert told["ok"] is (told["problems"] == []) is (done.exit_code == 0)
    assert told["device"]["device"] in ("cpu", "cuda")
    assert told["device"]["dtype"] in ("bfloat16", "float16", "float32")
    assert told["versions"]["torch"]
    assert told["folders"]["hub_offline"] is True


def test_doctor_tells_of_every_package_of_an_extra() -> None:
    """And of torchvision, which is for some image processors."""
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    table = project.partition("[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    offered = {
        extra: json.loads(packages)
        for extra, packages in re.findall(r"^(\w+) = (.*)$", table, re.MULTILINE)
        if extra not in ("train", "dev")  # what only this repository needs
    }
    known = {extra: list(told.packages.values()) for extra, told in EXTRAS.items()}
    assert known == offered
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["optional"]
    here = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
    names = {re.match(r"[\w-]+", one)[0] for packages in offered.values() for one in packages}
    assert {name.replace("_", "-"): one["version"] for name, one in told.items()} == {
        name: here.get(name) for name in names | {"torchvision"}
    }


def test_doctor_says_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygal", None)  # as Python has it where it is not installed
    done = CliRunner().invoke(app, ["doctor"])
    command = to_install("jinja2>=3.1", "pygal>=3.1")
    assert f"  pygal             not installed: {command} (reports: --html)\n" in done.stdout


def test_doctor_for_people() -> None:
    done = CliRunner().invoke(app, ["doctor"])
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("problem") if done.exit_code else last == "ready"


@pytest.fixture
def misfit(tmp_path: Path) -> dict[str, str]:
    """An environment with a torchvision built for another torch: what breaks most machines."""
    package, information = tmp_path / "torchvision", tmp_path / "torchvision-0.1.dist-info"
    package.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms")')
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def test_doctor_exits_with_1_on_a_problem(misfit: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sts_cli", "doctor", "--json"],
        env=misfit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    problems = json.loads(done.stdout)["problems"]
    assert any("torchvision does not match torch" in problem for problem in problems)


def test_a_broken_installation_is_one_sentence(
    misfit: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    done = subprocess.run(
        [sys.executable, "-m", "sts_cli", "ask", str(picture), "what?", "-m", tiny_checkpoint],
        env=misfit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sts: The installed torchvision does not match torch")
    assert "Traceback" not in done.stderr
