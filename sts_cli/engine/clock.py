"""Time, on devices that work ahead of the program."""

from __future__ import annotations

from time import perf_counter

import torch


class Clock:
    """Seconds since anywhere, read after the device has finished what it was given."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return perf_counter()
