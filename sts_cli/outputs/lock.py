"""One run at a time on one output file: the lock is a separate file that nothing replaces."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

from sts_cli.errors import OutputError
from sts_cli.outputs.disk import write_errors

TRIES = 100  # the holder of a lock removes its file; some network disks never settle


class Lock:
    """Held from entry to exit; the system also releases it when the process is killed."""

    def __init__(self, subject: Path):
        self.subject = subject  # the file that the lock protects
        self.path = subject.with_name(f".{subject.name}.sts-lock")
        self._file = -1

    def __enter__(self) -> Lock:
        for _ in range(TRIES):
            with write_errors(self.subject):
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                take(self._file)
                if os.name == "nt" or os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                    return self  # Windows lets nobody remove the file that we have open
            except FileNotFoundError:
                pass  # the last holder removed the file: open a new one
            except OSError as error:
                os.close(self._file)
                raise OutputError(f"Another run is writing {self.subject} right now.") from error
            os.close(self._file)
        raise OutputError(f"Cannot lock {self.path}: the file keeps changing. Try another disk.")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        refused = False
        try:
            self.path.unlink()  # while it is locked: afterwards it may be another run's
        except OSError as reason:
            refused = isinstance(reason, PermissionError)  # Windows removes no file that is open
        os.close(self._file)
        if refused:
            with contextlib.suppress(OSError):
                self.path.unlink()  # a run that waits for it has it open: it stays


def take(file: int) -> None:
    """Lock an open file, or raise OSError at once. Without flock (Windows), lock its first byte."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
