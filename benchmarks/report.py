"""How long headless Chromium takes to open a report of many rows, and how much memory it took.

python -m benchmarks.report 10000
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import browser

from sts_cli.records import KeptTokens
from sts_cli.report.html import SIDE, Page

EVERY = tuple(((row + 0.5) / 24, (column + 0.5) / 24) for row in range(24) for column in range(24))
RUNS = 5


def main(count: int) -> None:
    """Write a report of `count` rows, each with a thumbnail of its own, and open it."""
    with tempfile.TemporaryDirectory() as folder:
        page = Page(Path(folder))
        sample = Image.open(Path(__file__).parents[1] / "samples" / "busy.jpg").resize((SIDE, 120))
        for number in range(count):
            noise = Image.effect_noise((SIDE, 120), 20).convert("RGB")
            image = Image.blend(sample, noise, 0.3)
            first = EVERY[number % 7 :: 8]
            page.row(
                id=str(number),
                question=f"what is in the picture {number}?",
                answers=[
                    {"name": "aggressive", "text": f"a sign that says {number}"},
                    {"name": "off", "text": f"a sign that says {number - number % 2}"},
                ],
                pictures=[page.picture(str(number), image)],
                images=[f"{number}.jpg"],
                kept=[KeptTokens(EVERY, (first, first[::3]))],
                differs=number % 20 == 1,
                kind="ab"[number % 2],
                facts=["576 -> 72 -> 24 visual tokens", "44 ms"],
            )
        path = Path(folder) / "report.html"
        with path.open("wb") as file:
            page.write(file, title="benchmark")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{count} rows: {path.stat().st_size / 1e6:.1f} MB, peak memory {peak:.0f} MB")
        with browser(Path(folder) / "profile") as one:
            seconds = []
            for _ in range(RUNS):
                started = perf_counter()
                one.open(path)
                one.run("document.querySelector('main img').decode()")
                seconds.append(perf_counter() - started)
            print(f"  complete with its first picture after {sorted(seconds)[RUNS // 2]:.2f} s")
            print(f"  (median of {RUNS}; from {min(seconds):.2f} to {max(seconds):.2f} s)")


if __name__ == "__main__":
    main(int(sys.argv[1]))
