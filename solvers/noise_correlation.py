"""Correlation of the noise between neighbouring voxels, within planes and along z, as opposed to structure.

The noise of resampled or demosaiced images is weak at the highest frequencies. The products of neighbouring residuals,
after a fit of three eighths of the cosines, are compared with those that noise of any autocorrelation leaves after the
same fit. A fit of fewer cosines leaves structure, so that white noise beside it seems correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .arrays import Array
from .autocorrelation import Autocorrelation, possible, toeplitz
from .noise_classes import FLAT, TOLERATED, flattest
from .noise_fits import Fits, cleaned, fitted, mean_operator, operator_products, residual_operators
from .noise_patches import SIDE, Doubles, Ints, Sample, read_patches
from .spread import MEDIAN_DEVIATION

OPERATORS = 256
"""Patches for which the operator of the fit is formed, where voxels are missing and each patch has its own."""

CORRELATED = 0.08
"""Correlations within planes above this are undone. Below it, up to 10 % of sigma is missed: white noise in texture
shows up to .07, and undoing that would err as much the other way."""

RELIED_ON, LARGEST, LARGEST_OF_FEW = 0.2, 0.85, 0.75
"""Denoisers rely on correlations of neighbours between these only: texture beside weak white noise, gaps and outliers
alone can cause smaller ones, and what is smoother may have been drawn by the optics. The last is for few patches."""

UNEVEN, DISPERSED = 1.2, 2.3
"""Noise has the same power in all patches of one intensity, structure has not: where the patches next to the flattest
hold so many times the energy of the flattest, or where the energy of flat patches varies so many times as much as that
of noise, what looks like correlation may be structure."""

FEWEST_COMPARED = 150
"""Fewest patches of a class, of which the flattest are compared with those next to them."""

FEWEST_WEAK = 300
"""Fewest patches that tell a correlation below what denoisers rely on from chance."""

FEWEST_IN_SPACE = 1500
"""Fewest patches that tell noise which is correlated along all three axes, or over long ways, from structure."""

LAGS, RIDGE = 4, 0.02
"""Largest lag in voxels, and how much an unknown correlation of 1 counts beside an equation that is off by 1: patches
of eight voxels tell little of the long lags."""

LARGE = 1e9
"""A ratio of which no more is said than that it is large: there is nothing between two infinite numbers."""

FEWEST = 30
"""Pairs of patches without which no correlation along z is given."""


class Within(NamedTuple):
    """Autocorrelation along y and x from lag 0 on, and whether it matters (None: it cannot be told from structure)."""

    y: tuple[float, ...]
    x: tuple[float, ...]
    correlated: bool | None


UNKNOWN = Within((1.0, np.nan), (1.0, np.nan), None)


def correlation_within_planes(fits: Fits, side: tuple[int, int]) -> Within:
    """Autocorrelation of the noise along y and x, from products of neighbours.

    With ``Q`` the operator of the fit, ``A`` the pairs of voxels at a lag and ``C`` the correlation of the noise,
    ``E[r' A r] / E[r' r] = tr(Q A Q C) / tr(Q Q C)``: one equation a lag along y and one along x, for the correlations
    at these lags.
    """
    from scipy.optimize import least_squares

    if min(side) < 4 or side[0] * side[1] > 4 * SIDE**2:
        return UNKNOWN
    chosen = flattest(fits, 0.1)
    rows = np.concatenate(chosen)
    operators = residual_operators(fits, rows[:: 1 + len(rows) // (OPERATORS * SIDE**2 // fits.basis.shape[0])])
    residuals = [fits.residual[group][np.any(fits.residual[group] != 0, axis=1)] for group in chosen]
    residuals = [each for each in residuals if len(each) >= 10]
    most = [min(LAGS, length // 2) for length in side]
    found, expected = [], [lag_sums(np.mean(operators, axis=0), side, most)]
    columns = np.ascontiguousarray(operators.transpose(1, 0, 2))
    for pairs in (at_lag(side, axis, lag) for axis in (0, 1) for lag in range(1, most[axis] + 1)):
        found.append(noise_level([np.sum((r @ pairs) * r, axis=1) / np.sum(r**2, axis=1) for r in residuals]))
        products = (columns @ pairs).reshape(len(pairs), -1) @ columns.reshape(len(pairs), -1).T
        expected.append(lag_sums(products / len(operators), side, most))
    if not np.all(np.isfinite(found)):
        return UNKNOWN
    sums = np.array(expected)

    def difference(lags: Doubles) -> Doubles:
        y, x = np.append(1.0, lags[: most[0]]), np.append(1.0, lags[most[0] :])
        total, *traces = sums @ x @ y
        return np.concatenate([traces / total - found, RIDGE * lags])

    lags = least_squares(difference, np.zeros(sum(most)), bounds=(-0.9, 0.97)).x
    y, x = lags[: most[0]], lags[most[0] :]
    certain = CORRELATED if len(fits.rows) >= FEWEST_WEAK else RELIED_ON
    correlated = bool(max(abs(y[0]), abs(x[0])) > certain)
    return Within((1.0, *y.tolist()), (1.0, *x.tolist()), correlated)


def agreed(strict: Within, smooth: Within) -> Within:
    """Two estimates as one: their mean along axes where the strict one is relied on, the strict one elsewhere.

    The strict one is made of higher frequencies, where structure is weak. It is too small where part of the noise is
    white, which is strongest there; the one of lower frequencies is too large beside structure.
    """
    if strict.correlated is None or smooth.correlated is None:
        return strict
    y, x = (
        tuple(np.mean([own, other], axis=0).tolist()) if abs(own[1]) > RELIED_ON else own
        for own, other in ((strict.y, smooth.y), (strict.x, smooth.x))
    )
    return strict._replace(y=y, x=x)


def at_lag(side: tuple[int, int], axis: int, lag: int) -> Doubles:
    """``A``: for the voxels of a patch, half the sum of those that lie so far away on either side along one axis."""
    pairs = np.kron(*(np.eye(length, k=lag if number == axis else 0) for number, length in enumerate(side)))
    return np.asarray(pairs + pairs.T) / 2


def lag_sums(matrix: Doubles, side: tuple[int, int], most: Sequence[int]) -> Doubles:
    """Sums of the entries ``(n, n)`` whose voxels lie so far from each other along y and x, up to the largest lags.

    With them ``tr(M C)`` is ``sum_ij y_i x_j S_ij`` for noise of the autocorrelations ``y`` and ``x``.
    """
    along_y, along_x = (
        np.abs(np.subtract.outer(np.arange(length), np.arange(length))) == np.arange(last + 1)[:, None, None]
        for length, last in zip(side, most, strict=True)
    )
    lines = np.tensordot(along_y.astype(float), matrix.reshape(*side, *side), axes=((1, 2), (0, 2)))
    return np.asarray(np.tensordot(lines, along_x.astype(float), axes=((1, 2), (1, 2))))


def correlation_matrix(side: tuple[int, int], y: Sequence[float], x: Sequence[float]) -> Doubles:
    """Correlation ``(n, n)`` between the voxels of a patch of noise with these autocorrelations."""
    return np.kron(toeplitz(y, side[0]), toeplitz(x, side[1])).astype(np.float64)


def variance_left(fits: Fits, side: tuple[int, int], within: Within) -> float:
    """Variance of the residual of noise so correlated, relative to that of white noise of the same variance."""
    operator = mean_operator(fits, np.arange(len(fits.observed))[:OPERATORS])
    return float(np.sum(operator * correlation_matrix(side, within.y, within.x)) / np.trace(operator))


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


def may_be_structure(fits: Fits, side: tuple[int, int], within: Within, along: Along) -> bool:
    """Whether the residual of a smooth fit is not spread over the patches as noise of that correlation is.

    It grows from the flattest tenth of the patches to the next three tenths in most classes, or differs too much
    between patches that are equally flat. What is as smooth as the optics draw is not told from structure, and few
    patches do not tell what is correlated along all three axes, either.
    """
    shared, few = [lags[1] for lags in (along.z, within.y, within.x)], len(fits.rows) < FEWEST_IN_SPACE
    if any(c > (LARGEST_OF_FEW if few else LARGEST) for c in shared) or (few and min(shared) > RELIED_ON):
        return True
    return growth(fits) > UNEVEN or dispersion(fits, side, within) > DISPERSED


def growth(fits: Fits) -> float:
    """Energy of the residual in the next three tenths of the patches over that in the flattest tenth, in most classes.

    It is as large as can be where a residual is 0, or where the patches are too few.
    """
    energy = np.sum(fits.residual**2, axis=1) / fits.freedom
    times = []
    few, many = (flattest(fits, share, FEWEST // 2, FEWEST_COMPARED) for share in (0.1, 0.4))
    for flat, more in zip(few, many, strict=True):
        least = float(np.median(energy[flat]))
        rest = more[len(flat) :]
        if rest.size >= 10:
            times.append(float(np.median(energy[rest])) / least if least > 0 else LARGE)
    return float(np.quantile(times, 0.25)) if times else LARGE


def dispersion(fits: Fits, side: tuple[int, int], within: Within) -> float:
    """Variance of the logarithm of the residual's energy in flat patches, relative to that of Gaussian noise, in most
    classes.

    For noise of correlation ``C`` and the operator ``Q`` of the fit it is ``2 tr(Q C Q C) / tr(Q C)^2``. The energy may
    change with the intensity, as that of shot noise does.
    """
    rows = np.arange(len(fits.observed))
    operators = residual_operators(fits, rows[:: 1 + len(rows) // OPERATORS])
    coloured = np.matmul(operators, correlation_matrix(side, within.y, within.x))
    traces = np.trace(coloured, axis1=1, axis2=2)
    expected = float(np.mean(2 * np.sum(coloured * coloured.transpose(0, 2, 1), axis=(1, 2)) / traces**2))
    energy = np.sum(fits.residual**2, axis=1) / fits.freedom
    found = []
    for group in flattest(fits, FLAT):
        group = group[energy[group] > 0]
        if group.size >= 10:
            logarithm, intensity = np.log(energy[group]), fits.intensity[group] - fits.intensity[group].mean()
            slope = float(logarithm @ intensity) / max(float(intensity @ intensity), 1e-300)
            found.append(float(np.var(logarithm - slope * intensity)) / expected)
    return float(np.quantile(found, 0.25)) if found else np.inf


class Along(NamedTuple):
    """Autocorrelation along z from lag 0 on, and whether it matters (None: it cannot be told from structure)."""

    z: tuple[float, ...]
    correlated: bool | None


NOT_TOLD = Along((1.0, np.nan), None)


def as_given(correlation: Autocorrelation) -> tuple[Within, Along]:
    """A correlation that is known, in the form of an estimate.

    >>> as_given(Autocorrelation(x=(1.0, 0.5)))
    (Within(y=(1.0, 0.0), x=(1.0, 0.5), correlated=True), Along(z=(1.0, 0.0), correlated=False))
    """
    z, y, x = (lags if len(lags) > 1 else (1.0, 0.0) for lags in correlation)
    return Within(y, x, bool(max(abs(y[1]), abs(x[1])) > CORRELATED)), Along(z, bool(abs(z[1]) > TOLERATED))


def correlation_along_z(data: Array, mask: Array | None, sample: Sample, fits: Fits) -> Along:
    """Correlation of the residuals of the flattest patches with those of the planes above.

    The correlation is NaN where no two planes were observed one above the other. Longer lags follow as long as they are
    certain.
    """
    lags = [1.0]
    for lag in range(1, LAGS + 1):
        c, error = correlation_with_plane(lag, data, mask, sample, fits)
        certain = not np.isnan(c) and abs(c) > 3 * error
        if lag == 1 and (not certain or abs(c) <= TOLERATED):
            return Along((1.0, c), False)
        if not certain:
            break
        lags.append(c)
    return Along(tuple(lags), True)


def correlation_with_plane(
    lag: int, data: Array, mask: Array | None, sample: Sample, fits: Fits
) -> tuple[float, float]:  # fmt: skip
    """Correlation of the flattest patches with those so many planes above, and its standard error; NaN if unknown."""
    n = len(fits.basis)
    rows = np.concatenate(flattest(fits, 0.1))
    rows = rows[fits.corners[rows, 0] + lag < data.shape[0]]
    complete = bool(fits.observed.all())
    if not complete:
        rows = np.random.default_rng(0).permutation(rows)[: 2 * OPERATORS * SIDE**2 // n]
    if len(rows) < FEWEST or n > 4 * SIDE**2:
        return np.nan, np.nan
    partner = partner_fits(data, mask, sample, fits, rows, lag)
    alike = partner.basis.shape == fits.basis.shape and bool(partner.observed.all()) == complete
    if not alike or len(partner.rows) < FEWEST:
        return np.nan, np.nan
    return correlation_of(fits, rows[partner.rows], partner)


def partner_fits(data: Array, mask: Array | None, sample: Sample, fits: Fits, rows: Ints, lag: int) -> Fits:
    """Fits of the patches so many planes above these; its ``rows`` are places in `rows`."""
    above: Ints = fits.corners[rows] + np.array([lag, 0, 0])
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


def weighed(along: Along, within: Within) -> Autocorrelation:
    """The autocorrelation that a denoiser may rely on: white along axes where it is small or may be structure."""
    told = ((along.z, along.correlated), (within.y, within.correlated), (within.x, within.correlated))
    return Autocorrelation(
        *(possible(lags) if correlated and abs(lags[1]) > RELIED_ON else (1.0,) for lags, correlated in told)
    )
