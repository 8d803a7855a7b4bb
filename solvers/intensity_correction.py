"""A function of the estimated intensity, added to the estimate: chosen by an unbiased estimate of the squared error.

A mixture of linear filters draws bright structures too dark, and the empty background uneven. How far the truth lies
from the estimate at an intensity, ``E[v - F | f]``, follows from the data. For hat functions ``w_k`` of the estimate
``f``, which means an intensity ``F``, the lemmas of :mod:`tensorcell.solvers.noise_terms` give

    E [(v - F) w_k(f)] = E [(x - F) w_k(f) - c w_k'(f) f'],

where ``f'`` is the derivative of the estimate at a voxel by the datum there, of which the trial has unbiased terms, and
``c = sigma^2`` for Gaussian noise. The second term is what the noise of the datum does: without it, voxels of high
estimates would seem too bright in truth, since their noise is. The correction ``sum a_k w_k(f)`` has the least squared
error where ``A a = r``, ``A_kl = E [w_k w_l]`` and ``r`` the expectations above. It is a sum of parts whose
uncertainties are independent, and each part is shrunk by its own (the nonnegative garrote).

References
----------
F. Luisier, T. Blu, M. Unser, A new SURE approach to image denoising, doi:10.1109/TIP.2007.891064 (a linear expansion of
thresholds, whose coefficients follow from Stein's estimate). L. Breiman, Better subset regression using the nonnegative
garrote, doi:10.1080/00401706.1995.10484371.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, interpolated
from .noise_terms import Noise

Floats = npt.NDArray[np.floating[Any]]

KNOTS = (0.002, 0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.88, 0.94, 0.97, 0.985, 0.993, 0.998)
"""Quantiles of the estimate at which hat functions may have their peaks: closer together where it is bright."""

APART, APART_VOXELS = 0.25, 60_000
"""Peaks are no closer together than so many standard deviations of the noise, and further in trials of fewer voxels:
the closer they are, the less is known of the second term."""

LEAST_VOXELS = 300
"""Fewest voxels between two peaks."""

LEAST_NOISE = 0.8
"""Nothing is added if the noise at some intensity has a variance of less than this share of what it is taken for: its
variance is the residual's and twice ``c f'``, less the squared error."""

FINE = 8
"""Pieces between two peaks, in each of which an intensity that was added is one stabilised value added."""


class Correction(NamedTuple):
    """A piecewise linear function of the estimate, constant beyond its ends."""

    intensities: Floats
    """Ascending."""
    added: Floats

    def __call__(self, estimate: Array) -> Array:
        """What is added to an estimate."""
        return interpolated(estimate, self.intensities, self.added)

    def slope(self, estimate: Floats) -> Floats:
        """The derivative of what is added."""
        if len(self.intensities) == 1:
            return np.zeros(estimate.shape)
        left, _, rise = between(estimate, self.intensities)
        return np.asarray(np.diff(self.added)[left] * rise)


def correction(estimate: Floats, misfits: Floats, divergences: Floats, noise: Noise) -> Correction:
    """The correction of an estimate.

    Parameters
    ----------
    estimate, misfits, divergences : float arrays (n,)
        ``f``, ``f - y`` and terms of ``f'`` at measured voxels, see :class:`tensorcell.solvers.stein.Trial`.
    noise : Gaussian or Photons
        The error is that of the intensity which the estimate means.

    Examples
    --------
    An estimate that has half of the contrast of the truth, and noise of its own:

    >>> from tensorcell.solvers.noise_terms import Gaussian
    >>> rng = np.random.default_rng(0)
    >>> truth, noise = rng.uniform(0, 10, 100_000), rng.standard_normal(100_000)
    >>> estimate = 0.5 * truth + 0.1 * noise
    >>> found = correction(estimate, estimate - truth - noise, np.full(truth.size, 0.1), Gaussian(1.0))
    >>> np.round(found(np.array([1.0, 2.0, 4.0])), 1)
    array([1., 2., 4.])
    """
    knots, values = peaks(estimate, noise.sigma, noise.above), estimate - misfits
    measured, passed_on = noise.measured(values), noise.factor(values) * divergences
    lacking = measured - noise.expected(estimate)
    left, place, rise = between(estimate, knots)
    terms = lacking**2 + 2 * passed_on * noise.slope(estimate)
    squares, taken = (both(left, v * (1 - place), v * place, knots) for v in (terms, noise.variance(measured)))
    free = slice(1 if knots[0] == noise.above else 0, None)  # the first hat covers all that lies below
    if not len(knots[free]) or np.any((squares < LEAST_NOISE * taken)[free]):
        return Correction(np.zeros(1), np.zeros(1))
    # A photon moves the estimate by so much: the derivative is that in the middle.
    middle, _, slope = between(estimate - noise.step(values) * max(float(divergences.mean()), 0) / 2, knots)
    right = both(left, lacking * (1 - place), lacking * place, knots)
    right += both(middle, passed_on * slope, -passed_on * slope, knots)
    below, over = lacking * (1 - place) + passed_on * rise, lacking * place - passed_on * rise
    uncertain = products(left, below, over, knots) - np.outer(right, right) / estimate.size
    added = np.zeros(len(knots))
    gram = products(left, 1 - place, place, knots)
    added[free] = shrunk(gram[free, free], right[free], uncertain[free, free])
    fine = np.interp(np.arange(FINE * (len(knots) - 1) + 1) / FINE, np.arange(len(knots)), knots)
    wanted = noise.expected(fine) + np.interp(fine, knots, added)
    return Correction(fine, noise.reached(wanted) - fine)


def shrunk(gram: Floats, right: Floats, uncertain: Floats) -> Floats:
    """The solution of ``gram a = right`` in parts, each less by its variance over its square, or 0.

    ``uncertain`` is the covariance of ``right``; the parts are orthogonal by ``gram``, and not correlated.

    >>> shrunk(np.eye(2), np.array([10.0, 1.0]), np.array([[10.0, 0.0], [0.0, 2.0]]))
    array([9., 0.])
    """
    from scipy.linalg import eigh

    variances, parts = eigh(uncertain, gram)
    found = parts.T @ right
    share = np.maximum(1 - variances / np.maximum(found**2, np.finfo(float).tiny), 0)
    return np.asarray(parts @ (share * found))


def peaks(estimate: Floats, sigma: float, above: float) -> Floats:
    """Intensities at which hat functions have their peaks; the first is ``above`` if that is not below them all."""
    apart = APART * sigma * math.sqrt(max(1.0, APART_VOXELS / estimate.size))
    ordered = np.sort(estimate)
    first, *others = np.maximum(np.quantile(ordered, KNOTS), above)
    found, counted = [first], np.searchsorted(ordered, first)
    for knot in others:
        count = np.searchsorted(ordered, knot)
        if knot - found[-1] >= max(apart, np.finfo(np.float32).tiny) and count - counted >= LEAST_VOXELS:
            found.append(knot)
            counted = count
    return np.array(found)


def between(estimate: Floats, knots: Floats) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    """Of each estimate, the knot at its left, its place from there to the next one in [0, 1], and the derivative of it.

    Only the hats of these two knots are not 0 there: they are 1 less the place, and the place.
    """
    if len(knots) == 1:
        return np.zeros(estimate.shape, np.intp), np.zeros(estimate.shape), np.zeros(estimate.shape)
    left = np.clip(np.searchsorted(knots, estimate) - 1, 0, len(knots) - 2)
    width = np.diff(knots)[left]
    place = np.clip((estimate - knots[left]) / width, 0, 1)
    return left, place, np.where((estimate > knots[0]) & (estimate < knots[-1]), 1 / width, 0)


def both(left: npt.NDArray[np.intp], here: Floats, there: Floats, knots: Floats) -> Floats:
    """Sums of what each voxel gives to the hat at its left, and to the next one."""
    count = len(knots)
    sums = np.bincount(left, here, count) + np.bincount(left + 1, there, count + 1)[:count]
    return np.asarray(sums, np.float64)


def products(left: npt.NDArray[np.intp], here: Floats, there: Floats, knots: Floats) -> Floats:
    """The same for the products of these, of all pairs of hats."""
    mixed = np.bincount(left, here * there, len(knots))[: len(knots) - 1]
    found: Floats = np.diag(both(left, here**2, there**2, knots)) + np.diag(mixed, 1) + np.diag(mixed, -1)
    return found
