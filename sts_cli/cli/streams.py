"""Standard output and error on any system: which characters they take."""

from __future__ import annotations

import io
import os
import sys


def settle_streams() -> None:
    """Files and pipes get UTF-8 and LF; a terminal never fails over a character that it lacks.

    On Windows a pipe has the code page of the system otherwise, with no place for most languages.
    A user's PYTHONIOENCODING stays; a character that it lacks becomes an escape such as \\u4e2d.
    """
    chosen = "PYTHONIOENCODING" in os.environ
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.isatty() or chosen:
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
