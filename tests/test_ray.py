"""A real Ray: two nodes as processes on this machine, actors that are killed, a node that stops.

`python -m benchmarks.cluster` is the same on 2,000 rows, with speed. One test, since every process
of pytest-xdist would start a cluster of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import process, read_rows, sts

from benchmarks.cluster import (
    EXACT,
    PER_NODE,
    Nodes,
    disturbed,
    free_port,
    rows_in,
    shards,
    wait_until,
    write_questions,
)

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra ray"
)
needs_moto = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="needs moto[server]"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
PACKAGE = Path(__file__).parents[1] / "sts_cli"
ROWS = 140
SHORT = (*EXACT, *PER_NODE, "--max-new-tokens", "4")


@needs_ray
def test_what_asks_for_a_cluster_that_was_left_starts_none():
    code = "import sts_cli.cluster.ray, ray; print(ray.is_initialized()); ray.put(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.stdout == "False\n"
    assert "Ray has not been started yet" in done.stderr


@needs_ray
@needs_moto
@linux
def test_a_cluster_gives_the_rows_of_one_machine_whatever_dies(tmp_path: Path):
    from moto.server import ThreadedMotoServer

    questions, out, plain = write_questions(tmp_path, ROWS), tmp_path / "out", tmp_path / "p.jsonl"
    asked = ("batch", questions, *SHORT)
    store = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    store.start()
    on_store(questions, store.get_host_and_port())
    host, port = store.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    place = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    with Nodes(**keys, **place) as nodes:
        refused(nodes, tmp_path, *asked)
        worker = nodes.add()
        code, said, ours = interrupted(nodes, out, *asked)
        assert code == 130 and "Stopped; run the same command again to continue." in said
        begun = {one: one.read_bytes() for one in ours}
        count = sum(text.count(b"\n") for text in begun.values())
        told = re.search(r"^(\d+) answered(?:; (\d+) with errors)?", said, re.M)
        assert told is not None and sum(int(one or 0) for one in told.groups()) == count > 0
        code, said = disturbed(nodes, worker, out, *asked)
        assert code == 1, said  # an image is missing
        assert "Ray: 2 actors of 1 CPU, on up to 2 nodes" in said
        assert "Going on with 1 actor of 1 CPU, on up to 1 node" in said
        assert f"{count} answered before" in said and f"Wrote {out}.\n" in said
        assert {one: one.read_bytes() for one in ours} == begun
    store.stop()
    code = sts("batch", questions, *EXACT, "--max-new-tokens", 4, "--out", plain).code
    assert code == 1
    found, wanted = rows_in(*shards(out)), rows_in(plain)
    local = [row for row in found if not row["id"].startswith("s3")]
    assert local == [row for row in wanted if not row["id"].startswith("s3")]
    assert len(found) == ROWS + 2
    answers = {row["id"]: row["answer"] for row in found}
    kinds = {row["id"]: row["error"] and row["error"]["kind"] for row in found}
    twin = next(name for name in answers if name.startswith("s3-0-")).removeprefix("s3-")
    assert answers[f"s3-{twin}"] == answers[twin] is not None
    assert kinds["s3-gone"] == kinds["gone"] == "image_missing"
    again = process(*asked, "--out", out, "--ray", f"127.0.0.1:{free_port()}")
    assert again.returncode == 1 and f"{ROWS + 2} answered before" in again.stderr
    other = process(*asked, "--out", out, "--ray", "local", "--profile", "off")
    assert other.returncode == 2 and "answers of another profile: name 'aggressive'" in other.stderr


def on_store(questions: Path, server: tuple[str, int]) -> None:
    """Two rows more: the first image on an object store, and one that is not there."""
    from pyarrow import fs

    there = fs.S3FileSystem(
        access_key="test",
        secret_key="test",
        endpoint_override=f"{server[0]}:{server[1]}",
        scheme="http",
        allow_bucket_creation=True,
    )
    there.create_dir("photos")
    with there.open_output_stream("photos/0.png") as file:
        file.write((questions.parent / "0.png").read_bytes())
    first = next(row for row in read_rows(questions) if row["id"].startswith("0-"))
    more = [
        {**first, "id": f"s3-{first['id']}", "image": "s3://photos/0.png"},
        {**first, "id": "s3-gone", "image": "s3://photos/gone.png"},
    ]
    with questions.open("a") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in more)


def interrupted(nodes: Nodes, out: Path, *asked: object) -> tuple[int, str, list[Path]]:
    """A run that Ctrl-C ends after its first shard: its exit code, its words, its shards."""
    run = nodes.sts(*asked, "--out", out, "--ray", nodes.address)
    wait_until(lambda: shards(out), "a first shard", run)
    run.send_signal(signal.SIGINT)
    data, said = run.communicate(timeout=120)
    assert data == "" and "Traceback" not in said
    return run.returncode, said, shards(out)


def refused(nodes: Nodes, folder: Path, *asked: object) -> None:
    """One sentence and exit code 2 for each cluster that cannot do it, before work starts."""

    def sentence(*options: object, cwd: Path | None = None) -> str:
        run = nodes.sts(*asked, "--out", folder / "refused", *options, cwd=cwd)
        data, said = run.communicate(timeout=300)
        assert run.returncode == 2 and data == "" and said.count("\n") == 1, said
        assert shards(folder / "refused") == []
        return said

    here = ("--ray", nodes.address)
    nowhere = f"127.0.0.1:{free_port()}"
    assert f"--ray {nowhere}: no Ray cluster answers there" in sentence("--ray", nowhere)
    assert "The cluster has room for 1 actor of 1 CPU, not for 9." in sentence(
        *here, "--ray-actors", 9
    )
    (folder / "cwd").mkdir()
    shutil.copytree(PACKAGE / "demo", folder / "cwd" / "model")
    unseen = sentence(*here, "--model", "/proc/self/cwd/model", cwd=folder / "cwd")
    assert "cannot see the model: No folder '/proc/self/cwd/model'" in unseen
    stale = nodes.add(PYTHONPATH=str(older(folder / "older")))
    told = sentence(*here, cwd=folder / "cwd")  # Ray lets nodes import from where it was called
    assert "has sts 0.0.1, and this machine" in told
    nodes.stop(stale)
    with older_ray(nodes):
        told = sentence(*here)
    assert "Version mismatch" in told and "Ray: 1.0" in told


def older(folder: Path) -> Path:
    """A folder with another version of the package."""
    package = folder / "sts_cli"
    package.mkdir(parents=True)
    for one in PACKAGE.iterdir():
        (package / one.name).symlink_to(one)
    (package / "__init__.py").unlink()
    face = (PACKAGE / "__init__.py").read_text("utf-8")
    face = re.sub('__version__ = ".*"', '__version__ = "0.0.1"', face)
    (package / "__init__.py").write_text(face, "utf-8")
    return folder


NOTE = """
import json, os, ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
ray.init(os.environ["ADDRESS"], log_to_driver=False, logging_level="ERROR")
note = _internal_kv_get(b"CLUSTER_METADATA", namespace="cluster")
older = json.dumps({**json.loads(note), "ray_version": "1.0"}).encode()
for told in (older, note):
    _internal_kv_put(b"CLUSTER_METADATA", told, True, namespace="cluster")
    print("told", flush=True)
    input()
"""


@contextlib.contextmanager
def older_ray(nodes: Nodes) -> Iterator[None]:
    """While entered, the cluster's own note says that Ray 1.0 started it."""
    with subprocess.Popen(
        [sys.executable, "-c", NOTE],
        env={**nodes.environment, "ADDRESS": nodes.address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as note:
        assert note.stdin is not None and note.stdout is not None
        assert note.stdout.readline() == "told\n"
        yield
        note.communicate("\n\n")
        assert note.returncode == 0
