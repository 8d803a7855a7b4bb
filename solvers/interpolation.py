"""Interpolation between measured planes by a curve through each voxel along z, and the variance of its error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


def pchip(values: Floats, positions: Doubles, targets: Doubles) -> Iterator[Floats]:
    """Monotone cubic interpolation along the first axis, one target after the other, in the dtype of `values`."""
    from scipy.interpolate import PchipInterpolator

    interval, curve = -1, None
    for target in targets:
        near = int(np.searchsorted(positions, target))
        if curve is None or near != interval:  # two planes on either side determine the slopes at the nearest two
            nearby = slice(max(near - 2, 0), near + 2)
            interval, curve = near, PchipInterpolator(positions[nearby], values[nearby], axis=0)
        yield curve(target).astype(values.dtype)


def bridge_variance(values: Floats, positions: Doubles, target: float) -> Floats:
    """Variance ``t (1 - t) (difference)^2`` of a Brownian bridge between the two planes around the target."""
    upper = np.searchsorted(positions, target)
    share = float((target - positions[upper - 1]) / (positions[upper] - positions[upper - 1]))
    variance: Floats = share * (1 - share) * np.square(values[upper] - values[upper - 1])
    return variance
