"""Interpolation between measured planes by a curve through each voxel along z, and the variance of its error.

References
----------
F. N. Fritsch, J. Butland, A method for constructing local monotone piecewise cubic interpolants, SIAM J. Sci. Stat.
Comput. 5 (1984) 300-304, doi:10.1137/0905021. C. Moler, Numerical Computing with MATLAB, SIAM 2004,
doi:10.1137/1.9780898717952, section 3.4 (slopes at the ends).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .arrays import Array, as_double, namespace_of
from .slabs import parts_of

Doubles = npt.NDArray[np.float64]

CURVES = 1 << 16
"""Voxels of a plane whose curves are computed at a time, in double precision; more on a GPU."""


def pchip(values: Array, positions: Doubles, targets: Doubles) -> Iterator[Array]:
    """Monotone cubic interpolation along the first axis, one target after the other, in the dtype of `values`.

    The curves are those of ``scipy.interpolate.PchipInterpolator``. CuPy's evaluates all curves at one target in a
    single thread, so that they are computed here, from the four planes around each target.

    Parameters
    ----------
    values : float array ``(m, Y, X)``
        NumPy or CuPy, at least two planes.
    positions : float array ``(m,)``
        Their positions, ascending.
    targets : float array ``(n,)``
        Positions between the first and the last of these.
    """
    for target in targets:
        upper = int(np.clip(np.searchsorted(positions, target, side="right"), 1, len(positions) - 1))
        near = slice(max(upper - 2, 0), upper + 2)
        plane = namespace_of(values).empty_like(values[0])
        for part in parts_of(plane, CURVES):
            planes = [as_double(one) for one in values[near, part]]
            plane[part] = hermite(planes, positions[near], upper - near.start, float(target))
        yield plane


def hermite(planes: list[Array], positions: Doubles, upper: int, target: float) -> Array:
    """The curves through up to four planes, at a target below the one of index ``upper``."""
    steps = [float(step) for step in np.diff(positions)]
    secants = [(b - a) / step for a, b, step in zip(planes, planes[1:], steps, strict=False)]
    below, above = (slope_at(index, secants, steps) for index in (upper - 1, upper))
    step, secant = steps[upper - 1], secants[upper - 1]
    bend = (below + above - 2 * secant) / step
    way = target - float(positions[upper - 1])
    return planes[upper - 1] + below * way + ((secant - below) / step - bend) * way**2 + bend / step * (way**2 * way)


def slope_at(index: int, secants: list[Array], steps: list[float]) -> Array:
    """Slopes of the curves at a plane: the weighted harmonic mean of those of the lines to its neighbours.

    It is 0 where one goes up and the other one down.
    """
    if len(secants) == 1:
        return secants[0]
    if index in (0, len(secants)):
        return slope_at_end(secants if index == 0 else secants[::-1], steps if index == 0 else steps[::-1])
    xp = namespace_of(secants[0])
    (before, after), (short, long) = secants[index - 1 : index + 1], steps[index - 1 : index + 1]
    first, second = 2 * long + short, long + 2 * short
    with np.errstate(all="ignore"):  # the reciprocal of a slope of 1e-310 is infinite, and the mean slope 0
        mean = 1 / ((first / before + second / after) / (first + second))
    return xp.where(xp.sign(before) * xp.sign(after) > 0, mean, 0.0)


def slope_at_end(secants: list[Array], steps: list[float]) -> Array:
    """Slopes at the first of three planes, of a parabola through them as far as it does not overshoot."""
    xp = namespace_of(secants[0])
    (near, far), (one, other) = secants[:2], steps[:2]
    slope = ((2 * one + other) * near - one * far) / (one + other)
    steep = (xp.sign(near) != xp.sign(far)) & (xp.abs(slope) > 3 * xp.abs(near))
    return xp.where(xp.sign(slope) != xp.sign(near), 0.0, xp.where(steep, 3 * near, slope))


def bridge_variance(values: Array, positions: Doubles, target: float) -> Array:
    """Variance ``t (1 - t) (difference)^2`` of a Brownian bridge between the two planes around the target."""
    upper = int(np.searchsorted(positions, target))
    share = float((target - positions[upper - 1]) / (positions[upper] - positions[upper - 1]))
    return share * (1 - share) * namespace_of(values).square(values[upper] - values[upper - 1])
