"""What left-out planes show that none of their neighbours did, and where it may lie between two planes.

The law of the errors between planes speaks for the whole stack. A thin filament that moves further from plane to plane
than it is wide is a few voxels of it: kriging and optical flow miss it, and so does their law. But each measured plane
that is left out shows it. Its error, smoothed laterally as far as the optics smooth, is compared with the standard
deviation that the law predicts, or that such errors have in most of the plane, whichever is larger; where it stands
out, its *surprise* is its error, and 0 elsewhere. Between two measured planes the larger one of their surprises counts,
and what lies between two places that surprise does, too, since structure passes there on its way (a closing by a disc).

Intervals there reach at least as far as the surprise, times the root of the ratio in which the error is expected to
fall from the gap in which planes were left out to the gap itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, namespace_of, ndimage, scalar
from .autocorrelation import standardised_mean
from .spread import NORMAL_QUANTILE, robust_sigma

Doubles = npt.NDArray[np.float64]

WIDTH = 1.5
"""Gaussian width, in pixels, within which errors are averaged."""

STANDING_OUT = 4.0
"""Standard deviations from which on the mean error around a pixel is a surprise."""

REACH = 6
"""Pixels around a surprise within which another one closes the way between them."""


def surprise(error: Array, deviation: Array) -> Array | None:
    """Height of the error of a plane ``(Y, X)`` where it stands out of what is predicted, 0 elsewhere; None: nowhere.

    Parameters
    ----------
    error : float array ``(Y, X)``, NumPy or CuPy
        Prediction less measurement.
    deviation : float array ``(Y, X)``
        Standard deviation predicted, its noise included.
    """
    xp = namespace_of(error, deviation)
    some = deviation > 0
    relative = xp.where(some, error / xp.where(some, deviation, 1), 0)
    mean = xp.abs(standardised_mean(relative, WIDTH, (-2, -1)))
    highest = scalar(xp.max(mean))
    if highest <= STANDING_OUT:
        return None
    limit = STANDING_OUT * max(1.0, robust_sigma(mean))
    if highest <= limit:
        return None
    stands_out = ndimage("maximum_filter", xp.astype(mean > limit, xp.uint8), 3) > 0
    return xp.where(stands_out, ndimage("maximum_filter", xp.abs(error), 3), 0)


class Surprises(NamedTuple):
    """Surprises of the measured planes, by their index; planes without any are not in it."""

    planes: Mapping[int, Array]
    positions: Doubles
    """Of all measured planes."""
    energy: float
    """Mean energy of the error that was expected at the left-out planes, a pixel."""

    @property
    def share(self) -> float:
        """Share of the pixels of measured planes that surprise."""
        shares = (float(namespace_of(plane).mean(plane > 0)) for plane in self.planes.values())
        return sum(shares) / len(self.positions)

    def least_error(self, target: float, energy: float) -> Array | float:
        """Least standard deviation of the error at a target between two planes, where this energy is expected."""
        upper = int(np.searchsorted(self.positions, target))
        near = [self.planes[index] for index in (upper - 1, upper) if index in self.planes]
        if not near:
            return 0.0
        fall = min(energy / self.energy, 1.0) if self.energy > 0 else 1.0
        xp = namespace_of(*near)
        height = xp.pad(functools.reduce(xp.maximum, near), REACH)
        inside = (slice(REACH, -REACH),) * 2
        rows, columns = np.ogrid[-REACH : REACH + 1, -REACH : REACH + 1]
        disc = from_host(rows**2 + columns**2 <= REACH**2, height)
        closed = ndimage("grey_closing", height, footprint=disc, mode="constant")[inside]
        return math.sqrt(fall) / NORMAL_QUANTILE * closed
