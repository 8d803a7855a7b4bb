"""A function of the estimated intensity, added to the estimate: chosen by Stein's estimate of the squared error.

A mixture of linear filters draws bright structures too dark, and the empty background uneven. How far the truth lies
from the estimate at an intensity, ``E[v - f | f]``, follows from the data. For white Gaussian noise and hat functions
``w_k`` of the estimate, Stein's lemma gives

    E [(v - f) w_k(f)] = E [(y - f) w_k(f) - sigma^2 w_k'(f) f'],

where ``f'`` is the derivative of the estimate at a voxel by the datum there, of which the trial has unbiased terms. The
second term is what the noise of the datum does: without it, voxels of high estimates would seem too bright in truth,
since their noise is. The correction ``sum c_k w_k(f)`` has the least squared error where ``A c = r``, ``A_kl = E [w_k
w_l]`` and ``r`` the expectations above. It is shrunk by what the uncertainty of ``r`` alone would make of it.

References
----------
F. Luisier, T. Blu, M. Unser, A new SURE approach to image denoising, doi:10.1109/TIP.2007.891064 (a linear expansion of
thresholds, whose coefficients follow from Stein's estimate).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
variance is the residual's and twice ``sigma^2 f'``, less the squared error."""

CAUTION = 2.0
"""The correction is shrunk as if its uncertainty were so many times as large."""


class Correction(NamedTuple):
    """A piecewise linear function of the estimate, constant beyond its ends."""

    intensities: Floats
    """Ascending."""
    added: Floats

    def __call__(self, estimate: Floats) -> Floats:
        """What is added to an estimate."""
        found: Floats = np.interp(estimate, self.intensities, self.added)
        return found

    def slope(self, estimate: Floats) -> Floats:
        """The derivative of what is added."""
        if len(self.intensities) == 1:
            return np.zeros(estimate.shape)
        left, _, rise = between(estimate, self.intensities)
        return np.asarray(np.diff(self.added)[left] * rise)


def correction(
    estimate: Floats, misfits: Floats, divergences: Floats, sigma: float, above: float = -math.inf
) -> Correction:
    """The correction of an estimate.

    Parameters
    ----------
    estimate, misfits, divergences : float arrays (n,)
        ``f``, ``f - y`` and terms of ``f'`` at measured voxels, see :class:`tensorcell.solvers.stein.Trial`.
    sigma : float
        Standard deviation of the noise.
    above : float
        The noise is Gaussian at higher intensities; nothing is added below.

    Examples
    --------
    An estimate that has half of the contrast of the truth, and noise of its own:

    >>> rng = np.random.default_rng(0)
    >>> truth, noise = rng.uniform(0, 10, 100_000), rng.standard_normal(100_000)
    >>> estimate = 0.5 * truth + 0.1 * noise
    >>> found = correction(estimate, estimate - truth - noise, np.full(truth.size, 0.1), 1.0)
    >>> np.round(found(np.array([1.0, 2.0, 4.0])), 1)
    array([1., 2., 4.])
    """
    knots = peaks(estimate, sigma, above)
    left, place, rise = between(estimate, knots)
    noise = sigma**2 * divergences
    squares, total = (both(left, v * (1 - place), v * place, knots) for v in (misfits**2 + 2 * noise, 1.0))
    free = slice(1 if knots[0] == above else 0, None)  # the first hat covers all that lies below
    if not len(knots[free]) or np.min(squares[free] / total[free]) < LEAST_NOISE * sigma**2:
        return Correction(np.zeros(1), np.zeros(1))
    below, over = -misfits * (1 - place) + noise * rise, -misfits * place - noise * rise
    right = both(left, below, over, knots)[free]
    gram = products(left, 1 - place, place, knots)[free, free]
    found = np.linalg.lstsq(gram, right, rcond=None)[0]
    uncertain = products(left, below, over, knots)[free, free] - np.outer(right, right) / estimate.size
    gain = float(right @ found)
    chance = float(np.trace(np.linalg.lstsq(gram, uncertain, rcond=None)[0]))
    share = max(0.0, 1 - CAUTION * chance / gain) if gain > 0 else 0.0
    added = np.zeros(len(knots))
    added[free] = share * found
    return Correction(knots, added)


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
