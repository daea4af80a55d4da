"""Functions of fixed tensors, captured once per shape and replayed: CUDA graphs.

A function qualifies if it reads and writes the same memory whenever it is called, never waits for
the device, and may run again without changing its result. The CUDA path was not run here: we had no
GPU. The tests replay recorded operations on a CPU instead (tests/replaying.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

MOST = 32  # graphs that are kept; the oldest goes
WARM_UPS = 3  # runs before a capture, so that libraries allocate their workspaces

Function = Callable[[], Tensor]
Capture = Callable[[Function], Function]  # from a function to its replay


class Graphs:
    """Replays of functions, by key. Without `new_capture`, functions run as they are."""

    def __init__(self, new_capture: Callable[[], Capture] | None):
        self.new_capture = new_capture
        self.capture: Capture | None = None
        self.replays: dict[Hashable, Function] = {}

    def run(self, key: Hashable, function: Function) -> Tensor:
        """The result of `function`; the next run or capture may overwrite it."""
        if key not in self.replays and not self._captured(key, function):
            return function()
        return self.replays[key]()

    def clear(self) -> None:
        """Forget all graphs: their memory has moved."""
        self.replays.clear()
        self.capture = None

    def _captured(self, key: Hashable, function: Function) -> bool:
        """Capture `function`; False if that is impossible, and then nothing is captured again."""
        if self.new_capture is None:
            return False
        self.capture = self.capture or self.new_capture()
        while len(self.replays) >= MOST:
            del self.replays[next(iter(self.replays))]
        try:
            self.replays[key] = self.capture(function)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # such as a layer that waits for the device: int8 by bitsandbytes
            self.new_capture = None
            return False
        return True


def cuda_capture(device: torch.device) -> Capture:
    """A capture into CUDA graphs, which share one pool of memory. Not run here."""
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Function) -> Function:
        with torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    function()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                output = function()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    return capture
