"""The start of commands: wall and CPU seconds, median of repeats, files in the page cache.

    python benchmarks/startup.py --repeats 5

CPU seconds are those of all threads. On a busy machine only they can be compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

SIGN = str(Path(__file__).parents[1] / "samples" / "sign.png")
ASK = ("ask", SIGN, "what is on the sign?", "--backend")
COMMANDS = (("--help",), ("ask", "--help"), ("profiles",), (*ASK, "torch"), (*ASK, "openvino"))


def seconds(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of one run of `sts ARGUMENTS`."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "sts_cli", *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print("| command | wall s | CPU s |\n|---|---|---|")
    for arguments in COMMANDS:
        seconds(arguments)  # converts for OpenVINO, fills the page cache
        runs = [seconds(arguments) for _ in range(repeats)]
        wall, cpu = (median(values) for values in zip(*runs, strict=True))
        shown = " ".join(Path(word).name if word == SIGN else word for word in arguments)
        print(f"| sts {shown} | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
