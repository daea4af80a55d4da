"""Actors, and how many of them a node has room for. Nothing here needs Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Actors:
    """So many actors, each with its share of a node."""

    count: int
    cpus: float
    gpus: float

    @property
    def size(self) -> str:
        """`4 CPUs and 1 GPU`"""
        gpus = f" and {counted(self.gpus, 'GPU')}" if self.gpus else ""
        return counted(self.cpus, "CPU") + gpus

    def fitting(self, nodes: Iterable[Mapping[str, Any]]) -> int:
        """How many of them find a place on these nodes."""
        return sum(places(node["Resources"], self.cpus, self.gpus) for node in nodes)


def places(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many actors of this size one node holds."""
    each = [(name, size) for name, size in (("CPU", cpus), ("GPU", gpus)) if size]
    return min((int(resources.get(name, 0) // size) for name, size in each), default=0)


def counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
