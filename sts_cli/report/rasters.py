"""The grids that the places of visual tokens form: of the whole image, and of each tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sts_cli.records import KeptTokens, Place

LINE_END = 1.0  # the column of a newline token, which shows no part of the image


@dataclass(frozen=True, slots=True)
class Raster:
    """A grid of equal cells, one per token, in reading order; lengths are shares of the image."""

    top: float
    left: float
    height: float  # of a cell
    width: float
    rows: int
    columns: int

    def boxes(self) -> list[tuple[float, float, float, float]]:
        """Left, top, right and bottom of each cell."""
        return [
            (
                self.left + column * self.width,
                self.top + row * self.height,
                self.left + (column + 1) * self.width,
                self.top + (row + 1) * self.height,
            )
            for row in range(self.rows)
            for column in range(self.columns)
        ]


def rasters(places: Sequence[Place]) -> list[Raster]:
    """The grids of an image's tokens, in the order of the tokens; newline tokens are left out.

    A grid is a run of rows with the same columns, each row below the one before.
    """
    lines: list[tuple[float, list[float]]] = []
    for row, column in places:
        row, column = round(row, 6), round(column, 6)
        if column == LINE_END:
            continue
        if lines and lines[-1][0] == row and lines[-1][1][-1] < column:
            lines[-1][1].append(column)
        else:
            lines.append((row, [column]))
    grids: list[tuple[list[float], list[float]]] = []  # rows and columns
    for row, columns in lines:
        if grids and grids[-1][1] == columns and grids[-1][0][-1] < row:
            grids[-1][0].append(row)
        else:
            grids.append(([row], columns))
    return [raster(rows, columns) for rows, columns in grids]


def raster(rows: Sequence[float], columns: Sequence[float]) -> Raster:
    """The grid with cells around these centres."""
    height, width = pitch(rows), pitch(columns)
    return Raster(
        rows[0] - height / 2, columns[0] - width / 2, height, width, len(rows), len(columns)
    )


def pitch(centres: Sequence[float]) -> float:
    """The side of cells around these centres; a single one reaches to the nearer border."""
    if len(centres) == 1:
        return 2 * min(centres[0], 1 - centres[0])
    return min(b - a for a, b in pairwise(centres))


def survivals(kept: KeptTokens) -> list[int]:
    """How many cuts each cell's token outlived, in the order of the cells of `rasters`."""
    survived = [0] * len(kept.every)
    where: dict[Place, list[int]] = {}
    for index, place in enumerate(kept.every):
        where.setdefault(place, []).append(index)
    for number, left in enumerate(kept.left, 1):
        last = -1
        for place in left:  # in the order of `every`: tells apart tokens of the same place
            last = next((index for index in where[place] if index > last), where[place][-1])
            survived[last] = number
    cells = zip(kept.every, survived, strict=True)
    return [number for (_, column), number in cells if round(column, 6) != LINE_END]
