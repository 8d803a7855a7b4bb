"""Linear interpolation along z: the baseline with which every recovery is compared."""

from __future__ import annotations

import math

import numpy as np


def interpolate_planes(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill a stack by linear interpolation along z, column by column.

    Parameters
    ----------
    values : numpy.ndarray (Z, Y, X)
        Intensities. Where ``mask`` is False they may be anything, NaN too.
    mask : numpy.ndarray of bool (Z, Y, X)
        True = measured.

    Returns
    -------
    numpy.ndarray (Z, Y, X)
        float64 for float64 values, else float32. Measured voxels keep their value. Every other voxel is interpolated
        between the nearest measured voxels below and above in its column. Where there is none on one side, it equals
        the nearest one on the other side; where a column has no measured voxel, it is NaN.

    Examples
    --------
    >>> values = np.array([0.0, np.nan, np.nan, 3.0, np.nan]).reshape(5, 1, 1)
    >>> interpolate_planes(values, np.isfinite(values)).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 3.0]
    """
    filled = np.empty(values.shape, np.result_type(values.dtype, np.float32))
    for z in range(len(values)):
        filled[z] = interpolated_plane(values, mask, z)
    return filled


def interpolated_plane(values: np.ndarray, mask: np.ndarray, z: float) -> np.ndarray:
    """One plane (Y, X) of `interpolate_planes`; ``z`` need not be a whole number (0 <= z <= Z - 1)."""
    floor, ceiling = math.floor(z), math.ceil(z)
    down, up = mask[floor::-1], mask[ceiling:]
    below, above = floor - down.argmax(axis=0), ceiling + up.argmax(axis=0)
    has_below, has_above = down.any(axis=0), up.any(axis=0)
    below, above = np.where(has_below, below, above), np.where(has_above, above, below)
    low, high = (np.take_along_axis(values, i[None], axis=0)[0].astype(float) for i in (below, above))
    weight = (z - below) / np.maximum(above - below, 1)
    plane: np.ndarray = np.where(above > below, low * (1 - weight) + high * weight, low)
    plane[~(has_below | has_above)] = np.nan
    return plane
