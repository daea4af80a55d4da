"""Two nodes of Ray on this machine: an actor and a node die, and the rows stay equal.

    python -m benchmarks.cluster            # 2,000 rows of the demo model
    python -m benchmarks.cluster --command  # what the command itself does for a row, without Ray

The nodes are processes of their own, with one core each. First a run with an actor that is killed
(kill -9) and a node that is stopped, then undisturbed ones with two actors and with one, and the
plain run beside them, in float32 with one thread each. Exit code 1 if a row differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sts_cli.cli.ray import Taking
from sts_cli.cluster.answerer import Answered, light
from sts_cli.cluster.blocks import Reading, rows_for
from sts_cli.outputs.jsonl import JsonLines
from sts_cli.outputs.shards import Shards
from sts_cli.records import Answer, Seconds, TokenCounts
from sts_cli.report.console import Report
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import KINDS
from sts_cli.scenes.questions import questions as questions_about
from sts_cli.scenes.suite import HELD_OUT

ROOT = Path(__file__).parents[1]
STORE = 150_000_000  # bytes of shared memory of a node
ACTOR = "ray::MapWorker"  # how the process of an actor is called
EXACT = ("--dtype", "float32", "--backend", "torch", "--profile", "aggressive")
PER_NODE = ("--ray-cpus", "1")
COUNTS = TokenCounts(576, (70, 58), 64.0, 20, 6)
APART = ("seconds", "rows", "certainty")  # what differs from run to run


class Nodes:
    """A Ray cluster of processes on this machine, with a token and folders of its own."""

    def __init__(self, **environment: str):
        self.folder = Path(tempfile.mkdtemp(prefix="sts-ray-"))  # short: it holds sockets
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "1000",  # of Ray's head: a dead node is missed in seconds
            **environment,
        }

    def __enter__(self) -> Nodes:
        self.start("--head", f"--port={self.port}", "--include-dashboard=false",
                   f"--temp-dir={self.folder}")  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            self.stop(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, **environment: str) -> subprocess.Popen[bytes]:
        """A node more."""
        return self.start(f"--address={self.address}", **environment)

    def start(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"node-{len(self.nodes)}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options,
                   "--num-cpus=1", f"--object-store-memory={STORE}"]  # fmt: skip
        with log.open("wb") as out:
            node = subprocess.Popen(
                command, stdout=out, stderr=out, env={**self.environment, **environment}
            )
        self.nodes.append(node)
        wait_until(lambda: b"Ray runtime started" in log.read_bytes(), f"a node: {log}", node)
        return node

    def stop(self, node: subprocess.Popen[bytes]) -> None:
        """Stop a node, and all that it started."""
        started = below(node.pid)
        node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(20)
        self.kill(node, started)

    def kill(self, node: subprocess.Popen[bytes], started: Sequence[int] = ()) -> None:
        """Let a node and all that it started die at once, as if its power were cut."""
        for process in (*below(node.pid), *started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        node.kill()
        node.wait()

    def actors(self, node: subprocess.Popen[bytes]) -> list[int]:
        """The processes of a node that hold a model."""
        return [process for process in below(node.pid) if ACTOR in called(process)]

    def sts(self, *arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
        """A run of `sts` that is a part of the cluster."""
        return subprocess.Popen(
            [sys.executable, "-m", "sts_cli", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=cwd,
            preexec_fn=hears_ctrl_c,
        )


def hears_ctrl_c() -> None:
    """As in a terminal, even where the run itself is in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def called(process: int) -> str:
    """The command line of a process; nothing once it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text("utf-8", "replace")
    return ""


def below(process: int) -> list[int]:
    """The processes that a process started, and those that they did (Linux)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *below(child)]
    return found


def wait_until(
    true: Callable[[], object], what: str, process: subprocess.Popen[Any], seconds: float = 300
) -> None:
    """Until something is so. Raises RuntimeError if the process ends before, or after a time."""
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.05)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def rows_in(*paths: Path) -> list[dict[str, Any]]:
    """The rows of files, by id, without what differs from run to run."""
    rows = [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
    kept = [{key: row[key] for key in row if key not in APART} for row in rows]
    return sorted(kept, key=lambda row: str(row["id"]))


def write_questions(folder: Path, count: int) -> Path:
    """A file of `count` questions about drawn scenes, several an image, and one image missing."""
    rows: list[dict[str, Any]] = [{"id": "gone", "image": "gone.png", "question": "what is this?"}]
    seed = 0
    while len(rows) < count:
        scene = draw(HELD_OUT + seed, level=0.5)
        scene.image.save(folder / f"{seed}.png")
        for one in questions_about(scene, random.Random(seed), tuple(KINDS)):
            rows.append(
                {"id": f"{seed}-{one.kind}", "image": f"{seed}.png", "question": one.question}
            )
        seed += 1
    place = folder / "questions.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]), "utf-8")
    return place


def disturbed(
    nodes: Nodes, worker: subprocess.Popen[bytes], out: Path, *arguments: object
) -> tuple[int, str]:
    """A run in which the actor of the head is killed, and then the worker's whole node.

    Its exit code, and what it said on standard error.
    """
    before = len(shards(out))
    run = nodes.sts(*arguments, "--out", out, "--ray", nodes.address)
    head = nodes.nodes[0]
    wait_until(lambda: len(shards(out)) > before and nodes.actors(head), "a first shard", run)
    before = len(shards(out))
    os.kill(nodes.actors(head)[0], signal.SIGKILL)
    wait_until(lambda: len(shards(out)) >= before + 2, "shards after the death of an actor", run)
    nodes.kill(worker)
    data, said = run.communicate(timeout=1800)
    if data:
        raise RuntimeError(f"on standard output: {data}")
    return run.returncode, said


def timed(run: subprocess.Popen[str]) -> float:
    """The items a second that a run tells at its end, from the first loaded model on."""
    _, said = run.communicate()
    found = re.search(r"([0-9.]+) items/s", said)
    if found is None:
        raise RuntimeError(said)
    return float(found[1])


def of_the_command(folder: Path, count: int) -> dict[str, float]:
    """Rows a CPU second that the command reads into blocks, and that it takes back."""
    place = folder / "questions.jsonl"
    with place.open("w") as lines:
        for number in range(count):
            row = {"id": number, "image": f"s3://photos/2026/11/{number}.jpg", "question": "what?"}
            lines.write(json.dumps(row) + "\n")
    reading = Reading((str(place),), None, None, str(folder), None, (1, 1), rows_for(count))
    started = time.process_time()
    packed = [pickle.dumps(block) for block in reading.blocks(frozenset())]
    read = count / (time.process_time() - started)
    seconds = Seconds(0.01, 0.01, 0.01, 0.01, 0.01, 0.05, 0.06)
    form, come = JsonLines(), []
    for block in map(pickle.loads, packed):
        given = tuple(
            Answer(item, "demo", "off", "an answer of a few words", COUNTS, seconds, finish="stop")
            for item in block.items
        )
        records = tuple(form.record(one) for one in given)
        lighter = tuple(light(one) for one in given)
        come.append(pickle.dumps(Answered(block.number, "float32, none", "x", lighter, records)))
    shards = Shards(folder / "out", form, {"model": "demo"}, reading.rows)
    taking = Taking(shards, Report(Console(quiet=True), count, quiet=True))
    started = time.process_time()
    for one in come:
        taking.take(pickle.loads(one))
    shards.close(complete=True)
    taken = count / (time.process_time() - started)
    size = sum(path.stat().st_size for path in (folder / "out").iterdir()) / count
    return {"rows read a CPU second": read, "rows taken a CPU second": taken, "bytes a row": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--command", action="store_true")
    rows, command = parser.parse_args().rows, parser.parse_args().command
    if command:
        with tempfile.TemporaryDirectory() as name:
            for what, figure in of_the_command(Path(name), max(rows, 100_000)).items():
                print(f"{what}: {figure:,.0f}")
        return
    with tempfile.TemporaryDirectory(prefix="sts-cluster-") as name, Nodes() as nodes:
        folder = Path(name)
        asked = ("batch", write_questions(folder, rows), *EXACT)
        paths = {one: folder / one for one in ("killed", "one", "two")}
        plain = folder / "plain.jsonl"
        code, said = disturbed(nodes, nodes.add(), paths["killed"], *asked, *PER_NODE)
        print(said)
        speed = {"plain run": timed(nodes.sts(*asked, "--out", plain, "--progress", "none"))}
        for actors, path in ((1, paths["one"]), (2, paths["two"])):
            if actors == 2:
                nodes.add()
            wished = ("--ray", nodes.address, *PER_NODE, "--ray-actors", actors)
            speed[f"{actors} actors"] = timed(nodes.sts(*asked, "--out", path, *wished))
        wanted = rows_in(plain)
        same = {one: rows_in(*shards(path)) == wanted for one, path in paths.items()}
    for one, rate in speed.items():
        print(f"{one}: {rate:.2f} items/s")
    for one, equal in same.items():
        print(f"{len(wanted)} rows, {one}: {'equal to' if equal else 'NOT'} those of the plain run")
    sys.exit(not all(same.values()) or code != 1)  # 1: the image that is missing


if __name__ == "__main__":
    main()
