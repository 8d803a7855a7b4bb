"""Interpolation between measured planes by a curve through each voxel along z, and the variance of its error."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


TOGETHER, CURVES = 1 << 20, 1 << 16
"""Voxels that are interpolated at a time, and how many of them in double precision, of which the curves need many
times as much."""


def pchip(values: Floats, positions: Doubles, targets: Doubles) -> Iterator[Floats]:
    """Monotone cubic interpolation along the first axis, one target after the other, in the dtype of `values`.

    Targets ascend. A part of them is computed at a time, as many as memory allows without being felt.
    """
    from scipy.interpolate import PchipInterpolator

    plane = math.prod(values.shape[1:])
    flat = values.reshape(len(values), plane)
    uppers = np.searchsorted(positions, targets)
    first = 0
    while first < len(targets):
        planes = np.maximum(uppers[first:] - uppers[first] + 4, np.arange(1, len(targets) - first + 1))
        last = first + max(1, int(np.searchsorted(planes, TOGETHER / plane, side="right")))
        # Two planes on either side determine the slopes at the nearest two.
        nearby = slice(max(uppers[first] - 2, 0), uppers[last - 1] + 2)
        found, step = np.empty((last - first, plane), values.dtype), max(1, CURVES // len(positions[nearby]))
        for begin in range(0, plane, step):
            part = slice(begin, begin + step)
            with np.errstate(over="ignore"):  # the reciprocal of a slope of 1e-310 is infinite, and the mean slope 0
                curve = PchipInterpolator(positions[nearby], flat[nearby, part], axis=0)
            found[:, part] = curve(targets[first:last])
        yield from found.reshape(-1, *values.shape[1:])
        first = last


def bridge_variance(values: Floats, positions: Doubles, target: float) -> Floats:
    """Variance ``t (1 - t) (difference)^2`` of a Brownian bridge between the two planes around the target."""
    upper = np.searchsorted(positions, target)
    share = float((target - positions[upper - 1]) / (positions[upper] - positions[upper - 1]))
    variance: Floats = share * (1 - share) * np.square(values[upper] - values[upper - 1])
    return variance
