"""Errors of planes that were not measured: between few measured planes, and beyond the first and the last one.

How planes differ with their distance ``h`` is all that the measured planes tell: the variogram
``g(h) = E (x(z + h) - x(z))^2 / 2``, which grows from 0 to the variance of the data, ``s^2``.

**Between two planes** a distance ``d`` apart, linear interpolation at the share ``t`` has the error (Cressie 1990)

    2 [(1 - t) g(t d) + t g((1 - t) d)] - 2 t (1 - t) g(d).

``g(d)`` is that of the two planes around each voxel. Below ``d`` nothing was measured. Where the measured planes have
two distances, the power law ``g(h) = g(d) (h / d)^a`` through these two is taken: ``a`` is 0 for unrelated planes, 1
for a random walk, 2 for straight lines. With a single distance the
exponential variogram ``s^2 (1 - rho^(h / d))`` is assumed, that of a process without memory beyond its last value.

**Beyond** the measured planes the nearest one is repeated. The error at distance ``h`` is calibrated by intensity on
all pairs of measured planes at that distance (:mod:`tensorcell.solvers.calibration`). At distances larger than any pair
it grows in proportion to ``h`` to the spread of the data about their mean, as seen from the intensity that is repeated:
``sqrt(s^2 + (x - mean)^2)``.

References
----------
N. Cressie, The origins of kriging, Mathematical Geology 22 (1990) 239-252, doi:10.1007/BF00889887.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, as_double, from_host, namespace_of, ndimage, scalar, to_host
from .calibration import Calibration, calibrated
from .noise import NoiseModel
from .positions import rounded

Doubles = npt.NDArray[np.float64]

WINDOW = 3.0
"""Gaussian width within planes, in voxels, over which squared differences of planes are averaged."""

EVEN = 0.1
"""Share of the squared differences that is spread evenly over a plane: two planes that are alike in one place do not
prove that the one between them is like them."""

LEAST_CORRELATION = 0.05
"""Smallest correlation that two planes are taken to have, so that the variogram between them is defined."""

SMALLEST_POWER, LARGEST_POWER = 1.0, 1.75
"""Range of the power of the variogram below the smallest distance of measured planes. Optics blur along z, so that
planes change there no faster than a random walk, even where those one gap apart are unrelated and the power is 0. With
a power of 2, that of straight lines, the plane between two would be known without any error."""

PAIR_VOXELS = 20_000
"""Largest number of voxels that are judged for each distance of planes, about."""


class Between(NamedTuple):
    """Variance of the error of a plane between two measured ones."""

    variance: Array
    """Of the interpolation, without noise."""
    passed: Array
    """From the noise of the two planes."""


def between_two(
    values: Array, positions: Doubles, target: float, noise: NoiseModel, power: float | None
) -> Between:  # fmt: skip
    """Errors of linear interpolation at a target strictly between two measured planes.

    Parameters
    ----------
    values : float array (m, Y, X)
        Measured planes. NumPy or CuPy; the variances are float64 and lie there, too.
    positions : float array (m,)
        Their positions, ascending.
    target : float
        Position of the plane that is interpolated.
    noise : NoiseModel
        The noise of the measured planes.
    power : float or None
        ``a`` of :func:`power_of_variogram`; None for the exponential variogram.
    """
    upper = int(np.searchsorted(positions, target))
    xp = namespace_of(values)
    below, above = as_double(values[upper - 1]), as_double(values[upper])
    share = float((target - positions[upper - 1]) / (positions[upper] - positions[upper - 1]))
    level = (noise.variance(below) + noise.variance(above)) / 2
    whole = without_noise(averaged(xp.square(above - below) / 2), averaged(level))
    if power is None:
        mean = xp.mean(values, dtype=xp.float64)
        spread = averaged((xp.square(above - mean) + xp.square(below - mean)) / 2)
        spread = xp.maximum(without_noise(spread, averaged(level)), whole)
        logarithm = xp.log(xp.maximum(1 - whole / xp.maximum(spread, 1e-300), LEAST_CORRELATION))
        near, far, whole = (-spread * xp.expm1(part * logarithm) for part in (share, 1 - share, 1.0))
    else:
        near, far = whole * share**power, whole * (1 - share) ** power
    variance = 2 * ((1 - share) * near + share * far) - 2 * share * (1 - share) * whole
    return Between(xp.maximum(variance, 0), ((1 - share) ** 2 + share**2) * level)


def power_of_variogram(values: Array, positions: Doubles, noise: NoiseModel) -> float | None:
    """``a`` of the power law through the variogram at the two smallest distances; None where there is one only."""
    lower, upper = np.triu_indices(len(positions), k=1)
    apart = rounded(positions[upper] - positions[lower])
    distances = np.unique(apart)[:2]
    if len(distances) < 2:
        return None
    xp = namespace_of(values)
    level = scalar(xp.mean(noise.variance(values), dtype=xp.float64))
    half = []
    for distance in distances:
        at = np.flatnonzero(apart == distance)
        ends = zip(lower[at].tolist(), upper[at].tolist(), strict=True)
        squares = [xp.mean(xp.square(values[k] - values[i]), dtype=xp.float64) / 2 for i, k in ends]
        square = scalar(xp.mean(xp.stack(squares)))
        half.append(max(square - level, EVEN * square, 1e-300))
    found = np.log(half[1] / half[0]) / np.log(distances[1] / distances[0])
    return float(np.clip(found, SMALLEST_POWER, LARGEST_POWER))


def averaged(plane: Array) -> Array:
    """The plane averaged over a window, with a tenth of its mean everywhere."""
    return EVEN * namespace_of(plane).mean(plane) + (1 - EVEN) * ndimage("gaussian_filter", plane, WINDOW)


def without_noise(square: Array, noise: Array) -> Array:
    """Squares less the variance of the noise, and at least a tenth of them."""
    return namespace_of(square).maximum(square - noise, EVEN * square)


class Repeated(NamedTuple):
    """Errors of planes that repeat a measured one."""

    distances: Doubles
    """Distances of pairs of measured planes, ascending; none where a single plane was measured."""
    laws: tuple[Calibration, ...]
    """The error at each of these distances."""
    noise: NoiseModel
    mean: float
    spread: float
    """Mean and standard deviation of the measured intensities."""

    def __call__(self, plane: Array, distance: float) -> Array:
        """Standard deviations of the error of a measured plane as an estimate of the one at a distance from it."""
        xp = namespace_of(plane)
        known = as_double(plane)
        squares = [self.noise.variance(known), *(xp.square(law(known)) for law in self.laws)]
        places = [0.0, *self.distances.tolist()]
        prior = self.spread**2 + xp.square(known - self.mean)
        upper = int(np.searchsorted(places, distance))
        if upper < len(places):
            share = (distance - places[upper - 1]) / (places[upper] - places[upper - 1])
            return xp.sqrt((1 - share) * squares[upper - 1] + share * squares[upper])
        if len(places) == 1:
            return xp.sqrt(prior)
        grown = xp.minimum(squares[-1] * distance / places[-1], prior)
        return xp.sqrt(xp.maximum(squares[-1], grown))


def repeated(values: Array, positions: Doubles, noise: NoiseModel, reach: float) -> Repeated:
    """Errors of repeated planes, from pairs of measured planes.

    Parameters
    ----------
    values, positions, noise
        As for :func:`between_two`.
    reach : float
        Largest distance at which errors will be asked for.
    """
    lower, upper = np.triu_indices(len(positions), k=1)
    apart = rounded(positions[upper] - positions[lower])
    distances = np.unique(apart)
    distances = distances[: int(np.searchsorted(distances, reach)) + 1]
    xp = namespace_of(values)
    flat = xp.reshape(values, (values.shape[0], -1))
    laws = []
    for distance in distances:
        at = np.flatnonzero(apart == distance)
        sample = flat[:, :: min(flat.shape[1], at.size * flat.shape[1] // PAIR_VOXELS | 1)]
        samples = (to_host(xp.take(sample, from_host(ends[at], values), axis=0)) for ends in (lower, upper))
        below, above = (each.ravel().astype(np.float64) for each in samples)
        here, there = np.concatenate([below, above]), np.concatenate([above, below])
        laws.append(calibrated(here - there, np.asarray(noise.variance(here)), np.ones(here.size), here))
    mean, spread = scalar(xp.mean(values, dtype=xp.float64)), scalar(xp.std(values, dtype=xp.float64))
    return Repeated(distances, tuple(laws), noise, mean, spread)
