"""Questions answered per second: batch after batch, and with rows that are replaced at once.

    python -m benchmarks.throughput --model FOLDER --images 16 --questions 5 --repeats 3

Answers are of unequal length: a model that does not end its answers, such as those of
benchmarks/random_llava.py, ends each after a number of tokens that depends on its question, half of
them short. Ways are interleaved; medians are printed. CPU seconds vary less on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from statistics import median
from time import process_time

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

from PIL import Image  # noqa: E402  (after the CPU's settings)

from sts_cli.answering import scheduler  # noqa: E402
from sts_cli.answering.request import Request  # noqa: E402
from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.engine.engine import Engine  # noqa: E402
from sts_cli.inputs.images import Prepared  # noqa: E402
from sts_cli.loading.model import load  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402
from sts_cli.records import Item  # noqa: E402


class Lengths:
    """Stands for the model's stop strings: ends an answer after the tokens of its question."""

    def end(self, prompt: list[int], answer: list[int]) -> bool:
        draw = random.Random(str(prompt))
        return len(answer) >= draw.choice((draw.randint(1, 4), draw.randint(5, 64)))


def prepared(images: int, questions: int) -> Iterator[Prepared]:
    """Questions that differ in a word, image after image."""
    for image in range(images):
        noise = Image.effect_noise((400, 300), 40 + image).convert("RGB")
        for number in range(questions):
            item = Item(f"{image}-{number}", (f"{image}.png",), f"what is in box {number} {image}?")
            yield Prepared(item, (noise,), (str(image),), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--questions", type=int, default=1, help="about each image")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--admit", default="0.125,0.25,0.5", help="least part of the places")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    loaded = load(find(options.model), backend=options.backend)
    engine = Engine(loaded, loaded.decoder, loaded.encoder)
    engine.ends, engine.stop_strings = frozenset(), Lengths()  # type: ignore[assignment]
    request = Request((load_profile(options.profile),), batch_size=options.batch_size)

    def rates(way: str, images: int) -> tuple[float, float]:
        scheduler.ADMIT = 1.0 if way == "batches" else float(way)
        listener = (lambda text: None) if way == "batches" else None  # batch after batch
        wall, cpu = engine.clock(), process_time()
        every = prepared(images, options.questions)
        answers = list(scheduler.answer_all(engine, every, request, on_text=listener))
        rows = images * options.questions
        assert len(answers) == rows and not any(one.problem for one in answers)
        return rows / (engine.clock() - wall), rows / (process_time() - cpu)

    ways = ["batches", *options.admit.split(",")]
    rates(ways[0], min(options.images, 16))  # a warm-up
    repeats = [{way: rates(way, options.images) for way in ways} for _ in range(options.repeats)]
    rows = options.images * options.questions
    for name, index in (("items_per_second", 0), ("items_per_cpu_second", 1)):
        found = {way: round(median(each[way][index] for each in repeats), 3) for way in ways}
        print(json.dumps({"rows": rows, "questions": options.questions, name: found}))


if __name__ == "__main__":
    main()
