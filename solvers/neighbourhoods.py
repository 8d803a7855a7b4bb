"""The neighbours of voxels: as rows of an array, and what the measured ones among them have in common.

All is computed where the volume lies, by Numba or CUDA kernels. Masks lie there, too, and so do positions; lists of
these that are on the host are brought there by :func:`excluding` and :func:`values_at` alone.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, is_cupy, namespace_of, to_host
from .threads import share_out

Positions = npt.NDArray[np.integer]

OFFSETS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)])
"""``(26, 3)``: the steps to the neighbours, in the order of the columns of :func:`neighbours`."""

LATERAL = np.flatnonzero((OFFSETS[:, 0] == 0) & (np.abs(OFFSETS).sum(axis=1) == 1))
"""Columns of the four neighbours in the plane that share a face."""

AXIAL = np.flatnonzero((OFFSETS[:, 0] != 0) & (np.abs(OFFSETS).sum(axis=1) == 1))
"""Columns of the two neighbours along z."""

DIAGONAL = np.flatnonzero((OFFSETS[:, 0] == 0) & (np.abs(OFFSETS).sum(axis=1) == 2))
"""Columns of the four neighbours in the plane that share an edge along z alone: the corners."""

IN_PLANE = np.flatnonzero(OFFSETS[:, 0] == 0)
"""Columns of the eight neighbours in the plane."""


def excluding(mask: Array, positions: Positions) -> Array:
    """A copy of the mask that is False at these positions (on the host, flat, C order)."""
    rest = mask.copy()
    rest.ravel()[from_host(positions, mask)] = False
    return rest


def values_at(volume: Array, positions: Positions) -> npt.NDArray[Any]:
    """Entries of an array at positions (on the host, flat, C order), on the host."""
    return to_host(volume.ravel()[from_host(positions, volume)])


def neighbours(volume: Array, mask: Array, positions: Array) -> Array:
    """The 26 neighbours of each position (flat, C order), NaN where unmeasured or outside; shape ``(n, 26)``."""
    xp = namespace_of(volume, mask, positions)
    index = xp.stack(xp.unravel_index(positions, volume.shape), axis=1)
    around = index[:, None, :] + from_host(OFFSETS, volume)
    inside = xp.all((around >= 0) & (around < from_host(volume.shape, volume)), axis=2)
    around = xp.where(inside[..., None], around, xp.zeros_like(around))
    where = tuple(xp.moveaxis(around, 2, 0))
    return xp.where(inside & mask[where], volume[where], xp.asarray(np.nan, dtype=volume.dtype))


class Around(NamedTuple):
    """What the trusted ones among the 26 neighbours of some voxels have in common; one entry a voxel."""

    middle: Array
    """Their median; NaN where there is none."""
    spread: Array
    """The distance from it within which four in five lie; NaN where there is none."""
    number: Array
    """How many there are, in uint8."""


def surroundings(volume: Array, trusted: Array, positions: Array) -> Around:
    """Compare the trusted voxels around each position (flat, C order)."""
    if is_cupy(namespace_of(volume, trusted, positions)):
        from .kernels_defects_cuda import around_cuda

        return Around(*around_cuda(volume, trusted, positions))
    from .kernels_defects import around

    size = len(positions)
    found = Around(np.empty(size, volume.dtype), np.empty(size, volume.dtype), np.empty(size, np.uint8))
    share_out(lambda begin, end: around(volume, trusted, positions, *found, begin, end), size)
    return found


def standing_out(volume: Array, trusted: Array, wanted: Array, least: float) -> Array:
    """Flat positions of the wanted voxels that are further than ``least`` from at least half of their neighbours."""
    xp = namespace_of(volume, trusted, wanted)
    step = volume.dtype.type(min(least, float(np.finfo(volume.dtype).max)))
    if is_cupy(xp):
        from .kernels_defects_cuda import far_from_most_cuda

        return xp.flatnonzero(far_from_most_cuda(volume, trusted, wanted, step))
    from .kernels_defects import far_from_most

    found = np.zeros(volume.shape, bool)
    share_out(lambda b, e: far_from_most(volume, trusted, wanted, step, found, b, e), len(volume))
    return np.flatnonzero(found)


def column_statistics(volume: Array, measured: Array) -> tuple[Array, Array, Array, Array, Array]:
    """``excess, level, same, agreeing, used`` of every pixel, ``(Y, X)``; see ``along_columns`` of the kernels."""
    if is_cupy(namespace_of(volume, measured)):
        from .kernels_defects_cuda import along_columns_cuda

        return along_columns_cuda(volume, measured)
    from .kernels_defects import along_columns

    shape = volume.shape[1:]
    excess, level, same, agreeing = (np.zeros(shape, volume.dtype) for _ in range(4))
    used = np.zeros(shape, np.int64)
    share_out(lambda b, e: along_columns(volume, measured, excess, level, same, agreeing, used, b, e), shape[0])
    return excess, level, same, agreeing, used
