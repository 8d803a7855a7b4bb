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

import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, interpolated, namespace_of
from .spread import COVERED, LEAST_SHARE, NORMAL_QUANTILE

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

GROUPS, GROUP = 16, 100
"""Largest number of groups of voxels of similar intensity, and fewest voxels in a group. The quantile of 100 errors has
a coverage that is known to 3 %."""

BRIGHT, BRIGHT_COVERED = 0.1, 0.85
"""The brightest tenth of the left-out voxels, and the share of it that the intervals are to cover, too. A voxel is
often bright where little was predicted: groups by prediction alone leave out more of these than of others."""

BRIGHT_WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""How often a voxel of the brightest tenth counts; the first weight that suffices is taken."""

FEWEST_PAIRS = 30
"""Fewest pairs of neighbouring voxels from which what their errors share is computed."""

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

    def __call__(self, intensity: Array, shape: Array | float = 1.0) -> Array:
        """Standard deviations at voxels of any estimated intensity; factors are interpolated between the groups."""
        xp = namespace_of(intensity)
        factor = xp.sqrt(interpolated(intensity, self.intensities, self.squares))
        return xp.maximum(factor * shape, self.least)

    def bounded(self, least: float) -> Calibration:
        """The same, with no standard deviation below `least`."""
        return self._replace(least=max(self.least, least))


def calibrated(
    errors: Doubles,
    noise: Doubles,
    shape: Doubles,
    intensity: Doubles,
    structure: Doubles | None = None,
    least_share: float = LEAST_SHARE,
) -> Calibration:
    """Factors from errors at left-out voxels.

    Parameters
    ----------
    errors, noise, shape, intensity : float arrays (n,)
        ``e`` (estimate less measurement), ``v``, ``s`` (positive) and the estimate at each left-out voxel; at least one
        voxel.
    structure : float array (n,), optional
        Products of each error with those of its neighbours: their mean is free of white noise.
    least_share : float
        Smallest share of the squared width that is not put down to noise where `structure` is not given.

    Examples
    --------
    Errors that are as wide as the intensity, under a shape that knows nothing of it:

    >>> rng = np.random.default_rng(0)
    >>> intensity = rng.uniform(10, 90, 40_000)
    >>> errors = intensity / 10 * rng.standard_normal(40_000)
    >>> found = calibrated(errors, np.zeros(40_000), np.ones(40_000), intensity)
    >>> np.round(found(np.array([20.0, 80.0])), 0)
    array([2., 8.])
    """
    parts = groups_of(intensity, min(GROUPS, errors.size // GROUP))
    least = LEAST_WIDTH * math.sqrt(float(np.mean(np.square(errors))))
    bright = brightest(errors, noise, intensity)
    middles = np.array([np.median(intensity[part]) for part in parts])
    factors = [
        SquaredFactor.of(errors[part], noise[part], shape[part], least_share if structure is None else structure[part])
        for part in parts
    ]
    for weight in BRIGHT_WEIGHTS:
        counted = np.where(bright, weight, 1.0)
        squares = [factor(counted[part]) for factor, part in zip(factors, parts, strict=True)]
        found = Calibration(*distinct(middles, np.array(squares)), least)
        half = NORMAL_QUANTILE * np.sqrt(np.square(found(intensity, shape)) + noise)
        if np.mean(np.abs(errors)[bright] <= half[bright]) >= BRIGHT_COVERED:
            break
    return found


def distinct(middles: Doubles, squares: Doubles) -> tuple[Doubles, Doubles]:
    """Groups of one intensity, such as exact zeros, joined with the largest of their factors.

    Nothing can be interpolated between equal intensities, nor between those that differ by rounding.

    >>> distinct(np.array([0.0, 0.0, 1e-300, 2.0]), np.array([1.0, 4.0, 3.0, 5.0]))
    (array([0., 2.]), array([4., 5.]))
    """
    step = 1e-12 * float(np.ptp(middles))
    starts = np.flatnonzero(np.diff(middles, prepend=-np.inf) > step)
    return middles[starts], np.maximum.reduceat(squares, starts)


def brightest(errors: Doubles, noise: Doubles, intensity: Doubles) -> npt.NDArray[np.bool_]:
    """The tenth of the voxels that is brightest in truth, as far as this is known.

    In the brightest tenth of the measurements noise would be over-represented. So the truth is taken to lie between
    estimate and measurement, at the share of the variance of the measurements that is not noise.
    """
    spread, level = float(np.var(intensity)), float(np.mean(noise))
    share = spread / (spread + level) if spread > 0 else 0.0
    truth = intensity - share * errors
    return np.asarray(truth >= np.quantile(truth, 1 - BRIGHT))


class Ordered(NamedTuple):
    """Values in ascending order, and where they stood."""

    values: Doubles
    order: npt.NDArray[np.intp]


def ordered(values: Doubles) -> Ordered:
    """Sort values."""
    order = np.argsort(values)
    return Ordered(values[order], order)


class SquaredFactor(NamedTuple):
    """``k^2`` of one group of left-out voxels, as a function of their weights."""

    without: Ordered
    """``(e^2 - v) / s^2``, where the errors are those of a normal distribution."""
    whole: Ordered
    """``e^2 / s^2``."""
    share: float
    """Smallest share of the whole that is not put down to noise."""
    structure: float
    """Mean product of the errors of neighbours, over the mean of ``s^2``: no less is not noise. 0 where not known."""

    @staticmethod
    def of(errors: Doubles, noise: Doubles, shape: Doubles, least: Doubles | float) -> SquaredFactor:
        """`least` is a share, or the products of neighbours at each voxel."""
        square, form = np.square(errors / NORMAL_QUANTILE), np.square(shape)
        without, whole = ordered((square - noise) / form), ordered(square / form)
        if isinstance(least, float):
            return SquaredFactor(without, whole, least, 0.0)
        return SquaredFactor(without, whole, LEAST_WIDTH, float(np.mean(least)) / float(np.mean(form)))

    def __call__(self, weights: Doubles) -> float:
        """The factor where voxels have these weights."""
        share = COVERED * (1 + 1 / weights.size)
        without, whole = (weighted_quantile(part, weights, share) for part in (self.without, self.whole))
        return max(without, self.share * whole, min(self.structure, whole))


def weighted_quantile(part: Ordered, weights: Doubles, share: float) -> float:
    """The smallest value up to which the weights add up to at least this share of their sum.

    >>> weighted_quantile(ordered(np.array([3.0, 1.0, 2.0])), np.array([2.0, 1.0, 1.0]), 0.5)
    2.0
    """
    total = np.cumsum(weights[part.order])
    place = np.searchsorted(total, min(share, 1.0) * total[-1] * (1 - 1e-12))
    return float(part.values[min(int(place), part.values.size - 1)])


def groups_of(keys: Doubles, count: int) -> list[npt.NDArray[np.intp]]:
    """Up to `count` groups of about equal size by ascending key, as positions; equal keys stay in one group."""
    edges = np.unique(np.quantile(keys, np.arange(1, max(1, count)) / max(1, count)))
    index = np.searchsorted(edges, keys)
    return [part for part in (np.flatnonzero(index == n) for n in range(len(edges) + 1)) if part.size]


def least_share_of(errors: Floats, known: npt.NDArray[np.bool_]) -> float:
    """Smallest share of the squared errors at left-out voxels that is not put down to noise.

    Noise is not shared by neighbouring voxels, and errors of an estimate are: the mean product of the errors of pairs
    of neighbours, over the mean square, is that share. Its upper limit of two standard errors is returned, and at most
    65 %.

    Parameters
    ----------
    errors : float array of any shape
        Errors where `known`, any finite number elsewhere.
    known : bool array of the same shape
        True = left out.
    """
    values = np.where(known, errors, 0.0).astype(np.float64)
    square = float(np.sum(values**2)) / max(1, int(np.count_nonzero(known)))
    products = []
    for offset in itertools.product((-1, 0, 1), repeat=values.ndim):
        if offset > (0,) * values.ndim:
            here, there = (tuple(cut(sign * step) for step in offset) for sign in (1, -1))
            products.append((values[here] * values[there])[known[here] & known[there]])
    pairs = np.concatenate(products)
    if pairs.size < FEWEST_PAIRS or not square > 0:
        return LEAST_SHARE
    highest = float(pairs.mean()) + 2 * float(pairs.std()) / math.sqrt(pairs.size)
    return min(LEAST_SHARE, max(LEAST_WIDTH**2, highest / square))


def cut(step: int) -> slice:
    """An axis without its first voxel (1), its last (-1) or whole (0)."""
    return slice(max(step, 0), min(step, 0) or None)


def neighbours_mean(values: Array, known: Array | None = None) -> Array:
    """Mean of the known neighbours along the last two axes, in float64; 0 where a voxel has none."""
    xp = namespace_of(values, known)
    known = xp.ones(values.shape, dtype=xp.bool) if known is None else known
    values = xp.where(known, values, 0.0)
    total, count = (xp.zeros(values.shape, dtype=xp.float64) for _ in range(2))
    for axis in (-2, -1):
        here, there = xp.moveaxis(total, axis, 0), xp.moveaxis(count, axis, 0)  # views, into which the sums go
        source, known_source = xp.moveaxis(values, axis, 0), xp.moveaxis(known, axis, 0)
        for to, of in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            here[to] += source[of]
            there[to] += known_source[of]
    return total / xp.maximum(count, 1)
