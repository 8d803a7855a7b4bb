"""Correlation of the noise between neighbouring voxels, within planes and along z, as opposed to structure.

The noise of resampled or demosaiced images is weak at the highest frequencies. The products of neighbouring residuals,
after a fit of few cosines, are compared with those that a Gaussian blur of white noise would leave after the same fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .arrays import Array
from .noise_classes import TOLERATED, flattest
from .noise_fits import Fits, cleaned, fitted, mean_operator, operator_products, residual_operators
from .noise_patches import SIDE, Doubles, Ints, Sample, read_patches
from .spread import MEDIAN_DEVIATION

OPERATORS = 256
"""Patches for which the operator of the fit is formed, where voxels are missing and each patch has its own."""

CORRELATED = 0.08
"""Correlations within planes above this are undone. Below it, up to 10 % of sigma is missed: white noise in texture
shows up to .07, and undoing that would err as much the other way."""

UNEVEN = 1.1
"""Noise has the same power in all patches of one intensity, structure has not: where the patches next to the flattest
hold so many times the energy of the flattest, what looks like correlation may be structure."""

FEWEST = 30
"""Pairs of patches without which no correlation along z is given."""


class Within(NamedTuple):
    """Correlation along y and x, and whether it matters (None: it cannot be told from structure)."""

    correlation: tuple[float, float]
    correlated: bool | None


UNKNOWN = Within((np.nan, np.nan), None)


def blur_matrix(side: tuple[int, int], correlation: Doubles | tuple[float, float]) -> Doubles:
    """Correlation ``(n, n)`` between the voxels of a patch of white noise under a separable Gaussian blur.

    Along each axis it is ``c^(lag^2)`` with the correlation ``c`` of neighbours (signs alternate if it is negative).
    """
    parts = []
    for length, c in zip(side, correlation, strict=True):
        lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        parts.append(np.sign(c) ** lag * np.abs(c) ** (lag.astype(float) ** 2))
    return np.asarray(np.kron(*parts))


def correlation_within_planes(fits: Fits, side: tuple[int, int]) -> Within:
    """Correlation of the noise along y and x under a separable Gaussian model, from products of neighbours.

    With ``Q`` the operator of the fit, ``A`` the pairs of neighbours and ``C`` the correlation of the noise,
    ``E[r' A r] / E[r' r] = tr(Q A Q C) / tr(Q Q C)``: two equations (``A`` along y, along x) for two correlations.
    """
    from scipy.optimize import least_squares

    if min(side) < 4 or side[0] * side[1] > 4 * SIDE**2:
        return UNKNOWN
    chosen = flattest(fits, 0.1)
    rows = np.concatenate(chosen)
    operators = residual_operators(fits, rows[:: 1 + len(rows) // (OPERATORS * SIDE**2 // fits.basis.shape[0])])
    neighbours = (np.kron(np.eye(side[0], k=1), np.eye(side[1])), np.kron(np.eye(side[0]), np.eye(side[1], k=1)))
    energy = np.sum(fits.residual**2, axis=1)
    found, expected = [], [np.mean(operators, axis=0)]
    for upper in neighbours:
        pairs = (upper + upper.T) / 2
        products = np.sum((fits.residual @ pairs) * fits.residual, axis=1)
        ratio = np.divide(products, energy, out=np.full_like(energy, np.nan), where=energy > 0)
        ratios = [ratio[group][energy[group] > 0] for group in chosen]
        found.append(noise_level([each for each in ratios if each.size >= 10]))
        expected.append(np.mean(np.matmul(np.matmul(operators, pairs), operators), axis=0))
    if not np.all(np.isfinite(found)):
        return UNKNOWN

    def difference(correlation: Doubles) -> Doubles:
        c = blur_matrix(side, correlation)
        total = np.sum(expected[0] * c)
        return np.array([np.sum(e * c) / total - f for e, f in zip(expected[1:], found, strict=True)])

    along = least_squares(difference, [0.0, 0.0], bounds=(-0.9, 0.97)).x
    correlated = bool(np.max(np.abs(along)) > CORRELATED)
    if correlated and is_uneven(fits):
        return UNKNOWN
    return Within((float(along[0]), float(along[1])), correlated)


def variance_left(fits: Fits, side: tuple[int, int], correlation: tuple[float, float]) -> float:
    """Variance of the residual of noise so correlated, relative to that of white noise of the same variance."""
    operator = mean_operator(fits, np.arange(len(fits.observed))[:OPERATORS])
    return float(np.sum(operator * blur_matrix(side, correlation)) / np.trace(operator))


def noise_level(classes: list[Doubles]) -> float:
    """Lower quartile of the means of the classes: structure adds to some of them, noise is in all.

    The quartile of equal means lies .67 of their standard errors below them; so much is added.
    """
    if not classes:
        return np.nan
    means = [float(np.mean(values)) for values in classes]
    errors = [float(np.std(values)) / np.sqrt(values.size) for values in classes]
    below = MEDIAN_DEVIATION * float(np.median(errors)) if len(classes) > 1 else 0.0
    return float(np.quantile(means, 0.25)) + below


def is_uneven(fits: Fits) -> bool:
    """Whether the residual grows from the flattest tenth of the patches to the next three tenths in most classes."""
    energy = np.sum(fits.residual**2, axis=1) / fits.freedom
    growth = []
    for flat, more in zip(flattest(fits, 0.1), flattest(fits, 0.4), strict=True):
        least = float(np.median(energy[flat]))
        rest = more[len(flat) :]
        if rest.size >= 10:
            growth.append(float(np.median(energy[rest])) / least if least > 0 else np.inf)
    return not growth or float(np.quantile(growth, 0.25)) > UNEVEN


def correlation_along_z(data: Array, mask: Array | None, sample: Sample, fits: Fits) -> tuple[float, bool | None]:
    """Correlation of the residuals of the flattest patches with those of the next plane, and whether it matters.

    The correlation is NaN where no two planes were observed one above the other; whether it matters is None where it
    cannot be told from structure.
    """
    n = len(fits.basis)
    rows = np.concatenate(flattest(fits, 0.1))
    rows = rows[fits.corners[rows, 0] + 1 < data.shape[0]]
    complete = bool(fits.observed.all())
    if not complete:
        rows = np.random.default_rng(0).permutation(rows)[: 2 * OPERATORS * SIDE**2 // n]
    if len(rows) < FEWEST or n > 4 * SIDE**2:
        return np.nan, False
    partner = partner_fits(data, mask, sample, fits, rows)
    alike = partner.basis.shape == fits.basis.shape and bool(partner.observed.all()) == complete
    if not alike or len(partner.rows) < FEWEST:
        return np.nan, False
    c, error = correlation_of(fits, rows[partner.rows], partner)
    if np.isnan(c) or abs(c) <= max(TOLERATED, 3 * error):
        return c, False
    return (np.nan, None) if is_uneven(fits) else (c, True)


def partner_fits(data: Array, mask: Array | None, sample: Sample, fits: Fits, rows: Ints) -> Fits:
    """Fits of the patches one plane above these; its ``rows`` are places in `rows`."""
    above: Ints = fits.corners[rows] + np.array([1, 0, 0])
    patches = read_patches(data, mask, above, sample.side)
    moved = sample._replace(values=patches.values, observed=patches.observed, corners=above)
    return fitted(cleaned(moved)[0], fits.basis.shape[1], share=1.0)


def correlation_of(fits: Fits, rows: Ints, partner: Fits) -> tuple[float, float]:
    """Correlation ``c`` of the noise of patches one above the other, and its standard error; NaN if they are too few.

    ``E[r' s] = c tr(Q S)`` for residuals ``r``, ``s`` of two planes with operators ``Q``, ``S``.
    """
    first, second = fits.observed[rows], partner.observed
    if first.all() and second.all():  # all patches have the same operator
        first, second = first[:1], second[:1]
    r, s = fits.residual[rows], partner.residual
    size = np.sqrt(np.sum(r**2, axis=1) * np.sum(s**2, axis=1))
    own = np.sqrt(operator_products(first, first, fits.basis) * operator_products(second, second, fits.basis))
    expected = np.broadcast_to(operator_products(first, second, fits.basis) / own, size.shape)
    usable = (size > 0) & (expected > 0)
    if usable.sum() < FEWEST:
        return np.nan, np.nan
    c = float(np.sum(np.sum(r * s, axis=1)[usable] / size[usable]) / expected[usable].sum())
    return c, float(1 / np.sqrt(np.sum(expected[usable] ** 2 * fits.freedom[rows][usable])))
