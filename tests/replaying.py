"""A stand-in for CUDA graphs on a CPU: records the operations of a function and runs them again.

As in a CUDA graph, no Python of the function runs again. Every operation reads and writes the
memory that it read and wrote when it was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recording(TorchDispatchMode):
    """Keeps each operation with its arguments and its result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


class Recorder:
    """Captures functions as recordings."""

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with Recording() as recording:
            output = function()

        def replay() -> Tensor:
            for func, args, kwargs, result in recording.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
            return output

        return replay
