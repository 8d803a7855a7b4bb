"""The part of a stack whose spectrum is computed: evenly spaced planes, one tile, gaps filled, means subtracted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]

TILE, MAX_PLANES = 192, 256
"""Largest part: pixels along y and x, and planes."""


def even_run(measured: Ints) -> tuple[Ints, int]:
    """The longest run of evenly spaced planes among the measured ones, and its stride.

    Of two runs of equal length the denser one is taken.

    >>> even_run(np.array([0, 1, 2, 5, 7, 9, 11]))
    (array([ 5,  7,  9, 11]), 2)
    """
    if len(measured) < 2:
        return measured, 1
    gaps = np.diff(measured)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(gaps)) + 1])
    ends = np.concatenate([starts[1:], [len(gaps)]])
    start, end = max(zip(starts, ends, strict=True), key=lambda run: (run[1] - run[0], -gaps[run[0]]))
    return measured[start : end + 1], int(gaps[start])


def part_of(data: npt.NDArray[Any], mask: Bools | None, planes: Ints) -> tuple[npt.NDArray[Any], Bools | None, bool]:
    """The central planes of the tile with the largest variance, the mask of this part, and whether it is smaller."""
    first = max(0, (len(planes) - MAX_PLANES) // 2)
    chosen = planes[first : first + MAX_PLANES]
    tiles = [(slice(y, y + TILE), slice(x, x + TILE)) for y in starts(data.shape[1]) for x in starts(data.shape[2])]

    def variance(tile: tuple[slice, slice]) -> float:
        coarse = data[:, *tile][chosen[:: max(1, len(chosen) // 16)], ::4, ::4].astype(np.float64)
        if mask is not None:
            coarse = coarse[mask[:, *tile][chosen[:: max(1, len(chosen) // 16)], ::4, ::4]]
        return float(coarse.var()) if coarse.size else 0.0

    tile = max(tiles, key=variance) if len(tiles) > 1 else tiles[0]
    measured = None if mask is None else mask[:, *tile][chosen]
    part = data[:, *tile][chosen]
    smaller = len(tiles) > 1 or len(chosen) < len(planes)
    return part, None if measured is None or measured.all() else measured, smaller


def starts(length: int) -> list[int]:
    """First pixels of tiles that cover this length."""
    if length <= TILE:
        return [0]
    count = -(-length // TILE)
    return [round(index * (length - TILE) / (count - 1)) for index in range(count)]


def filled(part: npt.NDArray[Any], mask: Bools) -> Floats:
    """Fill gaps by the Gaussian-weighted mean of measured pixels near them in the plane, or else by the mean of all.

    The mean of all measured pixels is subtracted from the result.
    """
    from scipy import ndimage  # slow to import

    values: Any = np.where(mask, part, 0).astype(np.float32 if part.dtype.itemsize <= 4 else np.float64)
    mean = values.sum() / mask.sum()
    values -= np.where(mask, mean, 0)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), (0, 1.0, 1.0))
    near = ndimage.gaussian_filter(values, (0, 1.0, 1.0))
    usable = weight > 1e-3
    fill = np.where(usable, near / np.where(usable, weight, 1.0), 0.0)
    return np.asarray(np.where(mask, values, fill))


def normalised(part: npt.NDArray[Any]) -> tuple[Floats, float]:
    """Subtract the means over z and the means of planes, and divide by the standard deviation, which is also returned.

    The result is float32. The standard deviation is 0 where the stack does not vary.
    """
    # Small offsets and narrow integers are exact in float32; anything else is centred before it is rounded.
    centred: Any = part.astype(np.float32 if part.dtype.itemsize <= 2 else np.float64)
    largest = max(abs(float(centred.max())), abs(float(centred.min())))
    centred -= centred.mean(axis=0, dtype=np.float64).astype(centred.dtype)
    centred -= centred.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(centred.dtype)
    deviation = float(centred.std(dtype=np.float64))
    # Centring a constant stack leaves rounding errors; anything that small is not structure.
    if not deviation > 4 * float(np.finfo(centred.dtype).eps) * largest:
        return centred, 0.0
    centred /= deviation
    return centred.astype(np.float32, copy=False), deviation
