"""Sharpness of a volume without a reference: the variance of its Laplacian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .axes import axis_names, chosen_axes
from .inputs import checked_pair, refuse_not_finite
from .slabs import plane_slabs


def laplacian_variance(
    volume: Any, *, axes: int | Sequence[int] | None = None, mask: NDArray[np.bool_] | None = None
) -> float:
    """Variance of the discrete Laplacian: sharp structure makes it large, and so does noise.

    The Laplacian is the sum over ``axes`` of the second differences ``v[i-1] - 2 v[i] + v[i+1]``, per voxel, not per
    micrometre; its variance is taken over all voxels whose neighbours along these axes exist.

    Parameters
    ----------
    volume
        Array (integer or floating) or Volume.
    axes
        Axes of the differences. Default: Y and X of a Volume, the last two of an array: sharpness within planes.
    mask
        Bool array of the same shape; a voxel is scored where it and those neighbours are True.

    Returns
    -------
    float
        In squared units of the data.

    Raises
    ------
    InputError
        NaN or infinite values at scored voxels, axes that do not exist, or no voxel with all neighbours.

    References
    ----------
    Pech-Pacheco et al. 2000, ICPR, doi:10.1109/ICPR.2000.903548 (LAPV of focus measures).

    Examples
    --------
    >>> import numpy as np
    >>> board = np.indices((6, 6)).sum(axis=0) % 2
    >>> laplacian_variance(board)
    16.0
    """
    names = axis_names(volume)
    if axes is None and names is not None and {"Y", "X"} <= set(names):
        axes = (names.index("Y"), names.index("X"))
    array, _, mask = checked_pair(volume, volume, mask, names=("volume", "volume"))
    axes = chosen_axes(range(-min(2, array.ndim), 0) if axes is None else axes, array.ndim)
    if any(array.shape[a] < 3 for a in axes):
        raise InputError(f"volume has shape {array.shape}, expected at least 3 voxels along axes {axes}")
    bad = 0
    moments = []  # number, mean and variance of the Laplacian in each slab
    reach = 1 if 0 in axes else 0
    for slab in plane_slabs(array.shape):
        around = slice(max(0, slab.start - reach), min(array.shape[0], slab.stop + reach))
        if around.stop - around.start < 1 + 2 * reach:
            continue
        values = _laplacian(array[around].astype(np.float64), axes)
        if mask is not None:
            values = values[_with_neighbours(mask[around], axes)]
        bad += int(np.count_nonzero(~np.isfinite(values)))
        if bad == 0 and values.size:
            moments.append((values.size, float(values.mean()), float(values.var())))
    refuse_not_finite("volume", bad, "among the second differences at scored voxels")
    if not moments:
        raise InputError("mask leaves no voxel with all its neighbours, expected at least one")
    return _pooled_variance(moments)


def _pooled_variance(moments: list[tuple[int, float, float]]) -> float:
    """Variance of all values from the number, mean and variance of each part."""
    count = sum(n for n, _, _ in moments)
    mean = sum(n * centre for n, centre, _ in moments) / count
    return sum(n * (variance + (centre - mean) ** 2) for n, centre, variance in moments) / count


def _laplacian(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Sum of the second differences at the voxels of the interior."""
    with np.errstate(invalid="ignore"):  # the caller counts and refuses infinities
        result = -2 * len(axes) * _interior(values, axes)
        for neighbours in _neighbours(values, axes):
            result += neighbours
    return np.asarray(result)


def _with_neighbours(mask: NDArray[np.bool_], axes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where the mask is True at a voxel of the interior and at all its neighbours."""
    result = _interior(mask, axes).copy()
    for neighbours in _neighbours(mask, axes):
        result &= neighbours
    return result


def _interior(array: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """View without the first and last entry along the axes."""
    return array[_inner(array, axes)]


def _neighbours(array: NDArray[Any], axes: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Views of the interior's shape, moved by one entry down and up along each axis."""
    inner = _inner(array, axes)
    for axis in axes:
        for side in (slice(None, -2), slice(2, None)):
            yield array[(*inner[:axis], side, *inner[axis + 1 :])]


def _inner(array: NDArray[Any], axes: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(1, -1) if a in axes else slice(None) for a in range(array.ndim))
