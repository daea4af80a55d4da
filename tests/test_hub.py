"""Downloading a model that the user named: what is fetched, and what is told when it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import strangers
from hub_server import Hub, hub

FETCH = """
import sys
from sts_cli.errors import ModelError
from sts_cli.loading import load
from sts_cli.sources import find
try:
    load(find(sys.argv[1]), device="cpu", progress=lambda text: print(text, file=sys.stderr))
    print(find(sys.argv[1]).path)
except ModelError as error:
    print(error)
"""


def fetch(name: str, server: Hub, home: Path) -> str:
    """What `find` and `load` make of `name`: a path or a sentence."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "HF_ENDPOINT": server.address,
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", FETCH, name], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_a_model_is_fetched_once_and_found_again(model: Path, tmp_path: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"no")
    (model / "README.md").write_text("no")
    with hub({"org/tiny": model}) as server:
        folder = Path(fetch("org/tiny", server, tmp_path))
        served = list(server.served)
        assert fetch("org/tiny", server, tmp_path) == str(folder)
        assert server.served == served
    assert folder.is_relative_to(tmp_path / ".cache" / "huggingface" / "hub")
    assert sorted(served) == sorted(path.name for path in folder.iterdir())
    assert "model.safetensors" in served
    assert not {"pytorch_model.bin", "README.md"} & set(served)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with hub({}) as server:
        assert fetch("org/tiny", server, tmp_path) == (
            "The hub has no model 'org/tiny', or it is private; check the spelling, or run "
            "'hf auth login'."
        )


def test_a_gated_model(tmp_path: Path) -> None:
    with hub({}, gated=("org/tiny",)) as server:
        assert fetch("org/tiny", server, tmp_path) == (
            "'org/tiny' is gated: accept its terms at https://huggingface.co/org/tiny, then run "
            "'hf auth login'."
        )


def test_what_is_of_no_use_is_refused_before_its_weights_are_fetched(
    model: Path, tmp_path: Path
) -> None:
    (model / "config.json").write_text('{"model_type": "llama"}')
    with hub({"org/text": model}) as server:
        told = fetch("org/text", server, tmp_path)
        assert told.startswith(
            "org/text is a 'llama' model without a vision encoder (vision_config)"
        )
        assert "model.safetensors" not in server.served


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mllama", "through cross-attention"),
        ("instructblip", "(Q-Former)"),
        ("llava around lfm2", "layers of the kind conv"),
    ],
)
def test_a_family_that_cannot_be_pruned_is_refused_before_its_weights_are_fetched(
    name: str, reason: str, tmp_path: Path
) -> None:
    with hub({"org/other": strangers.write(name, tmp_path / "model")}) as server:
        assert reason in fetch("org/other", server, tmp_path)
        assert "config.json" in server.served and "model.safetensors" not in server.served


def test_a_config_of_wrong_types_is_not_the_network_to_blame(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["hidden_size"] = "many"
    (model / "config.json").write_text(json.dumps(config))
    with hub({"org/odd": model}) as server:
        told = fetch("org/odd", server, tmp_path)
        assert told.startswith("Cannot load 'org/odd'") and "hidden_size" in told
        assert "model.safetensors" not in server.served


def test_pickle_weights_are_not_fetched(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with hub({"org/pickle": model}) as server:
        assert fetch("org/pickle", server, tmp_path) == (
            "'org/pickle' has no safetensors weights; sts opens no pickle files."
        )
        assert "pytorch_model.bin" not in server.served
