"""`sts` on a Linux that lacks what Windows and macOS lack, and refuses what Windows refuses.

Run as a program, it hides modules and calls from this process, and then runs `sts`. It replaces
nothing of ours: Python's audit hooks see every file that is opened, renamed or removed.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

UNIX_MODULES = ("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "syslog")
UNIX_CALLS = ("sched_getaffinity", "getloadavg", "getuid", "geteuid", "fork")
STANDARD = (sysconfig.get_path("stdlib") + "/", "<frozen")
UNIX_SIGNALS = ("SIGHUP", "SIGPIPE", "SIGUSR1", "SIGALRM", "SIGQUIT", "SIGTSTP")


def elsewhere(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `sts` there; `options` are those of `subprocess.run`."""
    return subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        **{"capture_output": True, "text": True, "encoding": "utf-8", **options},  # type: ignore
    )


def locking(file: int, mode: int, count: int) -> None:
    """As msvcrt's: the bytes from here on, or OSError at once."""
    os.lockf(file, os.F_TLOCK, count)


def refuse(event: str, given: tuple[object, ...]) -> None:
    """An audit hook: no open file can be renamed or removed, and there is no /proc."""
    if event in ("os.rename", "os.remove"):
        busy = opened()
        for path in given[: 2 if event == "os.rename" else 1]:
            if os.path.realpath(os.fsdecode(path)) in busy:  # type: ignore[arg-type]
                raise PermissionError(13, "The process cannot access the file", path)
    if event == "open" and str(given[0]).startswith("/proc/") and asked_by_us():
        raise FileNotFoundError(2, "No such file or directory", given[0])


def asked_by_us() -> bool:
    """True unless a library of this system reads the file."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(STANDARD):
        frame = frame.f_back
    return f"{os.sep}sts_cli{os.sep}" in frame.f_code.co_filename


def opened() -> set[str]:
    """The files that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the one of the listing itself
            continue
    return found


def hide() -> None:
    """Libraries come first: those that are installed here are built for this system."""
    for library in ("filelock", "psutil", "shutil", "tempfile"):
        importlib.import_module(library)
    for name in UNIX_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in UNIX_CALLS:
        delattr(os, name)
    for name in UNIX_SIGNALS:
        delattr(signal, name)
    stand_in = ModuleType("msvcrt")
    stand_in.LK_NBLCK, stand_in.locking = 2, locking  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = stand_in
    sys.addaudithook(refuse)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    hide()
    runpy.run_module("sts_cli", run_name="__main__", alter_sys=True)
