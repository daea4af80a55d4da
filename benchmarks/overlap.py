"""Encoding the next images while the last ones are answered: python -m benchmarks.overlap

One thread answers a batch of questions, another encodes as many new images; then one thread does
both, one after the other. Interleaved repeats; medians with their 10th and 90th percentile, and the
ratio, on stdout as JSON. Without --model, random weights of benchmarks/random_llava.py.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from benchmarks import phases  # first: it makes the CPU's settings
from sts_cli.families.default import Prompt
from sts_cli.machine.hardware import cpu_name
from sts_cli.profile_files import load_profile


def main() -> None:
    parser = phases.one_way(__doc__.splitlines()[0], new=32)
    parser.add_argument("--rows", type=int, default=8, help="of a batch, one image each")
    wish = parser.parse_args()
    profile = load_profile(wish.profile)
    with phases.checkpoint(wish.model, wish.shape) as model, ThreadPoolExecutor(2) as pool:
        engine = phases.engine_of(model, wish.way, "cpu", [profile])
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
    found = {
        name: [round(one, 3) for one in phases.spread(times)] for name, times in seconds.items()
    }
    ratio = round(found["in turn"][0] / found["at once"][0], 2)
    facts = {"cpu": cpu_name(), "seconds": found, "in turn / at once": ratio}
    print(json.dumps({"benchmark": "overlap", **vars(wish), **facts}))


if __name__ == "__main__":
    main()
