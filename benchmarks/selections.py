"""Figures of kept tokens, that the notes' thresholds are chosen by: python -m benchmarks.selections

The demo model looks at development scenes, the samples, and scenes in one part of an empty picture.
Profiles and methods are run; choices made to be bad are taken from the encoder's tokens. Prints
Markdown: means over the pictures, and behind them the worst picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import torch  # noqa: E402  (after the CPU's settings)
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from sts_cli.checkpoints.sources import find  # noqa: E402
from sts_cli.engine.engine import Engine  # noqa: E402
from sts_cli.engine.looks import Looks, look, unit  # noqa: E402
from sts_cli.families.default import Encoded, Prompt  # noqa: E402
from sts_cli.loading.model import load  # noqa: E402
from sts_cli.profile import Cut, Profile  # noqa: E402
from sts_cli.profile_files import load_profile  # noqa: E402
from sts_cli.records import Look  # noqa: E402
from sts_cli.scenes.drawing import draw  # noqa: E402
from sts_cli.scenes.suite import DEVELOPMENT  # noqa: E402

SHIPPED = ("gentle", "balanced", "aggressive", "extreme", "random", "grid")
COUNTS = (32, 64, 128, 192)
SIDE = 336  # pixels
QUESTION = "what is in the image?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=24)
    options = parser.parse_args()
    engine = Engine(load(find("demo"), device="cpu", dtype="float32"))
    print("| choice | cut | pictures | kept | cosine | of all | rank | uncovered | low | right |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    profiles = [load_profile(name) for name in SHIPPED]
    for count in COUNTS:
        cuts = [Cut("repulsion", count), Cut("random", count), Cut("instruction", count, 0.5)]
        profiles += [Profile(f"{cut.method} {count}", cuts=(cut,)) for cut in cuts]
    for name, pictures in sets(options.scenes).items():
        pixels = [engine.family.pixels(picture) for picture in pictures]
        encoded, _ = engine.encode(pixels)
        for profile in profiles:
            for number, looks in enumerate(run(engine, encoded, profile)):
                print(line(profile.name, number, name, looks), flush=True)
        for title, choose in BAD.items() if name == "scenes" else ():
            for count in COUNTS:
                looks = [bad(image, choose, count) for image in encoded]
                print(line(f"{title} {count}", 0, name, looks), flush=True)


def sets(scenes: int) -> dict[str, list[Image.Image]]:
    """The pictures."""
    drawn = [draw(DEVELOPMENT + seed, 0.5).image for seed in range(scenes)]
    folder = Path(__file__).parents[1] / "samples"
    return {
        "scenes": drawn,
        "samples": [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.*g"))],
        "lower half": [inside(scene, (0, SIDE // 2, SIDE, SIDE)) for scene in drawn[:8]],
        "corner": [inside(scene, (210, 210, 330, 330)) for scene in drawn[:8]],
    }


def inside(scene: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A scene in the `box` (left, top, right, bottom) of a plain picture."""
    picture = Image.new("RGB", (SIDE, SIDE), "skyblue")
    picture.paste(scene.resize((box[2] - box[0], box[3] - box[1])), box)
    return picture


def run(engine: Engine, images: Sequence[Encoded], profile: Profile) -> list[list[Look]]:
    """The looks at each cut of a profile, at every image."""
    found = []
    for image in images:
        ids = engine.family.tokenize(QUESTION, [image.pixels])
        prompt = Prompt(ids, (image,))
        found += engine.generate([prompt], profile, max_new_tokens=1, looks=Looks())
    return [list(looks) for looks in zip(*(one.looks for one in found), strict=True)]


def bad(image: Encoded, choose: Callable[[Encoded, int], Tensor], count: int) -> Look:
    """The look at a choice among an image's tokens."""
    keep = choose(image, count)
    return look(image.features, image.features[keep], image.grid, image.grid[keep])


def most_alike(image: Encoded, count: int) -> Tensor:
    """The tokens nearest to the one that has the nearest ones."""
    cosines = unit(image.features) @ unit(image.features).T
    middle = cosines.topk(count).values.mean(1).argmax()
    return cosines[middle].topk(count).indices


def most_usual(image: Encoded, count: int) -> Tensor:
    """The tokens nearest to the one that is most like all others."""
    cosines = unit(image.features) @ unit(image.features).T
    return cosines[cosines.mean(1).argmax()].topk(count).indices


def bottom(image: Encoded, count: int) -> Tensor:
    return torch.arange(len(image.features))[-count:]


def longest(image: Encoded, count: int) -> Tensor:
    """The tokens of the largest norm."""
    return image.features.norm(dim=1).topk(count).indices


BAD = {
    "most alike": most_alike,
    "most usual": most_usual,
    "bottom": bottom,
    "largest norm": longest,
}


def line(choice: str, cut: int, pictures: str, looks: Sequence[Look]) -> str:
    """A row of the table."""

    def both(name: str, worst: Callable[[list[float]], float], digits: int = 2) -> str:
        values = [getattr(one, name) for one in looks]
        return f"{sum(values) / len(values):.{digits}f} ({worst(values):.{digits}f})"

    cells = (
        str(looks[0].kept),
        both("alike", max),
        both("alike_before", min),
        both("rank", min),
        both("bare", max),
        both("row", lambda values: max(values, key=abs)),
        both("column", lambda values: max(values, key=abs)),
    )
    return f"| {choice} | {cut + 1} | {pictures} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
