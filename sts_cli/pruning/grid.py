"""A control: tokens on a regular lattice."""

from __future__ import annotations

import torch
from torch import Tensor


def grid(values: Tensor, grid: Tensor, count: int) -> Tensor:
    """Sorted indices [count] of the tokens nearest to a centred lattice of `count` points.

    `grid` [N, 2] holds rows and columns in 0..1. The lattice has as many rows and columns as fit
    `count` best; where two of its points share a token, the token least covered so far is added.
    """
    total = values.shape[0]
    if count >= total:
        return torch.arange(total, device=values.device)
    places = grid.float()
    rows = max(1, round(count**0.5))
    lines = [count // rows + (row < count % rows) for row in range(rows)]
    points = torch.tensor(
        [
            ((row + 0.5) / rows, (column + 0.5) / columns)
            for row, columns in enumerate(lines)
            for column in range(columns)
        ],
        device=places.device,
    )  # [count, 2]
    taken = torch.cdist(points, places).argmin(1).unique()
    while len(taken) < count:
        cover = torch.cdist(places, places[taken]).amin(1)
        taken = torch.cat([taken, cover.argmax()[None]]).unique()
    return taken
