"""Tests of `sts batch` under faults: kill -9 at random moments, damaged images, many rows.

    python -m benchmarks.reliability kills --model FOLDER --kills 200 --rows 2000
    python -m benchmarks.reliability images --count 5000
    python -m benchmarks.reliability memory --model FOLDER --rows 100000

Each prints one JSON line. `kills` starts the command, kills it after a random time and starts it
again, until there are enough kills. Then the command finishes, and its file is compared with that
of a run without kills. A resumed run puts other rows together into a batch. In bfloat16 this may
change an answer where two words are nearly equally likely; in float32 it should change none. Each
run is forked from a process that has already imported torch, which saves seconds; the kills are
real.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "images", "memory"])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", help="as of sts batch; for kills and memory")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STS_MODEL"] = options.model
        figures = {"kills": kills, "images": images, "memory": memory}[options.what](
            Path(folder), options, rng
        )
    print(json.dumps({"what": options.what, **figures}))


def questions(folder: Path, rows: int) -> Path:
    """Write a question file about 20 pictures; one row in 50 names a missing picture."""
    for number in range(20):
        Image.new("RGB", (60, 40), (12 * number, 90, 200)).save(folder / f"{number}.png")
    path = folder / "questions.jsonl"
    with path.open("w") as file:
        for number in range(rows):
            name = "gone.png" if number % 50 == 49 else f"{number % 20}.png"
            file.write(json.dumps({"image": name, "question": f"what is {number}?"}) + "\n")
    return path


def command(rows: Path, out: Path, dtype: str) -> list[str]:
    options = ["--max-new-tokens", "2", "--batch-size", "16", "--dtype", dtype, "--quiet"]
    return ["batch", str(rows), "--out", str(out), *options]


def forked(arguments: list[str]) -> int:
    """Start `sts` in a fork of this process; returns its process id."""
    child = os.fork()
    if child:
        return child
    sys.argv = ["sts", *arguments]
    from sts_cli.__main__ import main as sts

    try:
        sts()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    os._exit(0)


def kills(folder: Path, options: Any, rng: random.Random) -> dict[str, Any]:
    """Figures after `options.kills` kills, with as many output files as needed."""
    from sts_cli.machine.runtime import settle_cpu

    settle_cpu()
    import sts_cli.engine.engine  # noqa: F401
    import sts_cli.loading.model  # noqa: F401

    rows = questions(folder, options.rows)
    undisturbed = folder / "whole.jsonl"
    started = time.monotonic()
    process = forked(command(rows, undisturbed, options.dtype))
    os.waitpid(process, 0)
    longest = time.monotonic() - started
    expected = comparable(undisturbed)
    done = files = lost = doubled = crashes = torn = 0
    differing: Counter[str] = Counter()
    while done < options.kills:
        out = folder / f"{files}.jsonl"
        files += 1
        ended = False
        while not ended:
            process = forked(command(rows, out, options.dtype))
            if done < options.kills:
                time.sleep(rng.uniform(0, longest / 3))
            ended, status = wait_or_kill(process, kill=done < options.kills)
            if not ended:
                done += 1
                torn += out.exists() and not out.read_bytes().endswith(b"\n")
            elif status not in (0, 1):
                crashes += 1
        rows_written = comparable(out)
        ids = [row["id"] for row in rows_written]
        lost += len(expected) - len(set(ids))
        doubled += len(ids) - len(set(ids))
        for row, same in zip(rows_written, expected, strict=False):
            differing.update(name for name in same if row.get(name) != same[name])
    return {
        "kills": done,
        "rows": options.rows,
        "files": files,
        "torn_lines_mended": torn,
        "rows_lost": lost,
        "rows_doubled": doubled,
        "rows_different": dict(differing),  # in which field
        "crashes": crashes,
    }


def wait_or_kill(process: int, kill: bool) -> tuple[bool, int]:
    """Kill a process or wait for it. Returns True if it ended by itself, and its exit code."""
    if kill:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return not os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)


def comparable(path: Path) -> list[dict[str, Any]]:
    """The rows of a file without the fields that differ between runs."""
    rows = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return [{k: row[k] for k in row if k not in ("seconds", "rows")} for row in rows]


def images(folder: Path, options: Any, rng: random.Random) -> dict[str, Any]:
    """Figures after decoding damaged files of every format that Pillow can write here."""
    from sts_cli.inputs.images import decode_ahead
    from sts_cli.inputs.picture import settle_pillow
    from sts_cli.records import Item

    settle_pillow()
    seeds: dict[str, bytes] = {}
    for name in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1", "P", "RGBA"):
            file = io.BytesIO()
            try:
                Image.effect_mandelbrot((48, 48), (-2, -1, 1, 1), 20).convert(mode).save(file, name)
            except Exception:  # this format does not take this mode
                continue
            seeds[f"{name}-{mode}"] = file.getvalue()

    def rows() -> Any:
        names = sorted(seeds)
        for number in range(options.count):
            name = names[number % len(names)]
            path = folder / f"{number}.{name.split('-')[0].lower()}"
            path.write_bytes(damaged(seeds[name], rng))
            yield Item(str(number), (path.name,), "?", folder)

    kinds: dict[str, int] = {}
    order = 0
    for number, ready in enumerate(decode_ahead(rows())):
        order += ready.item.id != str(number)
        problem = ready.item.problem
        kind = "decoded" if problem is None else problem.kind
        kinds[kind] = kinds.get(kind, 0) + 1
    return {
        "files": options.count,
        "formats": len({name.split("-")[0] for name in seeds}),
        **kinds,
        "lost": options.count - sum(kinds.values()),
        "out_of_order": order,
        "crashes": 0,  # after a crash, this line is not reached
    }


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data cut short, or with flipped bits, zeros, noise or a doubled part; or no data."""
    changed = bytearray(data)
    place = rng.randrange(len(changed))
    length = rng.randrange(1, 200)
    kind = rng.randrange(6)
    if kind == 0:
        del changed[place:]
    elif kind == 1:
        for _ in range(rng.randrange(1, 30)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        changed[place : place + length] = bytes(length)
    elif kind == 3:
        changed[place : place + length] = rng.randbytes(length)
    elif kind == 4:
        changed[place:place] = changed[place : place + length]
    return bytes(changed) if kind < 5 else b""


def memory(folder: Path, options: Any, rng: random.Random) -> dict[str, Any]:
    """Resident memory after the first thousand rows, and the most after that."""
    rows = questions(folder, options.rows)
    out = folder / "out.jsonl"
    started = time.monotonic()
    process = forked(command(rows, out, options.dtype))
    early = peak = 0
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        time.sleep(0.5)
        resident_bytes = resident(process)
        peak = max(peak, resident_bytes) if early else 0  # loading a model takes more for a moment
        if not early and out.exists() and out.read_bytes().count(b"\n") > 1000:
            early = resident_bytes
    return {
        "rows": options.rows,
        "seconds": round(time.monotonic() - started, 1),
        "mb_after_1000": early >> 20,
        "mb_highest": peak >> 20,
        "growth_mb": (peak - early) >> 20,
    }


def resident(process: int) -> int:
    """The resident memory of a process in bytes."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
