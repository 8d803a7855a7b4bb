"""Conversion of intensities to another data type, with a count of the voxels that it changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorcell.errors import InputError


@dataclass(frozen=True)
class Cast:
    """Intensities in another dtype, and how many voxels the conversion changed."""

    data: np.ndarray
    rounded: int
    """Voxels that were not integers and were rounded to the nearest one (ties to even)."""
    clipped: int
    """Voxels outside the range of the dtype, set to its nearest end."""


def cast(data: np.ndarray, dtype: Any) -> Cast:
    """Convert intensities to a dtype by rounding and clipping, and count both.

    Parameters
    ----------
    data : numpy.ndarray
        Integers, bool or floats, any shape. Infinities are clipped to an integer dtype's range.
    dtype : dtype
        An integer or float dtype of at most 64 bits.

    Returns
    -------
    Cast
        ``data`` of the given dtype (the same array if it has that dtype already). A voxel that is rounded beyond the
        range counts as clipped only. Where the dtype is a float, only voxels beyond
        its largest number count (as clipped); infinities stay, and lost digits are not counted.

    Raises
    ------
    InputError
        If NaN would have to become an integer (there is no number for "not measured"), or for another dtype.

    Examples
    --------
    >>> cast(np.array([-3.0, 0.4, 7.0, 300.0]), np.uint8)
    Cast(data=array([  0,   0,   7, 255], dtype=uint8), rounded=1, clipped=2)
    """
    try:
        wanted = np.dtype(dtype)
    except TypeError as error:
        raise InputError(f"dtype {dtype!r} is unknown, expected one such as uint16 or float32") from error
    if wanted.kind not in "iuf" or wanted.itemsize > 8:
        raise InputError(f"dtype {wanted} does not hold intensities, expected integers or floats up to 64 bits")
    if data.dtype == wanted:
        return Cast(data, 0, 0)
    result = np.empty(data.shape, wanted)
    rounded = clipped = 0
    for source, target in _blocks(data, result):
        if wanted.kind == "f":
            clipped += _to_float(source, target)
        elif source.dtype.kind == "f":
            more_rounded, more_clipped = _float_to_integer(source, target)
            rounded, clipped = rounded + more_rounded, clipped + more_clipped
        else:
            clipped += _integer_to_integer(source, target)
    return Cast(result, rounded, clipped)


def _blocks(data: np.ndarray, result: np.ndarray, size: int = 2**20) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Matching pieces of two arrays, so that temporary arrays stay small."""
    if data.ndim == 0 or data.size <= size:
        yield data, result
        return
    step = max(1, size * data.shape[0] // data.size)
    for start in range(0, data.shape[0], step):
        piece = slice(start, start + step)
        yield data[piece], result[piece]


def _to_float(source: np.ndarray, target: np.ndarray) -> int:
    limit, wide = float(np.finfo(target.dtype).max), source.astype(np.float64)
    over = np.isfinite(wide) & (np.abs(wide) > limit)
    target[...] = np.where(over, np.copysign(limit, wide), wide)
    return int(np.count_nonzero(over))


def _float_to_integer(source: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    if np.isnan(source).any():
        raise InputError(f"cannot store NaN (not measured) as {target.dtype}; use a float dtype")
    info = np.iinfo(target.dtype)
    nearest = np.rint(source if source.dtype.itemsize > 2 else source.astype(np.float32))
    # powers of two, exact in every float, where float(info.max) would be rounded up for 32 and 64 bits
    low, high = nearest < float(info.min), nearest >= float(info.max + 1)
    target[...] = np.where(low | high, 0, nearest)
    target[low], target[high] = info.min, info.max
    clipped = np.count_nonzero(low) + np.count_nonzero(high)
    return int(np.count_nonzero((nearest != source) & ~low & ~high)), int(clipped)


def _integer_to_integer(source: np.ndarray, target: np.ndarray) -> int:
    if source.dtype == bool:
        target[...] = source
        return 0
    own, info = np.iinfo(source.dtype), np.iinfo(target.dtype)
    low, high = max(own.min, info.min), min(own.max, info.max)  # Python integers that both dtypes hold
    target[...] = np.clip(source, low, high)
    return int(np.count_nonzero((source < low) | (source > high)))
