"""What several test files need; everything is made here, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random LLaVA of 64 visual tokens, its real processor and chat template."""
    return checkpoints.write("llava", tmp_path_factory.mktemp("checkpoints") / "llava")
