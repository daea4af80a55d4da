"""Images read, decoded and preprocessed per second: in threads, and in processes that send pixels.

    python -m benchmarks.reading --images 64 --megapixels 12 --repeats 5

The images are JPEG files of random scenes. Ways are interleaved; medians are printed. A process
has the whole library in memory, and its pixels are copied on their way back.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from PIL import Image

from sts_cli.checkpoints.sources import find
from sts_cli.families import adapter
from sts_cli.inputs.picture import Picture, read_picture
from sts_cli.loading.model import load


@cache
def family(model: str) -> Any:
    """One in each process."""
    torch.set_num_threads(1)
    loaded = load(find(model), backend="torch")
    return adapter(loaded.model, loaded.processor)


def pixels(model: str, path: Path) -> dict[str, torch.Tensor]:
    """The tensors that the model takes of one file."""
    picture = read_picture(path.name, path.parent)
    assert isinstance(picture, Picture)
    return dict(family(model).pixels(picture.image).inputs)


def write(folder: Path, images: int, megapixels: float) -> list[Path]:
    """JPEG files of smoothed noise, 4 to 3."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    size = (height * 4 // 3, height)
    paths = [folder / f"{number}.jpg" for number in range(images)]
    for number, path in enumerate(paths):
        noise = Image.effect_noise((size[0] // 8, size[1] // 8), 40 + number).convert("RGB")
        noise.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    family(options.model)
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(options.workers) as threads,
        ProcessPoolExecutor(options.workers, spawn) as processes,
    ):
        paths = write(Path(folder), options.images, options.megapixels)

        def rate(pool: Executor) -> float:
            started = perf_counter()
            done = sum(1 for _ in pool.map(pixels, [options.model] * len(paths), paths))
            return done / (perf_counter() - started)

        ways: dict[str, Executor] = {
            "one thread": one,
            f"{options.workers} threads": threads,
            f"{options.workers} processes": processes,
        }

        def measure() -> dict[str, float]:
            return {name: rate(pool) for name, pool in ways.items()}

        measure()  # processes start
        repeats = [measure() for _ in range(options.repeats)]
        for name in ways:
            found = sorted(each[name] for each in repeats)
            told = {"median": median(found), "least": found[0], "most": found[-1]}
            told = {key: round(value, 2) for key, value in told.items()}
            print(json.dumps({"way": name, "images_per_second": told}))


if __name__ == "__main__":
    main()
