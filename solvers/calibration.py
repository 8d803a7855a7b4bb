"""Standard deviations of errors, calibrated by brightness at measured voxels that were left out of an estimate.

An estimate comes with a guess of how its error is distributed over the volume (the *shape*, a standard deviation up to
a factor). One factor for all voxels would make the intervals hold on average only: too wide in the background and too
narrow in the bright structures. So the left-out voxels are sorted into groups of similar predicted intensity, and each
group has a factor of its own.

=======  ===================================================================  ==================
letter   meaning                                                              shape
=======  ===================================================================  ==================
`e`      errors at left-out voxels, with the noise of the measurement         (n,)
`v`      variance that noise alone gives these errors                         (n,)
`s`      shape of the error at these voxels                                   (n,)
`k`      factor of a group: ``u = k s``                                       one a group
=======  ===================================================================  ==================

The interval of half-width ``1.645 sqrt(k^2 s^2 + v)`` contains an error exactly if ``k^2`` is at least
``((e / 1.645)^2 - v) / s^2``. So ``k^2`` is the .9 quantile of this score over the group (split conformal prediction,
see :func:`tensorcell.solvers.spread.conformal_width`), and at least 65 % of what it were without noise, since the
variance of the noise is an estimate, too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .spread import COVERED, LEAST_SHARE, NORMAL_QUANTILE

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

GROUPS, GROUP = 16, 100
"""Largest number of groups of voxels of similar intensity, and fewest voxels in a group. The quantile of 100 errors has
a coverage that is known to 3 %."""

LEAST_WIDTH = 0.1
"""Smallest standard deviation, as a share of the root mean square of all left-out errors: that most voxels of a group
were predicted exactly, as a background of zeros is, does not prove that the others are."""


class Calibration(NamedTuple):
    """Factors of the shape, as a function of the predicted intensity."""

    intensities: Doubles
    """Median of each group, ascending."""
    squares: Doubles
    """``k^2`` of each group."""
    least: float = 0.0
    """Smallest standard deviation, in the data's unit."""

    @staticmethod
    def constant(width: float) -> Calibration:
        """One standard deviation for all intensities."""
        return Calibration(np.zeros(1), np.array([width**2]))

    def __call__(self, intensity: Floats, shape: Floats | float = 1.0) -> Floats:
        """Standard deviations at voxels of any estimated intensity; factors are interpolated between the groups."""
        factor = np.sqrt(np.interp(intensity, self.intensities, self.squares))
        found: Floats = np.maximum(factor * shape, self.least)
        return found

    def bounded(self, least: float) -> Calibration:
        """The same, with no standard deviation below `least`."""
        return self._replace(least=max(self.least, least))


def calibrated(errors: Doubles, noise: Doubles, shape: Doubles, intensity: Doubles) -> Calibration:
    """Factors from errors at left-out voxels.

    Parameters
    ----------
    errors, noise, shape, intensity : float arrays (n,)
        ``e``, ``v``, ``s`` (positive) and the predicted intensity of each left-out voxel; at least one voxel.

    Examples
    --------
    Errors that are as wide as the intensity, under a shape that knows nothing of it:

    >>> rng = np.random.default_rng(0)
    >>> intensity = rng.uniform(1, 9, 40_000)
    >>> errors = intensity * rng.standard_normal(40_000)
    >>> found = calibrated(errors, np.zeros(40_000), np.ones(40_000), intensity)
    >>> np.round(found(np.array([2.0, 8.0])), 0)
    array([2., 8.])
    """
    middles, squares = [], []
    for part in groups_of(intensity, min(GROUPS, errors.size // GROUP)):
        middles.append(float(np.median(intensity[part])))
        squares.append(squared_factor(errors[part], noise[part], shape[part]))
    least = LEAST_WIDTH * math.sqrt(float(np.mean(np.square(errors))))
    return Calibration(np.array(middles), np.array(squares), least)


def squared_factor(errors: Doubles, noise: Doubles, shape: Doubles) -> float:
    """``k^2`` of one group."""
    share = min(1.0, COVERED * (1 + 1 / errors.size))
    square = np.square(errors / NORMAL_QUANTILE)
    without, whole = (float(np.quantile(part / np.square(shape), share)) for part in (square - noise, square))
    return max(without, LEAST_SHARE * whole)


def groups_of(keys: Doubles, count: int) -> list[npt.NDArray[np.intp]]:
    """Up to `count` groups of about equal size by ascending key, as positions; equal keys stay in one group."""
    edges = np.unique(np.quantile(keys, np.arange(1, max(1, count)) / max(1, count)))
    index = np.searchsorted(edges, keys)
    return [part for part in (np.flatnonzero(index == n) for n in range(len(edges) + 1)) if part.size]
