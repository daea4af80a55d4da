"""Time of one question by phase, for each precision of the weights.

    python -m benchmarks.precisions --precisions none,int8,int4 --profiles off,aggressive

All precisions and profiles take turns in one run over one random checkpoint. Times are medians over
the repeats; `token` is one decoding step. A table goes to stderr, one JSON line to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import torch  # noqa: E402  (after the CPU's settings)

from benchmarks import random_llava  # noqa: E402
from benchmarks.phases import ours, pictures  # noqa: E402
from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.engine.engine import Engine  # noqa: E402
from sts_cli.loading.model import load  # noqa: E402
from sts_cli.machine.hardware import cpu_features, cpu_name  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402

PHASES = ("encode", "prefill", "token", "total")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=random_llava.SHAPES, default="half")
    parser.add_argument("--precisions", default="none,int8,int4")
    parser.add_argument("--profiles", default="off,aggressive")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--new", type=int, default=9, help="new tokens for each question")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    os.environ["STS_CACHE"] = ""  # no cache
    if options.threads:
        torch.set_num_threads(options.threads)
    profiles = {name: load_profile(name) for name in options.profiles.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        random_llava.model(options.shape, torch.bfloat16, "cpu").save_pretrained(folder)
        random_llava.processor().save_pretrained(folder)
        engines = {
            precision: Engine(load(find(str(Path(folder))), device="cpu", quantize=precision))
            for precision in options.precisions.split(",")
        }
        runs = {(precision, name): [] for precision in engines for name in profiles}
        for repeat in range(options.repeats + 1):  # the first is the warm-up
            for precision, name in runs:
                images = pictures(options.batch)
                seconds = ours(engines[precision], images, profiles[name], options.new)
                seconds["token"] = seconds["decode"] / (options.new - 1)
                if repeat:
                    runs[precision, name].append(seconds)
    table = {
        f"{precision}, {name}": {
            phase: round(median(seconds[phase] for seconds in repeats), 5) for phase in PHASES
        }
        for (precision, name), repeats in runs.items()
    }
    print(f"{'':20}" + "".join(f"{phase:>10}" for phase in PHASES), file=sys.stderr)
    for name, row in table.items():
        print(f"{name:20}" + "".join(f"{row[phase]:10.4f}" for phase in PHASES), file=sys.stderr)
    facts = {
        "benchmark": "precisions",
        "unit": "seconds per question, median; token: per decoding step",
        **vars(options),
        "cpu": cpu_name(),
        "features": cpu_features(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps({**facts, "results": table}))


if __name__ == "__main__":
    main()
