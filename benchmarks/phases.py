"""Time of one question by phase, for several profiles and for transformers' own generate.

    python -m benchmarks.phases --shape half --profiles off,aggressive --repeats 5

All contestants take turns in one run. Times are medians over the repeats, ratios are of medians.
A table goes to stderr, one JSON line to stdout. The weights are random, so answers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from statistics import median
from types import SimpleNamespace

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import torch  # noqa: E402  (after the CPU's settings)
from PIL import Image  # noqa: E402

from benchmarks import random_llava  # noqa: E402
from sts_cli.decoding.attention import NAME  # noqa: E402
from sts_cli.engine.engine import Engine  # noqa: E402
from sts_cli.families.default import Prompt  # noqa: E402
from sts_cli.profile import Profile  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402

QUESTION = "what is in this picture? describe it briefly"
PHASES = ("image", "encode", "select", "prefill", "decode", "total")


def pictures(count: int) -> list[Image.Image]:
    """`count` different noise images of 640 x 480 pixels."""
    return [Image.effect_noise((640, 480), 80 + seed).convert("RGB") for seed in range(count)]


def ours(
    engine: Engine, images: list[Image.Image], profile: Profile, new: int
) -> dict[str, float | int | str]:
    """Seconds per question of each phase in sts, for one batch of new images."""
    clock, rows = engine.clock, len(images)
    started = clock()
    pixels = [engine.family.pixels(image) for image in images]
    image = clock() - started
    encoded, encode = engine.encode(pixels)
    prompts = [
        Prompt(engine.family.tokenize(QUESTION, [inputs]), (image_features,))
        for inputs, image_features in zip(pixels, encoded, strict=True)
    ]
    result = engine.generate(prompts, profile, max_new_tokens=new)[0]
    seconds = {
        "image": image,
        "encode": encode,
        "select": result.select,
        "prefill": result.prefill,
        "decode": result.decode,
        "total": clock() - started,
    }
    tokens = {"tokens": " -> ".join(str(count) for count in (result.visual, *result.left))}
    return {name: value / rows for name, value in seconds.items()} | tokens


def theirs(engine: Engine, images: list[Image.Image], new: int) -> dict[str, float | int | str]:
    """Seconds per question of `model.generate` on the same batch, processor included."""
    family, clock = engine.family, engine.clock
    started = clock()
    inputs = family.processor(
        images=images,
        text=[family.prompt_text(QUESTION, 1)] * len(images),
        return_tensors="pt",
        padding=True,
    )
    image = clock() - started
    inputs = inputs.to(family.model.device, family.model.dtype)
    family.model.generate(**inputs, max_new_tokens=new, do_sample=False)
    return {"image": image / len(images), "total": (clock() - started) / len(images)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=random_llava.SHAPES, default="half")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--profiles", default="off,gentle,balanced,aggressive,extreme")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--new", type=int, default=8, help="new tokens for each question")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    model = random_llava.model(arguments.shape, getattr(torch, arguments.dtype), arguments.device)
    model.set_attn_implementation({"text_config": NAME})
    engine = Engine(
        SimpleNamespace(model=model, processor=random_llava.processor(), name=arguments.shape)
    )
    profiles = {name: load_profile(name) for name in arguments.profiles.split(",")}
    runs: dict[str, list[dict[str, float | int | str]]] = {
        name: [] for name in ("generate", *profiles)
    }
    for repeat in range(arguments.repeats + 1):  # the first is the warm-up
        for name in runs:
            images = pictures(arguments.batch)
            if name == "generate":
                seconds = theirs(engine, images, arguments.new)
            else:
                seconds = ours(engine, images, profiles[name], arguments.new)
            if repeat:
                runs[name].append(seconds)
    table = {
        name: {
            key: repeats[0][key]
            if isinstance(repeats[0][key], str)
            else round(median(seconds[key] for seconds in repeats), 4)
            for key in repeats[0]
        }
        for name, repeats in runs.items()
    }
    base = table["generate"]["total"]
    for row in table.values():
        row["speedup"] = round(base / row["total"], 2)

    print(f"{'':12}" + "".join(f"{name:>9}" for name in (*PHASES, "speedup")), file=sys.stderr)
    for name, row in table.items():
        cells = "".join(f"{row.get(phase, float('nan')):9.3f}" for phase in PHASES)
        print(f"{name:12}{cells}{row['speedup']:9.2f}  {row.get('tokens', '')}", file=sys.stderr)
    device = (
        torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine()
    )
    print(
        json.dumps(
            {
                "benchmark": "phases",
                "unit": "seconds per question, median",
                **vars(arguments),
                "device_name": device,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "results": table,
            }
        )
    )


if __name__ == "__main__":
    main()
