"""The neighbours of voxels: as rows of an array, and what the measured ones among them have in common."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .threads import share_out

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
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


def excluding(mask: Bools, positions: Positions) -> Bools:
    """A copy of the mask that is False at these positions (flat, C order)."""
    rest = mask.copy()
    rest.ravel()[positions] = False
    return rest


def neighbours(volume: Floats, mask: Bools, positions: Positions) -> Floats:
    """The 26 neighbours of each position (flat, C order), NaN where unmeasured or outside; shape ``(n, 26)``."""
    index = np.stack(np.unravel_index(positions, volume.shape), axis=1)
    around = index[:, None, :] + OFFSETS
    inside = np.all((around >= 0) & (around < volume.shape), axis=2)
    around = np.where(inside[..., None], around, 0)
    where = tuple(np.moveaxis(around, 2, 0))
    return np.where(inside & mask[where], volume[where], np.nan)


class Around(NamedTuple):
    """What the trusted ones among the 26 neighbours of some voxels have in common; one entry a voxel."""

    middle: Floats
    """Their median; NaN where there is none."""
    spread: Floats
    """The distance from it within which four in five lie; NaN where there is none."""
    number: npt.NDArray[np.uint8]
    """How many there are."""


def surroundings(volume: Floats, trusted: Bools, positions: Positions) -> Around:
    """Compare the trusted voxels around each position (flat, C order)."""
    from .kernels_defects import around

    size = len(positions)
    found = Around(np.empty(size, volume.dtype), np.empty(size, volume.dtype), np.empty(size, np.uint8))
    share_out(lambda begin, end: around(volume, trusted, positions, *found, begin, end), size)
    return found


def standing_out(volume: Floats, trusted: Bools, wanted: Bools, least: float) -> Positions:
    """Flat positions of the wanted voxels that are further than ``least`` from at least half of their neighbours."""
    from .kernels_defects import far_from_most

    found = np.zeros(volume.shape, bool)
    step = volume.dtype.type(min(least, float(np.finfo(volume.dtype).max)))
    share_out(lambda b, e: far_from_most(volume, trusted, wanted, step, found, b, e), len(volume))
    return np.flatnonzero(found)


def column_statistics(volume: Floats, measured: Bools) -> tuple[Floats, Floats, Floats, Floats, Positions]:
    """``excess, level, same, agreeing, used`` of every pixel, ``(Y, X)``; see ``along_columns`` of the kernels."""
    from .kernels_defects import along_columns

    shape = volume.shape[1:]
    excess, level, same, agreeing = (np.zeros(shape, volume.dtype) for _ in range(4))
    used = np.zeros(shape, np.int64)
    share_out(lambda b, e: along_columns(volume, measured, excess, level, same, agreeing, used, b, e), shape[0])
    return excess, level, same, agreeing, used
