"""What several test files need; everything is made here, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import isolation
import pytest

from sts_cli.machine.runtime import settle_cpu

__all__ = ["isolation"]  # before all that reads the environment

settle_cpu()

import checkpoints  # noqa: E402  (it imports torch, which must find the CPU settled)
import torch  # noqa: E402

torch.set_num_threads(1)  # tiny models: more threads only wait for each other


@pytest.fixture
def memory_peak() -> Callable[[Callable[[], object]], int]:
    """Measures the most bytes of tensors that a call holds at once beside what was there."""

    def measure(call: Callable[[], object]) -> int:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as seen:
            call()
        held = most = 0
        for event in seen.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    return measure


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random LLaVA of 64 visual tokens, its real processor and chat template."""
    return checkpoints.write("llava", tmp_path_factory.mktemp("checkpoints") / "llava")
