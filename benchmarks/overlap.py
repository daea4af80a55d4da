"""Encoding the next images while the last ones are answered: python -m benchmarks.overlap

One thread answers a batch of questions, another encodes as many new images; then one thread does
both, one after the other. Interleaved repeats; medians with their 10th and 90th percentile, and the
ratio, on stdout as JSON. Without --model, random weights of benchmarks/random_llava.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from benchmarks import phases, random_llava  # first: it makes the CPU's settings
from sts_cli.checkpoints.sources import find
from sts_cli.engine.engine import Engine
from sts_cli.families.default import Prompt
from sts_cli.loading.model import load
from sts_cli.machine.hardware import cpu_name
from sts_cli.profile_files import load_profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a checkpoint; without one, random weights of --shape")
    parser.add_argument("--shape", choices=random_llava.SHAPES, default="half")
    parser.add_argument("--way", default="openvino/float32/int8", help="BACKEND/DTYPE/WEIGHTS")
    parser.add_argument("--profile", default="aggressive")
    parser.add_argument("--rows", type=int, default=8, help="of a batch, one image each")
    parser.add_argument("--new", type=int, default=32, help="new tokens for each question")
    parser.add_argument("--repeats", type=int, default=5)
    wish = parser.parse_args()
    parts: Any = wish.way.split("/")
    backend, dtype, weights = parts
    profile = load_profile(wish.profile)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        model = wish.model or folder
        if wish.model is None:
            random_llava.write(Path(folder), wish.shape)
        loaded = load(find(model), device="cpu", dtype=dtype, quantize=weights, backend=backend)
        engine = Engine(loaded, loaded.decoder, loaded.encoder)
        engine.prepare(profile)
        pixels = [engine.family.pixels(image) for image in phases.pictures(wish.rows)]
        encoded, _ = engine.encode(pixels)
        ids = engine.family.tokenize(phases.QUESTION, pixels[:1])
        prompts = [Prompt(ids, (one,)) for one in encoded]

        def encode() -> None:
            engine.encode(pixels)

        def answer() -> None:
            engine.generate(prompts, profile, max_new_tokens=wish.new)

        def both() -> None:
            for one in [pool.submit(encode), pool.submit(answer)]:
                one.result()

        runs = {"encode": encode, "answer": answer, "at once": both}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(wish.repeats + 1):  # the first is the warm-up
            for name, run in runs.items():
                started = perf_counter()
                run()
                if repeat:
                    seconds[name].append(perf_counter() - started)
    seconds["in turn"] = [
        sum(pair) for pair in zip(seconds["encode"], seconds["answer"], strict=True)
    ]
    found = {}
    for name, times in seconds.items():
        tenths = quantiles(times, n=10, method="inclusive")
        found[name] = [round(one, 3) for one in (median(times), tenths[0], tenths[-1])]
    ratio = round(found["in turn"][0] / found["at once"][0], 2)
    facts = {"cpu": cpu_name(), "seconds": found, "in turn / at once": ratio}
    print(json.dumps({"benchmark": "overlap", **vars(wish), **facts}))


if __name__ == "__main__":
    main()
