"""What a node says of itself before work starts: its versions, and the model that it sees."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sts_cli import __version__
from sts_cli.checkpoints.fingerprint import changed, fingerprint, without_times
from sts_cli.checkpoints.sources import Source, find
from sts_cli.errors import ClusterError, StsError


@dataclass(frozen=True, slots=True)
class Node:
    """The versions of a node, and its model's files or why it has none."""

    versions: dict[str, str]
    files: dict[str, str]
    problem: str | None = None


def look(place: str) -> Node:
    """This node, and the model at `place`."""
    versions = {"sts": __version__, "transformers": installed("transformers")}
    try:
        source = find(place)
        if source.checkpoint is None:
            return Node(versions, {}, f"the model '{place}' is not in its cache")
        return Node(versions, without_times(fingerprint(source.checkpoint)))
    except StsError as error:
        return Node(versions, {}, str(error))


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def compare(address: str, node: Node, here: Node) -> None:
    """Raise ClusterError if a node would not answer as this machine would."""
    for name, mine in here.versions.items():
        if node.versions.get(name) != mine:
            raise ClusterError(
                f"Node {address} has {name} {node.versions.get(name)}, and this machine {mine}; "
                "install the same version on both."
            )
    if node.problem is not None:
        raise ClusterError(
            f"Node {address} cannot see the model: {node.problem.rstrip('.')}. Put it on every "
            "node at the same path, or on a disk that all share."
        )
    files = changed(here.files, node.files)
    if files:
        raise ClusterError(
            f"Node {address} has another model at that place: {', '.join(files[:3])} differ."
        )


def place_of(source: Source) -> str:
    """Where any node finds the model. Raises ClusterError for one that is not here yet."""
    if source.checkpoint is None:
        raise ClusterError(
            f"--ray: the model '{source.name}' is not on this machine yet. Fetch it on every node "
            f"first: sts ask IMAGE --model {source.name}"
        )
    if source.kind == "folder":
        return os.path.abspath(os.path.expanduser(source.name))
    return source.name
