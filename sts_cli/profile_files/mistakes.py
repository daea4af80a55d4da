"""The mistakes in a profile's file: where each is, and all of them told together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from sts_cli.errors import ProfileError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a profile's file, written as `mine.yaml, line 3: structure: keep`."""

    file: str
    lines: Mapping[tuple[str, ...], int]  # of each key, by its path
    path: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # as messages show them

    def at(self, key: str, name: str | None = None) -> Place:
        """The place of a key in here."""
        return replace(self, path=(*self.path, key), names=(*self.names, name or key))

    def on(self, key: str) -> Place:
        """This place, on the line of a key in here."""
        return replace(self, path=(*self.path, key))

    def __str__(self) -> str:
        paths = (self.path[:end] for end in range(len(self.path), 0, -1))
        line = next((self.lines[path] for path in paths if path in self.lines), None)
        start = self.file if line is None else f"{self.file}, line {line}"
        return ": ".join((start, *self.names))


class Mistakes:
    """The mistakes of a file, told together."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def of(self, check: Callable[..., T], *given: Any) -> T:
        """The value of a check. It is none if the check finds a mistake; `end` raises that."""
        try:
            return check(*given)
        except ProfileError as error:
            self.found.append(str(error))
            return cast(T, None)

    def end(self) -> None:
        """Raise ProfileError if there were mistakes, with a line for each."""
        if self.found:
            raise ProfileError("\n".join(self.found))
