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
from PIL import Image
from safetensors.torch import load_file, save_file

from sts_cli.checkpoints.checkpoint import examine
from sts_cli.checkpoints.fingerprint import fingerprint

FETCH = """
import sys
from sts_cli.errors import ModelError
from sts_cli.loading.model import load
from sts_cli.checkpoints.sources import find
try:
    load(find(sys.argv[1]), device="cpu", progress=lambda text: print(text, file=sys.stderr))
    print(find(sys.argv[1]).path)
except ModelError as error:
    print(error)
"""


def fetch(name: str, server: Hub, home: Path, **settings: str) -> str:
    """What `find` and `load` make of `name`: a path or a sentence."""
    done = process([sys.executable, "-c", FETCH, name], server, home, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def process(
    command: list[str], server: Hub, home: Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    """A command whose hub is `server`, and whose cache is in `home`."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "HF_ENDPOINT": server.address,
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **settings,
    }
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


@pytest.fixture
def sharded(model: Path) -> Path:
    """The model in two files and an index, which a download fetches first."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    halves = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for shard, inside in halves.items():
        save_file({name: tensors[name] for name in inside}, model / shard, {"format": "pt"})
    places = {name: shard for shard, inside in halves.items() for name in inside}
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    (model / "model.safetensors").unlink()
    return model


@pytest.mark.parametrize("missing", [SHARDS[1:], SHARDS])
def test_an_interrupted_download_is_completed_by_the_next_run(
    missing: list[str], sharded: Path, tmp_path: Path
) -> None:
    with hub({"org/tiny": sharded}) as server:
        server.broken.update(missing)
        assert "Cannot fetch 'org/tiny' from the hub" in fetch("org/tiny", server, tmp_path)
        assert "model.safetensors.index.json" in server.served
        (tmp_path / "org").mkdir()  # a folder of that name does not hide what was begun
        offline = fetch("org/tiny", server, tmp_path, HF_HUB_OFFLINE="1")
        assert offline.startswith("'org/tiny' is only partly in the cache")
        assert offline.count("\n") == 0
        server.broken.clear()
        server.served.clear()
        folder = Path(fetch("org/tiny", server, tmp_path))
        assert folder.is_dir() and set(missing) <= set(server.served) <= set(SHARDS)
        assert fetch("org/tiny", server, tmp_path, HF_HUB_OFFLINE="1") == str(folder)


def test_a_refusal_for_want_of_space_does_not_stand_in_the_way_later(
    sharded: Path, tmp_path: Path
) -> None:
    with hub({"org/tiny": sharded}) as server:
        server.claimed[SHARDS[0]] = 10**18
        assert "'org/tiny' needs 1000000000.0 GB, but" in fetch("org/tiny", server, tmp_path)
        assert not set(SHARDS) & set(server.served)
        server.claimed.clear()
        assert Path(fetch("org/tiny", server, tmp_path)).is_dir()


def test_a_run_that_fetches_its_model_notes_the_fingerprint(model: Path, tmp_path: Path) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "a.jsonl"
    Image.new("RGB", (50, 40), (0, 128, 0)).save(photo)
    asked = f"batch {photo} --out {out} --model org/tiny --max-new-tokens 1".split()
    with hub({"org/tiny": model}) as server:
        done = process([sys.executable, "-m", "sts_cli", *asked], server, tmp_path)
    assert done.returncode == 0, done.stderr
    (snapshot,) = tmp_path.glob(".cache/huggingface/hub/models--org--tiny/snapshots/*")
    noted = json.loads((tmp_path / "a.jsonl.run").read_text())
    assert noted["files"] == fingerprint(examine(snapshot))


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
            "The hub has no model 'org/tiny', or it is private. Check the spelling, or run "
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
        ("qwen3_5", "layers of the kind linear_attention"),
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
            "'org/pickle' has no safetensors weights. sts does not open pickle files."
        )
        assert "pytorch_model.bin" not in server.served
