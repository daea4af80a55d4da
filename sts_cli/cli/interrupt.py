"""Ctrl-C, SIGTERM and a closed terminal: the first finishes the batch in hand, the second stops."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
MESSAGE = b"\nFinishing the batch in hand; press Ctrl-C again to stop now.\n"


class Interruption:
    """While entered, signals set `asked` instead of raising; a second one raises."""

    def __init__(self, quiet: bool):
        self.asked = False
        self._quiet = quiet
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if not self._quiet:
            with contextlib.suppress(OSError):
                os.write(2, MESSAGE)  # not through a buffer that this signal may have interrupted
