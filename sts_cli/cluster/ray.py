"""A run on Ray: which machines, whether they fit, and the dataset that goes through their actors.

Ray is imported here and nowhere else; nobody imports this module before --ray asks for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any

# Ray reads it at its import. Else a thread of Ray's that still asks for a cluster that was left
# starts one of its own, and the run cannot go on with other nodes.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

import pyarrow
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sts_cli.cluster.actors import Actors, counted
from sts_cli.cluster.answerer import Answered, BlockAnswerer, Setup, packed_as
from sts_cli.cluster.blocks import Block
from sts_cli.cluster.node import Node, compare, look
from sts_cli.errors import ClusterError, StsError
from sts_cli.records import printable

TOKEN = "(A cluster with tokens needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here, too.)"
STORE = 512 << 20  # bytes of shared memory that a cluster of `local` takes; rows are small
CORES = 4  # of one actor without a GPU, at most, where the user says nothing
REACH, PROBE = 5.0, 120.0  # seconds for a cluster to answer, and for a node to look at the model
GRACE = 10.0  # seconds in which a lost node may come back, before the run goes on without it
DEATHS = 3  # times that an actor may die of one block, which is then left out


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """While entered, part of the cluster at `address`, or of one of this machine for `local`.

    Ray prints messages on standard output; meanwhile, that leads to nowhere. Raises ClusterError.
    """
    with (
        alone_on_stderr(),
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        silence()
        try:
            connect(address)
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def alone_on_stderr() -> Iterator[None]:
    """Lead what Ray's compiled code writes to standard error to nowhere; `sys.stderr` stays.

    Its log files have the same.
    """
    if sys.stderr is None:
        yield
        return
    before, kept = sys.stderr, os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = os.fdopen(kept, "w", 1, before.encoding, before.errors)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        sys.stderr.close()
        sys.stderr = before


def connect(address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        ray.init("local", include_dashboard=False, object_store_memory=STORE, **options)
        return
    if address != "auto":
        check_reachable(address)
    try:
        ray.init(address, **options)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and others
        if address == "auto" and isinstance(error, ConnectionError):
            sentence = (
                "--ray auto finds no Ray cluster here. Start one with: ray start --head; or run on "
                "this machine alone with --ray local."
            )
        else:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            sentence = f"--ray {address}: {printable(reason)}. {TOKEN}"
        raise ClusterError(sentence) from error


def silence() -> None:
    """Keep Ray from writing where answers and messages go, and from reporting its use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", RayDeprecationWarning)


def check_reachable(address: str) -> None:
    """Raise ClusterError unless something listens at `host:port`; Ray would wait for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--ray {address}: no Ray cluster answers there ({printable(str(error))}). Give the "
            "HOST:PORT that ray start --head printed."
        ) from error


def alive() -> list[dict[str, Any]]:
    """The nodes of the cluster that live."""
    return [node for node in ray.nodes() if node["Alive"]]


def chosen_actors(
    wanted: int | None, cpus: float | None, gpus: float | None, fewer: bool = False
) -> Actors:
    """So many actors, each of so many cores and GPUs; None: as the cluster suggests.

    It suggests one actor a GPU, or one per CORES cores where there is none, as many as fit.
    Raises ClusterError if the cluster has no room for them; with `fewer`, only for none.
    """
    nodes = alive()
    totals = [node["Resources"] for node in nodes]
    with_gpu = [one for one in totals if one.get("GPU")]
    if gpus is None:
        gpus = float(bool(with_gpu))
    if cpus is None and gpus:
        cpus = max(1.0, min([one.get("CPU", 0) * gpus // one["GPU"] for one in with_gpu] or [0]))
    elif cpus is None:
        cpus = min([CORES, *(one["CPU"] for one in totals if one.get("CPU"))])
    actors = Actors(wanted or 1, cpus, gpus)
    room = actors.fitting(nodes)
    count = min(room, actors.count) if fewer and room else actors.count
    if room < count:
        raise ClusterError(
            f"The cluster has room for {counted(room, 'actor')} of {actors.size}, not for {count}. "
            "Change --ray-actors, --ray-cpus or --ray-gpus."
        )
    return Actors(count if wanted else room, cpus, gpus)


def check_nodes(actors: Actors, place: str) -> None:
    """Let every node that may hold an actor look at the model. Raises ClusterError."""
    here = look(place)
    for node in alive():
        if not actors.fitting([node]):
            continue
        address = node["NodeManagerAddress"]
        task = ray.remote(look).options(
            num_cpus=0, max_retries=0, scheduling_strategy=pinned(node["NodeID"])
        )
        try:
            told: Node = ray.get(task.remote(place), timeout=PROBE)
        except Exception as error:  # whatever the node's own Python raises
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ClusterError(
                f"Node {address} cannot run sts: {printable(last)[:300]}. Install sts-cli there, "
                "too, for the Python that Ray runs."
            ) from error
        compare(address, told, here)


def pinned(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


class Source(ray.data.Datasource):  # type: ignore[misc]
    """Blocks of rows, read by one task as actors need them; each is a Ray block of one row."""

    def __init__(self, blocks: Callable[[], Iterator[Block]]):
        super().__init__()
        self.blocks = blocks

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        read = partial(tables, self.blocks)
        return [ReadTask(read, BlockMetadata(None, None, None, None))]


def tables(blocks: Callable[[], Iterator[Block]]) -> Iterator[pyarrow.Table]:
    return (packed_as("block", block) for block in blocks())


def answered(
    blocks: Callable[[], Iterator[Block]], setup: Setup, actors: Actors
) -> Iterator[Answered]:
    """The answers to each block, as soon as they are known, in any order.

    Ray starts a lost actor again, on another node if it must, and gives it its block again. A block
    that actors die of is left out.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # each block stays alone, and none waits for another
    context.max_errored_blocks = -1
    dataset = ray.data.read_datasource(
        Source(blocks),
        override_num_blocks=1,
        num_cpus=0,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    ).map_batches(
        BlockAnswerer,
        fn_constructor_args=(setup,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors.count),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
        max_task_retries=DEATHS,
    )
    batches = dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0)
    for batch in batches:
        for packed in batch.column("answered").to_pylist():
            yield pickle.loads(packed)


class Shrunk:
    """True when called, once nodes are gone for GRACE seconds and actors have no place left.

    Ray itself would wait for a node, with the blocks of those actors.
    """

    def __init__(self, actors: Actors):
        self.actors = actors
        self._looked = self._whole = monotonic()

    def __call__(self) -> bool:
        if monotonic() - self._looked > 1:
            self._looked = monotonic()
            if self.fitting() >= self.actors.count:
                self._whole = self._looked
        return self._looked - self._whole > GRACE

    def fitting(self) -> int:
        return self.actors.fitting(alive())


def failed(error: BaseException) -> StsError:
    """The error for what a dataset raised."""
    if isinstance(error, StsError):
        return error
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return ClusterError(f"the cluster failed: {printable(last)[:300]}")


def told(actors: Actors) -> str:
    """`2 actors of 1 CPU, on up to 2 nodes`"""
    nodes = sum(bool(actors.fitting([node])) for node in alive())
    return f"{counted(actors.count, 'actor')} of {actors.size}, on up to {counted(nodes, 'node')}"
