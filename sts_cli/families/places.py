"""Places of visual tokens in their image, for the layouts that families use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Part = tuple[float, float, float, float]  # of an image: top, left, height, width, each in 0..1
WHOLE: Part = (0.0, 0.0, 1.0, 1.0)


def cropped(processor: Any, size: tuple[int, int]) -> Part:
    """The part of an image that an image processor cuts out of its middle, as CLIP's does.

    `size` is width and height in pixels.
    """
    if not getattr(processor, "do_center_crop", None):
        return WHOLE
    width, height = size
    wanted, crop = processor.size, processor.crop_size
    if processor.do_resize and wanted.get("shortest_edge"):
        scale = wanted["shortest_edge"] / min(size)
        width, height = round(width * scale), round(height * scale)
    elif processor.do_resize:
        width, height = wanted["width"], wanted["height"]
    across, down = min(1.0, crop["width"] / width), min(1.0, crop["height"] / height)
    return (1 - down) / 2, (1 - across) / 2, down, across


def raster(rows: int, columns: int) -> Tensor:
    """Cell centres [rows * columns, 2] of a grid in reading order, row and column in 0..1."""
    down = (torch.arange(rows) + 0.5) / rows
    across = (torch.arange(columns) + 0.5) / columns
    return torch.cartesian_prod(down, across)


def shape_of(cells: int, size: tuple[int, int], gap: int = 0) -> tuple[int, int]:
    """Rows and columns with `rows * (columns + gap) == cells`, nearest to the image's shape.

    `size` is width and height in pixels; `gap` is the number of extra tokens at each row's end.
    """
    width, height = size
    fits = [
        (rows, cells // rows - gap)
        for rows in range(1, cells + 1)
        if cells % rows == 0 and cells // rows > gap
    ]
    target = width / height
    return min(fits, key=lambda fit: abs(torch.log(torch.tensor(fit[1] / fit[0] / target)).item()))


def square_tiles(count: int, per_tile: int, size: tuple[int, int]) -> Tensor:
    """Places [count, 2] in an image that is cut into equal tiles of `per_tile` tokens each.

    Several tiles form a grid of the image's shape; after them comes one tile of the whole image
    (Idefics3, SmolVLM, InternVL). `size` is width and height in pixels.
    """
    tiles = max(1, count // per_tile)
    side = round(per_tile**0.5)
    inside = raster(side, side) if side * side == per_tile else raster(*shape_of(per_tile, size))
    if tiles == 1 or count % per_tile:
        return inside if len(inside) == count else raster(*shape_of(count, size))
    rows, columns = shape_of(tiles - 1, size)
    corners = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # [tiles - 1, 2]
    scale = torch.tensor([rows, columns])
    parts = ((corners[:, None] + inside) / scale).flatten(0, 1)
    return torch.cat([parts, inside])


def with_newlines(count: int, base: int, size: tuple[int, int]) -> Tensor:
    """Places [count, 2]: `base` tokens of the whole image, then rows that end in a newline token.

    For LLaVA-NeXT and LLaVA-OneVision. `size` is width and height in pixels.
    """
    side = round(base**0.5)
    whole = raster(side, count // side) if count <= base else raster(side, base // side)
    rest = count - len(whole)
    if rest <= 0:
        return whole[:count]
    if rest == 1:  # a single newline after the whole image
        return torch.cat([whole, torch.tensor([[1.0, 1.0]])])
    rows, columns = shape_of(rest, size, gap=1)
    parts = raster(rows, columns).view(rows, columns, 2)
    ends = torch.stack([parts[:, 0, 0], torch.ones(rows)], dim=-1)[:, None]
    return torch.cat([whole, torch.cat([parts, ends], dim=1).flatten(0, 1)])
