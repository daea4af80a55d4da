"""`sts` beside other engines: the same weights, images, questions and numbers of tokens, one run.

    PYTHON=.venv/bin/python bash benchmarks/peers.sh FOLDER   # once
    python -m benchmarks.peers FOLDER --repeats 7

Seconds from the path of an image to the end of its answer, greedy: reading and preparing the image
is inside, loading the model is not. Every engine is a process of its own (peer_servers.py), all are
loaded before the first question, and one works at a time. Each repeat has new images, the same for
all contestants, whose order rotates. Medians with 10th and 90th percentiles; `ratio` is the fastest
peer's median by the contestant's (above 1: faster than every peer); `token` is the seconds of each
further token. A table goes to stderr, one JSON line to stdout. Weights are random: nothing here is
about answers. What peers.sh could not make is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from PIL import Image

from sts_cli.machine.hardware import cpu_features, cpu_name

HERE = Path(__file__).resolve().parent
WAYS = "openvino/float32/int8,openvino/bfloat16/int8,openvino/bfloat16/none"
GENERATE = ("float32", "bfloat16")
GENAI = ("int8", "int4")
LLAMA = ("Q8_0", "Q4_K_M")


@dataclass(frozen=True)
class Contestant:
    """What is timed: an engine's variant under a profile, for some numbers of new tokens."""

    name: str
    server: tuple[str, str]  # engine and variant
    profile: str
    new: tuple[int, ...]
    needs: tuple[str, ...] = ()  # files in the folder
    python: str = sys.executable


class Server:
    """A running engine."""

    def __init__(self, contestant: Contestant, folder: Path, threads: int):
        engine, variant = contestant.server
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent) if engine != "genai" else "",
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # so that the engines that wait leave the cores alone
            "STS_CACHE": str(folder / "sts-cache"),
            "HF_HUB_OFFLINE": "1",
        }
        with (folder / f"{engine}-{variant.replace('/', '-')}.log").open("w") as log:
            self.process = subprocess.Popen(
                [contestant.python, str(HERE / "peer_servers.py"), engine, str(folder), variant],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self.log = log.name

    def read(self) -> dict[str, Any]:
        """The next line. Raises RuntimeError if the engine ended."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"the engine ended; see {self.log}")
        read: dict[str, Any] = json.loads(line)
        return read

    def ask(self, image: str, new: int, profile: str) -> tuple[float, dict[str, int]]:
        """Seconds of one question, and its numbers of tokens."""
        question = json.dumps({"image": image, "new": new, "profile": profile})
        started = time.perf_counter()
        print(question, file=self.process.stdin, flush=True)
        answer = self.read()
        return time.perf_counter() - started, answer


def contestants(folder: Path, ways: list[str], profiles: list[str], new: tuple[int, ...]):
    """All contestants, those included that peers.sh could not make."""
    for way in ways:
        for profile in profiles:
            yield Contestant(f"sts {way} {profile}", ("sts", way), profile, new)
    for dtype in GENERATE:
        yield Contestant(f"transformers {dtype}", ("transformers", dtype), "", new)
    genai = str(folder / "openvino-venv/bin/python")
    for weights in GENAI:
        name, files = f"OpenVINO GenAI {weights}", (f"openvino-{weights}", "openvino-venv")
        yield Contestant(name, ("genai", weights), "", new, files, genai)
    for weights in LLAMA:
        files = (f"llama/{weights}.gguf", "llama.cpp/bin/llama-mtmd-cli")
        for count in new:
            server = ("llama", f"{weights}/{count}")
            yield Contestant(f"llama.cpp {weights}", server, "", (count,), files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="that peers.sh made")
    parser.add_argument("--ways", default=WAYS)
    parser.add_argument("--profiles", default="off,aggressive")
    parser.add_argument("--new", default="8,64", help="numbers of new tokens")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="contestants with this in their names")
    wish = parser.parse_args()
    folder, new = wish.folder.resolve(), tuple(int(count) for count in wish.new.split(","))
    servers: dict[tuple[str, str], Server] = {}
    versions: dict[str, str] = {}
    left_out: dict[str, str] = {}
    ready: list[Contestant] = []
    for one in contestants(folder, wish.ways.split(","), wish.profiles.split(","), new):
        if wish.only not in one.name or one.name in left_out:
            continue
        lacking = [name for name in one.needs if not (folder / name).exists()]
        try:
            if lacking:
                raise RuntimeError(f"peers.sh did not make {lacking[0]}")
            if one.server not in servers:
                servers[one.server] = Server(one, folder, wish.threads)
                versions[one.server[0]] = servers[one.server].read()["version"]
        except RuntimeError as error:
            left_out[one.name] = str(error)
            print(f"{one.name} is left out: {error}", file=sys.stderr)
        else:
            ready.append(one)
    seconds, tokens = run(ready, servers, wish.repeats)
    for server in servers.values():
        server.process.kill()
    table = summary(seconds, tokens)
    show(table)
    print(
        json.dumps(
            {
                "benchmark": "peers",
                "unit": "seconds per question, median",
                **vars(wish),
                "folder": str(folder),
                "cpu": cpu_name(),
                "features": cpu_features(),
                "versions": versions,
                "left_out": left_out,
                "results": table,
            }
        )
    )


Times = dict[str, dict[int, list[float]]]  # by contestant and number of new tokens


def run(
    ready: list[Contestant], servers: dict[tuple[str, str], Server], repeats: int
) -> tuple[Times, dict[str, dict[str, int]]]:
    """Seconds of every question, and the numbers of tokens that each contestant told last."""
    seconds: Times = {one.name: {} for one in ready}
    tokens: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as images:
        for repeat in range(repeats + 1):  # the first is the warm-up
            for seed, count in enumerate({count: 0 for one in ready for count in one.new}):
                noise = Image.effect_noise((640, 480), 80 + 2 * repeat + seed).convert("RGB")
                noise.save(f"{images}/{repeat}-{count}.png")
            turn = repeat % max(1, len(ready))
            for one in [*ready[turn:], *ready[:turn]]:
                for count in one.new:
                    path = f"{images}/{repeat}-{count}.png"
                    took, told = servers[one.server].ask(path, count, one.profile)
                    if told and told["new"] != count:
                        raise SystemExit(f"{one.name}: {told['new']} new tokens, not {count}.")
                    tokens[one.name] = told
                    if repeat:
                        seconds[one.name].setdefault(count, []).append(took)
    return seconds, tokens


def summary(seconds: Times, tokens: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """A row for each contestant, its figures by number of new tokens."""
    medians = {
        name: {count: median(times) for count, times in runs.items()}
        for name, runs in seconds.items()
    }
    table: dict[str, dict[str, Any]] = {}
    for name, runs in seconds.items():
        row: dict[str, Any] = {"prompt": tokens[name].get("prompt")}
        for count, times in runs.items():
            peers = [row[count] for other, row in medians.items() if not other.startswith("sts ")]
            tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else times * 9
            row[str(count)] = round(medians[name][count], 4)
            row[f"{count} p10"], row[f"{count} p90"] = round(tenths[0], 4), round(tenths[-1], 4)
            row[f"{count} ratio"] = round(min(peers) / medians[name][count], 2) if peers else None
        few, many = min(runs), max(runs)
        gap = medians[name][many] - medians[name][few]
        row["token"] = round(gap / (many - few), 4) if many > few else None
        table[name] = row
    return table


def show(table: dict[str, dict[str, Any]]) -> None:
    """The table on stderr."""
    columns = list(next(iter(table.values()), {}))
    width = max((len(name) for name in table), default=0)
    print(" " * width + "".join(f"{name:>10}" for name in columns), file=sys.stderr)
    for name, row in table.items():
        cells = ("" if row[column] is None else row[column] for column in columns)
        print(f"{name:{width}}" + "".join(f"{cell!s:>10}" for cell in cells), file=sys.stderr)


if __name__ == "__main__":
    main()
