"""Files that are written whole, and the messages when that fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from sts_cli.errors import OutputError

SYNC_SECONDS = 5.0  # a power cut loses at most this much work; a kill loses none
REMEDIES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the network file system is gone",
    errno.ENOTCONN: "the network file system is gone",
    errno.EFBIG: "the file is larger than the system allows",
}
WINDOWS = {  # its own numbers; EACCES stands for all of them
    5: "you may not write there, or another program has the file open",
    32: "another program has the file open; close it there",
    33: "another program has locked the file; close it there",
}


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise errors of the system while writing `path` as an OutputError of one sentence."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {reason(error)}.") from error


def reason(error: OSError) -> str:
    """The system's reason for an error, in words."""
    words = WINDOWS.get(getattr(error, "winerror", None) or 0) or REMEDIES.get(error.errno or 0)
    return words or error.strerror or str(error)


class Appender:
    """A file that grows by whole records: each is complete or absent."""

    def __init__(self, path: Path, start: int):
        """Append from byte `start` on; cut off all bytes after it."""
        self.path = path
        with write_errors(path):
            binary = getattr(os, "O_BINARY", 0)  # else Windows writes CR LF, and bytes move
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | binary, 0o644)
            os.ftruncate(self._file, start)
            self._end = os.lseek(self._file, start, os.SEEK_SET)
        self._synced = monotonic()

    def append(self, record: bytes) -> None:
        """Write one record; an error leaves the file as it was before."""
        with write_errors(self.path):
            try:
                rest = memoryview(record)
                while rest:
                    rest = rest[os.write(self._file, rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._end)
                    os.lseek(self._file, self._end, os.SEEK_SET)
                raise
            self._end += len(record)
            if monotonic() - self._synced > SYNC_SECONDS:
                self.sync()

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._file)
        self._synced = monotonic()

    def close(self) -> None:
        with write_errors(self.path):
            try:
                self.sync()
            finally:
                os.close(self._file)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` at once when it is whole, or never."""
    partial = path.with_name(f".sts-{digest(path.name)}.part")
    with write_errors(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once: nobody ever sees half of it. Raises OutputError."""
    with replacing(path) as file:
        file.write(content)


def digest(name: str) -> str:
    """A short name for a file name of any length."""
    return hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
