"""The 26 neighbours of voxels, as rows of an array."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

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


def neighbours(volume: Floats, mask: Bools, positions: Positions) -> Floats:
    """The 26 neighbours of each position (flat, C order), NaN where unmeasured or outside; shape ``(n, 26)``."""
    index = np.stack(np.unravel_index(positions, volume.shape), axis=1)
    around = index[:, None, :] + OFFSETS
    inside = np.all((around >= 0) & (around < volume.shape), axis=2)
    around = np.where(inside[..., None], around, 0)
    where = tuple(np.moveaxis(around, 2, 0))
    return np.where(inside & mask[where], volume[where], np.nan)
