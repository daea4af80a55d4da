"""`sts` beside other engines: the same weights, images, questions and numbers of tokens, one run.

    PYTHON=.venv/bin/python bash benchmarks/peers.sh FOLDER    # once
    python -m benchmarks.peers FOLDER --repeats 7

Seconds from an image's path to the end of its answer, greedy: reading and preparing the image is
inside, loading the model is not. Each engine is a process (peer_servers.py); all are loaded first,
then one works at a time. Each question has a new image, the same for all contestants, whose order
rotates. Medians with 10th and 90th percentiles; `ratio` is the fastest peer's median by one's own;
`token` is each further token. A table goes to stderr, one JSON line to stdout. Weights are random:
nothing here is about answers. An engine that cannot start is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from PIL import Image

from sts_cli.machine.hardware import cpu_features, cpu_name

HERE = Path(__file__).resolve().parent
WAYS = "openvino/float32/int8,openvino/bfloat16/int8,openvino/bfloat16/none"
Times = dict[str, dict[int, list[float]]]  # by contestant and number of new tokens


class Contestant(NamedTuple):
    name: str
    engine: str
    variant: str
    profile: str
    new: tuple[int, ...]


def contestants(ways: str, profiles: str, new: tuple[int, ...]) -> Iterator[Contestant]:
    for way in ways.split(","):
        for profile in profiles.split(","):
            yield Contestant(f"sts {way} {profile}", "sts", way, profile, new)
    for dtype in ("float32", "bfloat16"):
        yield Contestant(f"transformers {dtype}", "transformers", dtype, "", new)
    for weights in ("int8", "int4"):
        yield Contestant(f"OpenVINO GenAI {weights}", "genai", weights, "", new)
    for weights in ("Q8_0", "Q4_K_M"):
        for count in new:
            yield Contestant(f"llama.cpp {weights}", "llama", f"{weights}/{count}", "", (count,))


def start(one: Contestant, folder: Path, threads: int) -> tuple[Any, str]:
    """A contestant's engine, loaded, and its version. Raises OSError with the reason if not."""
    python = folder / "openvino-venv/bin/python" if one.engine == "genai" else sys.executable
    environment = {
        **os.environ,
        "PYTHONPATH": "" if one.engine == "genai" else str(HERE.parent),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # engines that wait leave the cores to the one that works
        "STS_CACHE": str(folder / "sts-cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(python), str(HERE / "peer_servers.py"), one.engine, str(folder), one.variant]
    log = folder / f"{one.engine}-{one.variant.replace('/', '-')}.log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with log.open("w") as stderr:
        server = subprocess.Popen(command, stderr=stderr, env=environment, **pipes)
    about = server.stdout.readline()
    if not about:
        raise OSError(f"{(log.read_text().splitlines() or ['it ended'])[-1]} ({log})")
    return server, json.loads(about)


def ask(server: Any, image: str, new: int, profile: str) -> tuple[float, list[int]]:
    """Seconds of a question; tokens of its prompt and its answer, if the engine tells them."""
    started = time.perf_counter()
    print(
        json.dumps({"image": image, "new": new, "profile": profile}), file=server.stdin, flush=True
    )
    told = json.loads(server.stdout.readline())
    return time.perf_counter() - started, told


def run(ready: list[Contestant], servers: dict[str, Any], repeats: int) -> tuple[Times, dict]:
    """Seconds of every question, and the prompt's tokens by contestant."""
    times: Times = {one.name: {} for one in ready}
    prompt: dict[str, int | None] = {}
    with tempfile.TemporaryDirectory() as images:
        for repeat in range(repeats + 1):  # the first is the warm-up
            for count in {count for one in ready for count in one.new}:
                noise = Image.effect_noise((640, 480), 80).convert("RGB")
                noise.save(f"{images}/{repeat}-{count}.png")
            turn = repeat % len(ready)
            for one in [*ready[turn:], *ready[:turn]]:
                for count in one.new:
                    path = f"{images}/{repeat}-{count}.png"
                    seconds, told = ask(servers[one.variant], path, count, one.profile)
                    if told and told[1] != count:
                        raise SystemExit(f"{one.name}: {told[1]} new tokens, not {count}.")
                    prompt[one.name] = told[0] if told else None
                    if repeat:
                        times[one.name].setdefault(count, []).append(seconds)
    return times, prompt


def summary(times: Times, prompt: dict) -> dict[str, dict[str, Any]]:
    """A row of figures for each contestant."""
    medians = {name: {n: median(runs[n]) for n in runs} for name, runs in times.items()}
    table: dict[str, dict[str, Any]] = {}
    for name, own in medians.items():
        row = table[name] = {"prompt": prompt[name]}
        for count, middle in own.items():
            runs = times[name][count]
            tenths = quantiles(runs, n=10, method="inclusive") if len(runs) > 1 else runs * 9
            peers = [m[count] for other, m in medians.items() if not other.startswith("sts ")]
            row[f"{count}"], row[f"{count} p10"] = round(middle, 3), round(tenths[0], 3)
            row[f"{count} p90"] = round(tenths[-1], 3)
            row[f"{count} ratio"] = round(min(peers) / middle, 2) if peers else None
        few, many = min(own), max(own)
        row["token"] = round((own[many] - own[few]) / (many - few), 4) if many > few else None
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="that peers.sh filled")
    parser.add_argument("--ways", default=WAYS, help="of sts: BACKEND/DTYPE/WEIGHTS")
    parser.add_argument("--profiles", default="off,aggressive")
    parser.add_argument("--new", default="8,64", help="numbers of new tokens")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="contestants with this in their name")
    wish = parser.parse_args()
    new = tuple(int(count) for count in wish.new.split(","))
    servers, versions, ready, left_out = {}, {}, [], {}
    for one in contestants(wish.ways, wish.profiles, new):
        if wish.only in one.name and one.name not in left_out:
            try:
                if one.variant not in servers:
                    server, versions[one.engine] = start(one, wish.folder.resolve(), wish.threads)
                    servers[one.variant] = server
                ready.append(one)
            except OSError as error:
                left_out[one.name] = str(error)
                print(f"{one.name} is left out: {error}", file=sys.stderr)
    table = summary(*run(ready, servers, wish.repeats))
    for server in servers.values():
        server.kill()
    columns = list(table[ready[0].name])
    print(" " * 36 + "".join(f"{name:>9}" for name in columns), file=sys.stderr)
    for name, row in table.items():
        cells = ("" if row[column] is None else row[column] for column in columns)
        print(f"{name:36}" + "".join(f"{cell!s:>9}" for cell in cells), file=sys.stderr)
    facts = {"cpu": cpu_name(), "features": cpu_features(), "versions": versions}
    wishes = {**vars(wish), "folder": str(wish.folder), "left_out": left_out}
    print(json.dumps({"benchmark": "peers", **wishes, **facts, "results": table}))


if __name__ == "__main__":
    main()
