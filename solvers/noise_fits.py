"""Patches after the fit of their lowest cosines: the residual is noise, and structure too fine for the fit.

For white Gaussian noise the residual and the fit are independent. Patches may therefore be chosen by their fit without
a bias of the noise in the residual.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .noise_patches import Bools, Doubles, Ints, Sample
from .spread import MEDIAN_DEVIATION

MASKED_PATCHES = 2048
"""Patches fitted at most where voxels are missing, since each patch then needs a fit of its own."""

SMOOTH = 10
"""Cosines of the smoothest fit: mean, slopes, curvatures and cubic terms."""

DECISIVE = 0.9
"""Leverage above which a voxel decides the fit alone, so that its residual says nothing about the noise."""


class Fits(NamedTuple):
    """Patches ``P`` of ``n`` voxels after the fit of their ``q`` lowest cosines."""

    basis: Doubles  # (n, q)
    rows: Ints  # (P,) which patches of the sample
    corners: Ints  # (P, 3)
    observed: Bools  # (P, n)
    intensity: Doubles  # (P,) mean of the observed voxels
    roughness: Doubles  # (P,) energy of the gradient of the fit
    residual: Doubles  # (P, n) data - fit, 0 where unobserved
    scaled: Doubles  # (P, n) residual over its standard deviation under white noise of variance 1; NaN unobserved
    freedom: Doubles  # (P,) observed voxels less the cosines fitted


def cosines_of(side: tuple[int, int]) -> tuple[Doubles, Doubles]:
    """Orthonormal cosines ``(n, n)`` in columns, by rising frequency, and their squared frequencies ``(n,)``."""
    bases = []
    for length in side:
        k, place = np.arange(length), np.arange(length)[:, None] + 0.5
        basis = np.cos(np.pi * place * k / length) * np.sqrt(2 / length)
        basis[:, 0] = np.sqrt(1 / length)
        bases.append(basis)
    frequency = np.add.outer((np.arange(side[0]) / side[0]) ** 2, (np.arange(side[1]) / side[1]) ** 2).ravel()
    order = np.argsort(frequency, kind="stable")
    return np.kron(bases[0], bases[1])[:, order], frequency[order]


def products_of(basis: Doubles) -> Doubles:
    """``(n, q q)``: for weights ``(P, n)``, ``weights @ products`` are the Gram matrices of the weighted bases."""
    return (basis[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)


def cleaned(sample: Sample, least: Doubles | float = 0.0) -> tuple[Sample, bool]:
    """The sample without voxels far from a robust fit of slopes and curvatures, and whether there were many of them.

    The fit is Tukey's biweight. A voxel may lie within six robust standard deviations of its patch, a limit that cuts
    off none of a Gaussian and little of a Poisson distribution. Where more than one voxel in 200 lies beyond it,
    smaller outliers are likely, and the limit is four (a Gaussian loses .1 % of its variance). ``least`` is a standard
    deviation ``(P, 1)`` below which that of a patch is not taken to be.
    """
    values, observed, side = sample.values, sample.observed, sample.side
    basis = cosines_of(side)[0][:, : max(1, min(6, side[0] * side[1] // 4))]
    q = basis.shape[1]
    products = products_of(basis)
    given = np.where(observed, values, np.nan)
    given[~observed.any(axis=1)] = 0
    given -= medians(given)
    distance, known = np.abs(given), np.nan_to_num(given)
    for _ in range(5):
        cut = 5 * np.maximum(medians(distance) / MEDIAN_DEVIATION, 0.5 * sample.step)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.fmin(distance / cut, 1.0)  # 1, where nothing was observed, too
        weights = (1 - ratio**2) ** 2
        # The ridge decides only where fewer voxels than cosines were observed.
        gram = (weights @ products).reshape(-1, q, q) + 1e-3 * np.eye(q)
        right = (known * weights) @ basis
        distance = np.abs(given - np.linalg.solve(gram, right[:, :, None])[:, :, 0] @ basis.T)
    scale = np.maximum(medians(distance) / MEDIAN_DEVIATION, np.maximum(0.5 * sample.step, least))
    distance[np.isnan(distance)] = np.inf
    near = observed & (distance <= 6 * scale)
    many = bool(1 - near.sum() / max(1, observed.sum()) > 0.005)
    if many:
        near = observed & (distance <= 4 * scale)
    return sample._replace(values=np.where(near, values, 0.0), observed=near), many


def medians(rows: Doubles) -> Doubles:
    """Upper median of the entries of each row that are not NaN, ``(P, 1)``; NaN where there are none."""
    middle = rows.shape[1] // 2
    if not np.isnan(rows).any():
        return np.asarray(np.partition(rows, middle, axis=1)[:, middle, None])
    ordered = np.sort(rows, axis=1)
    count = np.sum(~np.isnan(ordered), axis=1)
    return np.asarray(ordered[np.arange(len(rows)), np.minimum(count // 2, rows.shape[1] - 1)][:, None])


def fitted(sample: Sample, q: int, share: float | None = None) -> Fits:
    """Least squares with the ``q`` lowest cosines.

    Complete patches share one projection; where they are a quarter of all patches, or 2000, only they are used.
    Otherwise each patch has a fit of its own, and `q` is at most `share` of the observed voxels: by default .75 if no
    more than an eighth of the voxels is missing (outliers), else .6, since a fit of more cosines through scattered
    voxels leaves most of them no freedom.
    """
    cosines, frequency = cosines_of(sample.side)
    n = len(cosines)
    count = sample.observed.sum(axis=1)
    rows = np.flatnonzero(count == n)
    complete = len(rows) >= min(2000, 0.25 * len(count))
    if not complete:
        typical = float(np.median(count))
        q = max(1, min(q, 48, int((share or (0.75 if typical >= 0.875 * n else 0.6)) * typical)))
        rows = np.flatnonzero(count > q + 2)[:MASKED_PATCHES]
    values, observed, basis = sample.values[rows], sample.observed[rows], cosines[:, :q]
    if complete:
        coefficients = values @ basis
        leverage = np.broadcast_to(np.sum(basis**2, axis=1), values.shape)
    else:
        inverse = inverse_grams(basis, observed)
        coefficients = np.matmul(inverse, (values @ basis)[:, :, None])[:, :, 0]
        leverage = np.sum(np.matmul(basis, inverse) * basis, axis=2)
    residual = np.where(observed, values - coefficients @ basis.T, 0.0)
    free = observed & (leverage < DECISIVE)
    return Fits(
        basis=basis,
        rows=rows,
        corners=sample.corners[rows],
        observed=observed,
        intensity=values.sum(axis=1) / count[rows],
        roughness=coefficients**2 @ frequency[:q],
        residual=residual,
        scaled=np.where(free, residual / np.sqrt(np.where(free, 1 - leverage, 1.0)), np.nan),
        freedom=count[rows] - float(q),
    )


def inverse_grams(basis: Doubles, observed: Bools) -> Doubles:
    """Inverse Gram matrices ``(P, q, q)`` of a basis ``(n, q)`` on the observed voxels of each patch."""
    q = basis.shape[1]
    return np.asarray(np.linalg.inv((observed.astype(float) @ products_of(basis)).reshape(-1, q, q) + 1e-6 * np.eye(q)))


def residual_operators(fits: Fits, rows: Ints) -> Doubles:
    """``I - fit`` as matrices on patches ``(P, n, n)``; ``(1, n, n)`` where all patches are complete."""
    n = len(fits.basis)
    if fits.observed.all():
        return (np.eye(n) - fits.basis @ fits.basis.T)[None]
    weights = fits.observed[rows].astype(float)
    hat = np.matmul(np.matmul(fits.basis, inverse_grams(fits.basis, fits.observed[rows])), fits.basis.T)
    return np.asarray((np.eye(n) - hat) * weights[:, :, None] * weights[:, None, :])


def mean_operator(fits: Fits, rows: Ints) -> Doubles:
    """The mean of :func:`residual_operators`, ``(n, n)``, without forming each of them."""
    if fits.observed.all():
        return np.asarray(residual_operators(fits, rows)[0])
    observed = fits.observed[rows]
    weights = observed.astype(float)
    known = weights[:, :, None] * fits.basis
    hats = np.tensordot(np.matmul(known, inverse_grams(fits.basis, observed)), known, axes=((0, 2), (0, 2)))
    return np.asarray(np.diag(weights.mean(axis=0)) - hats / len(rows))


def operator_products(first: Bools, second: Bools, basis: Doubles) -> Doubles:
    """``tr(Q S)`` ``(P,)`` of the operators ``I - fit`` of one basis on the observed voxels ``(P, n)`` of two patches.

    With the Gram matrices ``G``, ``H`` of the basis on either and ``M`` on both, it is the number of voxels on both,
    less ``tr(G^-1 M) + tr(H^-1 M)``, plus ``tr(G^-1 M H^-1 M)``: no operator is formed.
    """
    both, q = (first & second).astype(float), basis.shape[1]
    shared = (both @ products_of(basis)).reshape(-1, q, q)
    left, right = (np.matmul(inverse_grams(basis, observed), shared) for observed in (first, second))
    traces = np.trace(left, axis1=1, axis2=2) + np.trace(right, axis1=1, axis2=2)
    return np.asarray(both.sum(axis=1) - traces + np.sum(left * right.transpose(0, 2, 1), axis=(1, 2)))
