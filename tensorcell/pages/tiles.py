"""Volumes inside a page: 8-bit planes on a coarser grid, side by side in one picture for each layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

BLOCK = 8
"""Tiles are padded to multiples of the side of JPEG's blocks, so that no plane shows in its neighbours."""

QUALITIES = (90, 80, 70, 60)
"""Of JPEG, from the best: planes full of noise are stored more coarsely before they are thinned out."""


class Grain(NamedTuple):
    """What a voxel of the page stands for: every n-th plane, and the mean of a square block of pixels."""

    planes: int
    pixels: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, int, int]:
        """Sides (z, y, x) of the coarser grid.

        >>> Grain(2, 4).shape((5, 9, 8))
        (3, 3, 2)
        """
        planes, rows, columns = whole
        return -(-planes // self.planes), -(-rows // self.pixels), -(-columns // self.pixels)


def coarser(grain: Grain, whole: tuple[int, ...], step: Fraction, factor: int) -> Grain:
    """The next coarser grid: the longest side is thinned out.

    Parameters
    ----------
    grain : Grain
    whole : (int, int, int)
        Sides of the result.
    step : Fraction
        Distance of the planes given in planes of the result. The distance of the planes shown has no divisor in
        common with it, so that measured planes and those between them are both among them.
    factor : int
        Pixels of the result a side of one given; blocks are multiples of it.

    Examples
    --------
    >>> coarser(Grain(1, 1), (100, 1024, 1024), Fraction(2), 1), coarser(Grain(1, 8), (900, 1024, 1024), Fraction(2), 1)
    (Grain(planes=1, pixels=2), Grain(planes=3, pixels=8))
    """
    planes, rows, columns = grain.shape(whole)
    if planes > max(rows, columns):
        distance = grain.planes + 1
        while math.gcd(distance, step.numerator) > 1:
            distance += 1
        return Grain(distance, grain.pixels)
    return Grain(grain.planes, factor if grain.pixels == 1 and factor > 1 else grain.pixels + factor)


def block_means(plane: np.ndarray, side: int, known: np.ndarray | None = None) -> np.ndarray:
    """Mean of the known pixels of each block, as float32; NaN where none is. Blocks at the ends may be smaller.

    >>> block_means(np.array([[1.0, 3.0, np.nan], [5.0, 7.0, np.nan]]), 2).tolist()
    [[4.0, nan]]
    """
    seen = np.isfinite(plane) if known is None else known & np.isfinite(plane)
    values = np.where(seen, plane, 0).astype(np.float32)
    if side == 1:
        return np.where(seen, values, np.float32(np.nan))
    total, count = block_sums(values, side), block_sums(seen.astype(np.float32), side)
    means: np.ndarray = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means


def block_sums(plane: np.ndarray, side: int) -> np.ndarray:
    """Sum of each block of pixels."""
    rows, columns = (np.arange(0, size, side) for size in plane.shape)
    sums: np.ndarray = np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1)
    return sums


@dataclass(frozen=True, eq=False)
class Layer:
    """One volume of a page.

    Parameters
    ----------
    key, name : str
        For the program and for the reader.
    levels : numpy.ndarray of uint8 (Z, Y, X)
    low, high : float
        Intensities at levels 0 and 255.
    look : str
        ``"grey"``, ``"heat"``, or ``"kind"`` for levels that are no intensities and have to stay as they are.
    """

    key: str
    name: str
    levels: np.ndarray
    low: float = 0.0
    high: float = 1.0
    look: str = "grey"

    def encoded(self, quality: int) -> bytes:
        """The mosaic as JPEG, or as PNG where levels have to stay as they are."""
        import imagecodecs

        flat = mosaic(self.levels)
        if self.look == "kind":
            return bytes(imagecodecs.png_encode(flat, level=9))
        return bytes(imagecodecs.jpeg8_encode(flat, level=quality))


def to_levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Intensities as 8-bit levels; what lies outside is clipped, and NaN is 0.

    >>> to_levels(np.array([-1.0, 0.0, 1.0, 2.0, np.nan]), 0.0, 2.0).tolist()
    [0, 0, 128, 255, 0]
    """
    scaled = np.clip((np.nan_to_num(values, nan=low) - low) * (255 / (high - low)), 0, 255)
    levels: np.ndarray = np.rint(scaled).astype(np.uint8)
    return levels


def tile_sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows and columns of a tile, and tiles beside one another in a mosaic that is about square.

    >>> tile_sides((100, 250, 256))
    (256, 256, 10)
    """
    planes, rows, columns = shape
    rows, columns = (BLOCK * -(-side // BLOCK) for side in (rows, columns))
    return rows, columns, max(1, min(planes, round(math.sqrt(planes * rows / columns))))


def mosaic(levels: np.ndarray) -> np.ndarray:
    """Planes side by side; each is padded with its own edge."""
    planes, rows, columns = levels.shape
    tile_rows, tile_columns, beside = tile_sides(levels.shape)
    lines = -(-planes // beside)
    padded = np.pad(levels, ((0, 0), (0, tile_rows - rows), (0, tile_columns - columns)), mode="edge")
    padded = np.pad(padded, ((0, lines * beside - planes), (0, 0), (0, 0)))
    grid = padded.reshape(lines, beside, tile_rows, tile_columns).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grid.reshape(lines * tile_rows, beside * tile_columns))
