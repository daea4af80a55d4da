"""Errors that a user can solve. Every message says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StsError(Exception):
    """An error that ends the command: exit code 2, one message, no traceback."""


class ProfileError(StsError):
    """A profile that does not exist, cannot be read, or does not work with the model."""


class ModelError(StsError):
    """A model that cannot be found, loaded, or pruned."""


class InputError(StsError):
    """A question file, folder or image that cannot be read at all."""


class ClusterError(StsError):
    """A cluster that cannot be reached, or whose nodes cannot answer as this machine would."""


class OutputError(StsError):
    """An output file that cannot be written, or that belongs to another run."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, [other for other in known if other != name], n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
