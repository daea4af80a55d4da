"""YAML text as a value, with the line of each key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from sts_cli.errors import ProfileError

DEEPEST = 8  # levels of a profile's YAML


def read_yaml(text: str, where: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """The value of a YAML text, and the line of each key by its path. Raises ProfileError.

    Anchors and deep nesting are refused before anything is built: a few lines of them can fill the
    memory.
    """
    lines: dict[tuple[str, ...], int] = {}
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ProfileError(f"{where}, line {line}: anchors and aliases are not allowed.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ProfileError(f"{where}: nested deeper than {DEEPEST} levels.")
        for path, line in _keys_in(yaml.compose(text, Loader=yaml.SafeLoader)):
            if path in lines:
                raise ProfileError(
                    f"{where}, line {line}: {path[-1]} is there twice; the first is in line "
                    f"{lines[path]}."
                )
            lines[path] = line
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = where if mark is None else f"{where}, line {mark.line + 1}"
        reason = error.problem or error.context
        raise ProfileError(f"{place}: not valid YAML ({reason}).") from error
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise ProfileError(f"{where}: not valid YAML ({first_line}).") from error
    except (ValueError, OverflowError) as error:  # dates and numbers that Python cannot hold
        raise ProfileError(f"{where}: not valid YAML ({str(error)[:100]}).") from error
    return {} if data is None else data, lines


def _keys_in(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """The path and line of each key, and of each item of a list, in a YAML tree."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _keys_in(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            inner = (*path, str(number))
            yield inner, value.start_mark.line + 1
            yield from _keys_in(value, inner)
