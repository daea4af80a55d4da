"""Rows answered per second at several batch sizes, interleaved; prints two JSON lines.

    python -m benchmarks.batch_sizes --model demo --sizes 1,2,4,8,16 --repeats 3

Every row has its own image and exactly 16 new tokens. CPU seconds are printed too: on a shared
machine they vary less than wall seconds.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from time import process_time

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

from PIL import Image  # noqa: E402  (after the CPU's settings)

from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.engine.engine import Engine  # noqa: E402
from sts_cli.families.default import Prompt  # noqa: E402
from sts_cli.loading.model import load  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--sizes", default="1,2,4,8,16,32")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    engine, profile = Engine(load(find(options.model))), load_profile(options.profile)
    engine.ends = frozenset()
    rows = max(sizes)
    noise = [Image.effect_noise((400, 300), 40 + n).convert("RGB") for n in range(rows)]
    pixels = [engine.family.pixels(image) for image in noise]
    ids = [engine.family.tokenize("what is in the image?", [image]) for image in pixels]

    def answer(start: int, size: int) -> None:
        encoded, _ = engine.encode(pixels[start : start + size])
        prompts = [Prompt(ids[start + n], (image,)) for n, image in enumerate(encoded)]
        engine.generate(prompts, profile, max_new_tokens=16)

    def rate(size: int) -> tuple[float, float]:
        wall, cpu = engine.clock(), process_time()
        for start in range(0, rows, size):
            answer(start, size)
        return rows / (engine.clock() - wall), rows / (process_time() - cpu)

    answer(0, 1)  # a warm-up
    repeats = [{size: rate(size) for size in sizes} for _ in range(options.repeats)]
    for name, index in (("rows_per_second", 0), ("rows_per_cpu_second", 1)):
        rates = {size: round(median(each[size][index] for each in repeats), 2) for size in sizes}
        print(json.dumps({"model": options.model, "profile": profile.name, name: rates}))


if __name__ == "__main__":
    main()
