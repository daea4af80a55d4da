"""`sts` beside other engines: the same weights, images, questions and numbers of tokens, one run.

    PYTHON=.venv/bin/python bash benchmarks/peers.sh FOLDER    # once
    python -m benchmarks.peers FOLDER --repeats 7
    python -m benchmarks.peers FOLDER/qwen --prune 0,89 --only sts,GenAI    # GenAI prunes, too

Seconds from an image's path to the end of its answers, greedy: reading and preparing the image is
inside, loading the model is not. Each engine is a process (peer_servers.py); all are loaded first,
then one works at a time. Each question has a new image, the same for all contestants, whose order
rotates. Medians with 10th and 90th percentiles; `ratio` is the fastest peer's median by one's own;
`token` is each further token; `prompt` is the tokens that a layer sees on average. A table goes to
stderr, one JSON line to stdout. Weights are random: nothing here is about answers. An engine that
cannot start is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from PIL import Image

from sts_cli.machine.hardware import cpu_name

HERE = Path(__file__).resolve().parent
WAYS = "openvino/float32/int8,openvino/bfloat16/int8,openvino/bfloat16/none"
PEERS = {  # engine -> name, variants
    "transformers": ("transformers", ("float32", "bfloat16")),
    "genai": ("OpenVINO GenAI", ("int8", "int4")),
    "llama": ("llama.cpp", ("Q8_0", "Q4_K_M")),
}


def start(folder: Path, threads: int, hint: str, engine: str, variant: str) -> tuple[Any, str]:
    """An engine, loaded, and its version. Raises OSError with the reason if it cannot start."""
    python = folder / "openvino-venv/bin/python" if engine == "genai" else sys.executable
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}  # others wait
    settings |= {"STS_CACHE": str(folder / "sts-cache"), "HF_HUB_OFFLINE": "1"}
    settings["GENAI_HINT"] = hint
    settings["PYTHONPATH"] = "" if engine == "genai" else str(HERE.parent)
    command = [str(python), str(HERE / "peer_servers.py"), engine, str(folder), variant]
    log = folder / f"{engine}-{variant.replace('/', '-')}.log"
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("w")}
    server: Any = subprocess.Popen(command, text=True, env={**os.environ, **settings}, **pipes)
    about = server.stdout.readline()
    if not about:
        raise OSError(f"{(log.read_text().splitlines() or ['it ended'])[-1]} ({log})")
    return server, json.loads(about)


def ask(server: Any, name: str, image: str, new: int, **how: Any) -> tuple[float, int | None]:
    """Seconds of the questions; tokens of a prompt, if the engine tells them."""
    started = time.perf_counter()
    question = {"image": image, "new": new, **how}
    print(json.dumps(question), file=server.stdin, flush=True)
    told = json.loads(server.stdout.readline())
    seconds = time.perf_counter() - started
    if told and told[1] != new:
        raise SystemExit(f"{name}: {told[1]} new tokens, not {new}.")
    return seconds, told[0] if told else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="that peers.sh filled")
    parser.add_argument("--ways", default=WAYS, help="of sts: BACKEND/DTYPE/WEIGHTS")
    parser.add_argument("--profiles", default="off,aggressive")
    parser.add_argument("--prune", default="0", help="percents that OpenVINO GenAI drops")
    parser.add_argument("--new", default="8,64", help="numbers of new tokens")
    parser.add_argument("--hint", default="", help="precision of OpenVINO GenAI, such as f32")
    parser.add_argument("--questions", type=int, default=1, help="about each image")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="contestants with one of these in their name")
    wish = parser.parse_args()
    new = [int(count) for count in wish.new.split(",")]
    sts = product(wish.ways.split(","), wish.profiles.split(","))
    every = [(f"sts {way} {profile}", "sts", way, profile) for way, profile in sts]
    for engine, (name, variants) in PEERS.items():
        for v, part in product(variants, wish.prune.split(",") if engine == "genai" else ["0"]):
            every.append((f"{name} {v}" + (part != "0") * f" -{part}%", engine, v, part))
    servers: dict[tuple[str, str], Any] = {}
    versions, ready, left_out = {}, [], {}
    for one in every:
        name, engine, variant, _ = one
        if not any(part in name for part in wish.only.split(",")):
            continue
        try:
            for key in {server_for(engine, variant, count) for count in new} - servers.keys():
                server, versions[engine] = start(
                    wish.folder.resolve(), wish.threads, wish.hint, *key
                )
                servers[key] = server
            ready.append(one)
        except OSError as error:
            left_out[name] = str(error)
            print(f"{name} is left out: {error}", file=sys.stderr)
    times: dict[str, dict[int, list[float]]] = {one[0]: {n: [] for n in new} for one in ready}
    table: dict[str, dict[str, Any]] = {one[0]: {} for one in ready}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(wish.repeats + 1):  # the first is the warm-up
            images = {count: f"{folder}/{repeat}-{count}.png" for count in new}
            for image in images.values():
                Image.effect_noise((640, 480), 80).convert("RGB").save(image)
            turn = repeat % len(ready)
            for name, engine, variant, profile in [*ready[turn:], *ready[:turn]]:
                for count, image in images.items():
                    server = servers[server_for(engine, variant, count)]
                    how = {"profile": profile, "questions": wish.questions}  # or GenAI's percent
                    seconds, table[name]["prompt"] = ask(server, name, image, count, **how)
                    times[name][count] += [seconds] * (repeat > 0)
    for server in servers.values():
        server.kill()
    for name, row in table.items():
        for count, runs in times[name].items():
            peers = [median(times[o][count]) for o in times if not o.startswith("sts ")]
            tenths = quantiles(runs, n=10, method="inclusive") if len(runs) > 1 else runs * 9
            row |= {str(count): median(runs), f"{count} p10": tenths[0], f"{count} p90": tenths[-1]}
            row[f"{count} ratio"] = min(peers, default=0) / median(runs)
        row["token"] = (row[str(new[-1])] - row[str(new[0])]) / max(1, new[-1] - new[0])
    columns = list(table[ready[0][0]])
    print(" " * 36 + "".join(f"{column:>9}" for column in columns), file=sys.stderr)
    for name, row in table.items():
        cells = "".join(f"{'' if row[c] is None else round(row[c], 4):>9}" for c in columns)
        print(f"{name:36}{cells}", file=sys.stderr)
    facts = {"cpu": cpu_name(), "versions": versions, "left_out": left_out, "results": table}
    print(json.dumps({"benchmark": "peers", **vars(wish), "folder": str(wish.folder), **facts}))


def server_for(engine: str, variant: str, new: int) -> tuple[str, str]:
    """The server that answers: llama.cpp needs one for each number of new tokens."""
    return engine, f"{variant}/{new}" if engine == "llama" else variant


if __name__ == "__main__":
    main()
