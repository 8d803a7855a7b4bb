"""Interpolation between measured planes by a curve through each voxel along z, and the variance of its error."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


TOGETHER = 1 << 20
"""Voxels that are interpolated at a time: in double precision, and the curves need several times as much."""


def pchip(values: Floats, positions: Doubles, targets: Doubles) -> Iterator[Floats]:
    """Monotone cubic interpolation along the first axis, one target after the other, in the dtype of `values`.

    Targets ascend. A part of them is computed at a time, as many as memory allows without being felt.
    """
    from scipy.interpolate import PchipInterpolator

    plane = math.prod(values.shape[1:])
    uppers = np.searchsorted(positions, targets)
    first = 0
    while first < len(targets):
        planes = np.maximum(uppers[first:] - uppers[first] + 4, np.arange(1, len(targets) - first + 1))
        last = first + max(1, int(np.searchsorted(planes, TOGETHER / plane, side="right")))
        # Two planes on either side determine the slopes at the nearest two.
        nearby = slice(max(uppers[first] - 2, 0), uppers[last - 1] + 2)
        with np.errstate(over="ignore"):  # the reciprocal of a slope of 1e-310 is infinite, and the mean slope 0
            curve = PchipInterpolator(positions[nearby], values[nearby], axis=0)
        yield from curve(targets[first:last]).astype(values.dtype)
        first = last


def bridge_variance(values: Floats, positions: Doubles, target: float) -> Floats:
    """Variance ``t (1 - t) (difference)^2`` of a Brownian bridge between the two planes around the target."""
    upper = np.searchsorted(positions, target)
    share = float((target - positions[upper - 1]) / (positions[upper] - positions[upper - 1]))
    variance: Floats = share * (1 - share) * np.square(values[upper] - values[upper - 1])
    return variance
