"""Positions of planes along an axis, in planes of the wanted stack: whole numbers and others, rounding set aside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

GRAIN = 2.0**-20
"""Positions and distances that differ by less are taken as one. It is a power of two, so that whole numbers, halves
and so on stay what they are when they are rounded to it."""


def snapped(positions: npt.ArrayLike) -> Doubles:
    """The positions, those that are whole numbers but for rounding as whole numbers.

    >>> snapped([0, 3 * 0.1 * 10, 2.5]).tolist()
    [0.0, 3.0, 2.5]
    """
    given = np.asarray(positions, dtype=np.float64)
    whole = np.round(given)
    return np.where(np.abs(given - whole) <= GRAIN, whole, given)


def rounded(distances: npt.ArrayLike) -> Doubles:
    """Distances, those that differ by rounding alone as one number, so that they can be compared.

    >>> np.unique(rounded(np.diff(np.arange(7) / 0.3))).size, rounded([1, 2.5]).tolist()
    (1, [1.0, 2.5])
    """
    return np.asarray(np.round(np.asarray(distances, dtype=np.float64) / GRAIN) * GRAIN)
