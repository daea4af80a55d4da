"""Counts of waits for the device in a batch's prefill: python -m benchmarks.synchronisations

PyTorch's profiler counts, on a CPU, the calls that would wait for a GPU. The demo model answers one
batch of questions about different images under each profile. Prints one JSON line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import torch  # noqa: E402  (after the CPU's settings)

from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.engine.engine import Engine  # noqa: E402
from sts_cli.families.default import Prompt  # noqa: E402
from sts_cli.loading.model import load  # noqa: E402
from sts_cli.profile import Profile  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402
from sts_cli.scenes.drawing import draw  # noqa: E402

WAITING = ("aten::item", "aten::nonzero", "aten::_local_scalar_dense", "aten::is_nonzero")
PROFILES = ("off", "aggressive", "random", "grid")
QUESTIONS = ("what is on the sign?", "how many shapes are there?", "what?", "which colour is it?")


def main() -> None:
    engine = Engine(load(find("demo"), device="cpu", dtype="float32"))
    pixels = [engine.family.pixels(draw(seed).image) for seed in range(len(QUESTIONS))]
    encoded, _ = engine.encode(pixels)
    prompts = [
        Prompt(engine.family.tokenize(question, [inputs]), (image,))
        for question, inputs, image in zip(QUESTIONS, pixels, encoded, strict=True)
    ]
    calls = {name: waits(engine, prompts, load_profile(name)) for name in PROFILES}
    print(json.dumps({"rows": len(QUESTIONS), "waits": calls}))


def waits(engine: Engine, prompts: Sequence[Prompt], profile: Profile) -> dict[str, int]:
    """Numbers of waiting calls in the prefill of one batch, up to the first token."""
    return counted(lambda: engine.generate(prompts, profile, max_new_tokens=1))


def counted(work: Callable[[], object]) -> dict[str, int]:
    """Numbers of waiting calls in `work`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        work()
    calls = Counter(event.name for event in profiler.events())
    return {name: calls[name] for name in WAITING}


if __name__ == "__main__":
    main()
