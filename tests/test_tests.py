"""The suite itself: a machine of its own, and no assertion that may be passed over."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import isolation
import pytest

TESTS = Path(__file__).parent


def test_the_developers_models_and_caches_are_not_seen(tmp_path: Path):
    mine = {
        "STS_MODEL": "/mine",
        "STS_CACHE": "/mine",
        "HF_HOME": "/mine",
        "HF_HUB_CACHE": "/mine",
        "HF_TOKEN": "mine",
        "TRANSFORMERS_OFFLINE": "1",
        "XDG_CACHE_HOME": "/mine",
        "HOME": str(tmp_path),
    }
    code = (
        "import isolation, json, os; from sts_cli.checkpoints import hub; "
        "from sts_cli.checkpoints.sources import find; "
        "from sts_cli.quantization.choice import quantized_folder; "
        "print(json.dumps([dict(os.environ), find().name, hub.is_offline(), "
        "str(hub.cache_folder()), str(quantized_folder())]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **mine, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    environment, model, offline, *folders = json.loads(done.stdout)
    assert environment.keys().isdisjoint(mine.keys() - {"XDG_CACHE_HOME", "HOME"})
    assert (model, offline) == ("demo", False)
    caches = environment["XDG_CACHE_HOME"]
    assert folders == [f"{caches}/huggingface/hub", f"{caches}/sts/quantized"]
    assert not Path(caches).exists()


def test_this_very_run_is_isolated():
    assert isolation.isolated(os.environ, os.environ["XDG_CACHE_HOME"]) == dict(os.environ)


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.py")), ids=lambda path: path.stem)
def test_no_assertion_stands_in_an_if(path: Path):
    """One that depends on a condition may never be made; filter, or assert the condition."""
    tree = ast.parse(path.read_text("utf-8"))
    conditional = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    inside = {
        node.lineno for one in conditional for node in ast.walk(one) if isinstance(node, ast.Assert)
    }
    assert inside == set()
