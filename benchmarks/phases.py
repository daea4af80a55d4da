"""The time of one question by phases: every backend and precision, and transformers' generate.

    python -m benchmarks.phases --ways torch/float32/none,openvino/float32/int8 --repeats 7

A way is BACKEND/DTYPE/WEIGHTS; `generate` is run in every dtype among them. One run, every
contestant in turn, medians over the repeats with their 10th and 90th percentiles; speed-ups are
ratios of medians within the run, against the faster `generate`. `token` is one decoding step. With
several `--questions` about each image, `unshared` ones are run beside those that share a prefix. A
table goes to stderr, one JSON line to stdout. Weights are random: nothing here is about answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import torch  # noqa: E402  (after the CPU's settings)
from PIL import Image  # noqa: E402

from benchmarks import random_llava  # noqa: E402
from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.engine.engine import Engine  # noqa: E402
from sts_cli.families.default import Prompt  # noqa: E402
from sts_cli.loading.model import load  # noqa: E402
from sts_cli.machine.hardware import cpu_features, cpu_name  # noqa: E402
from sts_cli.profile import Profile  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402

QUESTION = "what is in this picture? describe it briefly"
PHASES = ("image", "encode", "select", "prefill", "decode", "token", "total")
WAYS = "torch/float32/none,torch/bfloat16/none,openvino/float32/none,openvino/float32/int8"

Seconds = dict[str, float]


def pictures(count: int) -> list[Image.Image]:
    """Different noise images of 640 x 480 pixels."""
    return [Image.effect_noise((640, 480), 80 + seed).convert("RGB") for seed in range(count)]


def ours(
    engine: Engine, images: list[Image.Image], profile: Profile, new: int, asked: int, shares: bool
) -> Seconds:
    """Seconds per question of each phase, for one batch of `asked` questions about each new image.

    With `shares`, they share what they begin with.
    """
    clock, rows = engine.clock, len(images) * asked
    engine.shares = shares
    started = clock()
    pixels = [engine.family.pixels(image) for image in images]
    image = clock() - started
    encoded, encode = engine.encode(pixels, profile.encoder)
    prompts = [
        Prompt(engine.family.tokenize(QUESTION, [seen]), (features,))
        for seen, features in zip(pixels, encoded, strict=True)
        for _ in range(asked)
    ]
    answer = engine.generate(prompts, profile, max_new_tokens=new)[0]
    seconds = {
        "image": image,
        "encode": encode,
        "select": answer.select,
        "prefill": answer.prefill,
        "decode": answer.decode,
        "token": answer.decode / max(1, new - 1),
        "total": clock() - started,
    }
    return {name: value / rows for name, value in seconds.items()}


def theirs(engine: Engine, images: list[Image.Image], new: int, asked: int) -> Seconds:
    """Seconds per question of `model.generate` on the same batch, processor included."""
    family, clock = engine.family, engine.clock
    images = [image for image in images for _ in range(asked)]
    started = clock()
    inputs = family.processor(
        images=images,
        text=[family.prompt_text(QUESTION, 1)] * len(images),
        return_tensors="pt",
        padding=True,
    )
    image = clock() - started
    inputs = inputs.to(family.model.device, family.model.dtype)
    with torch.inference_mode():
        family.model.generate(**inputs, max_new_tokens=new, do_sample=False)
    return {"image": image / len(images), "total": (clock() - started) / len(images)}


def engine_of(folder: str, way: str, device: str, profiles: Sequence[Profile]) -> Engine:
    """The checkpoint of a folder loaded in a way, ready for `profiles`."""
    parts: Any = way.split("/")
    backend, dtype, weights = parts
    loaded = load(
        find(folder),
        device=device,
        dtype=dtype,
        quantize=weights,
        backend=backend,
        progress=lambda message: print(message, file=sys.stderr),
    )
    engine = Engine(loaded, loaded.decoder, loaded.encoder)
    for profile in profiles:
        engine.prepare(profile)
    return engine


@contextmanager
def checkpoint(model: str | None, shape: str) -> Iterator[str]:
    """The folder `model`, or without one random weights of `shape`, for as long as this is entered.

    What is converted meanwhile goes with them, unless $STS_CACHE says where it is kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("STS_CACHE", f"{folder}/cache")
        if model is None:
            random_llava.write(Path(folder) / "model", shape)
        yield model or f"{folder}/model"


def one_way(description: str, new: int) -> argparse.ArgumentParser:
    """The options of a benchmark of one model in one way; `new` tokens without --new."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", help="a checkpoint; without one, random weights of --shape")
    parser.add_argument("--shape", choices=random_llava.SHAPES, default="half")
    parser.add_argument("--way", default="openvino/float32/int8", help="BACKEND/DTYPE/WEIGHTS")
    parser.add_argument("--profile", default="aggressive")
    parser.add_argument("--new", type=int, default=new, help="new tokens for each question")
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def contestants(
    folder: str, ways: list[str], profiles: list[Profile], device: str, new: int, asked: int
) -> dict[str, Callable[[list[Image.Image]], Seconds]]:
    """The runs that are timed, by name."""
    runs: dict[str, Callable[[list[Image.Image]], Seconds]] = {}
    for way in ways:
        backend, dtype, weights = way.split("/")
        engine = engine_of(folder, way, device, profiles)
        if backend == "torch" and weights == "none":
            runs[f"generate {dtype}"] = partial(theirs, engine, new=new, asked=asked)
        shared = {"": True} | ({" unshared": False} if asked > 1 else {})
        for (name, shares), profile in product(shared.items(), profiles):
            runs[f"{way} {profile.name}{name}"] = partial(
                ours, engine, profile=profile, new=new, asked=asked, shares=shares
            )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a checkpoint; without one, random weights of --shape")
    parser.add_argument("--shape", choices=random_llava.SHAPES, default="half")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", default=WAYS)
    parser.add_argument("--profiles", default="off,balanced,aggressive")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--questions", type=int, default=1, help="about each image")
    parser.add_argument("--new", type=int, default=8, help="new tokens for each question")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    wish = parser.parse_args()
    if wish.threads:
        torch.set_num_threads(wish.threads)
    profiles = [load_profile(name) for name in wish.profiles.split(",")]
    with checkpoint(wish.model, wish.shape) as folder:
        runs = contestants(
            folder,
            wish.ways.split(","),
            profiles,
            wish.device,
            wish.new,
            wish.questions,
        )
        seconds: dict[str, list[Seconds]] = {name: [] for name in runs}
        for repeat in range(wish.repeats + 1):  # the first is the warm-up
            for name, run in runs.items():
                measured = run(pictures(wish.batch))
                if repeat:
                    seconds[name].append(measured)
    table = {name: summary(repeats) for name, repeats in seconds.items()}
    generates = [row["total"] for name, row in table.items() if name.startswith("generate")]
    for row in table.values() if generates else ():
        row["speedup"] = round(min(generates) / row["total"], 2)
    show(table)
    print(
        json.dumps(
            {
                "benchmark": "phases",
                "unit": "seconds per question, median",
                **vars(wish),
                "cpu": cpu_name(),
                "features": cpu_features(),
                "threads": torch.get_num_threads(),
                "versions": {name: version(name) for name in ("torch", "transformers", "openvino")},
                "results": table,
            }
        )
    )


def summary(repeats: list[Seconds]) -> dict[str, float]:
    """Medians of each phase, and the 10th and 90th percentile of the total."""
    medians = {name: round(median(run[name] for run in repeats), 4) for name in repeats[0]}
    _, low, high = spread([run["total"] for run in repeats])
    return {**medians, "p10": round(low, 4), "p90": round(high, 4)}


def spread(times: list[float]) -> tuple[float, float, float]:
    """The median, the 10th and the 90th percentile."""
    tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else times * 9
    return median(times), tenths[0], tenths[-1]


def show(table: dict[str, dict[str, float]]) -> None:
    """The table on stderr."""
    columns = (*PHASES, "p10", "p90", "speedup")
    width = max(len(name) for name in table)
    print(" " * width + "".join(f"{name:>8}" for name in columns), file=sys.stderr)
    for name, row in table.items():
        cells = (row.get(column) for column in columns)
        shown = "".join(f"{'':>8}" if cell is None else f"{cell:8.3f}" for cell in cells)
        print(f"{name:{width}}{shown}", file=sys.stderr)


if __name__ == "__main__":
    main()
