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

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .autocorrelation import standardised_mean
from .spread import NORMAL_QUANTILE, robust_sigma

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

WIDTH = 1.5
"""Gaussian width, in pixels, within which errors are averaged."""

STANDING_OUT = 4.0
"""Standard deviations from which on the mean error around a pixel is a surprise."""

REACH = 6
"""Pixels around a surprise within which another one closes the way between them."""


def surprise(error: Floats, deviation: Floats) -> Floats | None:
    """Height of the error of a plane ``(Y, X)`` where it stands out of what is predicted, 0 elsewhere; None: nowhere.

    Parameters
    ----------
    error : float array ``(Y, X)``
        Prediction less measurement.
    deviation : float array ``(Y, X)``
        Standard deviation predicted, its noise included.
    """
    from scipy.ndimage import maximum_filter

    relative = np.divide(error, deviation, out=np.zeros(error.shape), where=deviation > 0)
    mean = standardised_mean(relative, WIDTH, (-2, -1))
    stands_out = np.abs(mean) > STANDING_OUT * max(1.0, robust_sigma(mean))
    if not stands_out.any():
        return None
    height = np.where(maximum_filter(stands_out, 3), maximum_filter(np.abs(error), 3), 0)
    return np.asarray(height, error.dtype)


class Surprises(NamedTuple):
    """Surprises of the measured planes, by their index; planes without any are not in it."""

    planes: Mapping[int, Floats]
    positions: Doubles
    """Of all measured planes."""
    energy: float
    """Mean energy of the error that was expected at the left-out planes, a pixel."""

    @property
    def share(self) -> float:
        """Share of the pixels of measured planes that surprise."""
        return sum(float(np.mean(plane > 0)) for plane in self.planes.values()) / len(self.positions)

    def least_error(self, target: float, energy: float) -> Floats | float:
        """Least standard deviation of the error at a target between two planes, where this energy is expected."""
        from scipy.ndimage import grey_closing

        upper = int(np.searchsorted(self.positions, target))
        near = [self.planes[index] for index in (upper - 1, upper) if index in self.planes]
        if not near:
            return 0.0
        fall = min(energy / self.energy, 1.0) if self.energy > 0 else 1.0
        height = np.pad(np.maximum.reduce(near), REACH)
        inside = (slice(REACH, -REACH),) * 2
        rows, columns = np.ogrid[-REACH : REACH + 1, -REACH : REACH + 1]
        closed = grey_closing(height, footprint=rows**2 + columns**2 <= REACH**2, mode="constant")[inside]
        return np.asarray(math.sqrt(fall) / NORMAL_QUANTILE * closed, height.dtype)
