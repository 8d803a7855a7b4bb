"""Errors of the model plus its neighbours (:mod:`tensorcell.solvers.residual_kriging`), from the stack itself.

At voxels that are **not measured**, the error is that of ``X + S`` at measured voxels whose own residual does not enter
``S``. The model ``X`` was fitted to them, too: their residuals are divided by ``1 - d``, where ``d`` is the number of
degrees of freedom of the model over that of the measured voxels.

At **denoised** voxels the estimate is ``f = X + S + w (R - S)`` and its residual ``r = y - f``. Two estimates of its
squared error are made for each group of voxels of similar intensity, and the larger one is taken:

* Stein's, ``r^2 - sigma^2 + 2 sigma^2 div f``. Noise that was estimated too large makes it too small.
* The noise that ``f`` lets through, ``sigma^2 v``, plus the structure that it has removed. Structure is blurred by the
  optics and noise is not: the covariance of the residuals of neighbours within a plane, less that of filtered noise, is
  structure. ``v`` and the covariance of filtered noise come from one draw of white noise.

The standard deviation of the noise is lowered where it is larger than all of the residual.

References
----------
C. Stein, Estimation of the mean of a multivariate normal distribution, doi:10.1214/aos/1176345632.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .calibration import GROUP, GROUPS, Calibration, Doubles, calibrated, groups_of, neighbours_mean
from .noise import NoiseModel
from .rank_limits import degrees_of_freedom
from .residual_kriging import Bools, Floats, NeighbourEstimate, shared_residual
from .results import CompletionResult
from .slabs import block_residual

FEWEST = 50
"""Fewest voxels from which an error is computed."""

MOST_FITTED = 0.9
"""Largest share of the residual that the fit is taken to have removed."""


class NeighbourErrors(NamedTuple):
    """Standard deviations of the error as functions of the estimated intensity."""

    gap: Calibration
    denoised: Calibration


class Filtered(NamedTuple):
    """What the filter makes of white noise of variance 1."""

    passed: float
    """``v``: variance of the filtered noise, the model's share ``d`` included."""
    divergence: float
    removed: float
    """Variance of the noise less the filtered noise."""
    shared: float
    """Covariance of the latter between neighbours within a plane."""


def neighbour_errors(
    stack: Floats, inlier: Bools, fit: CompletionResult, found: NeighbourEstimate, noise: NoiseModel, seed: int = 0
) -> NeighbourErrors | None:
    """Errors in gaps and at denoised voxels; None where fewer than 50 measured voxels tell them.

    Parameters
    ----------
    stack, inlier, fit
        As for :func:`tensorcell.solvers.residual_kriging.estimate_with_neighbours`.
    found : NeighbourEstimate
        What that function returned.
    noise : NoiseModel
        The noise of the stack.
    seed : int
        Seed of the white noise that is filtered.
    """
    block, residual = block_residual(stack, fit)
    known, intensity = inlier[block], found.intensity[block].astype(np.float64)
    if np.count_nonzero(known) < FEWEST:
        return None
    fitted = min(MOST_FITTED, degrees_of_freedom(fit.rank, stack.shape) / int(np.count_nonzero(inlier)))
    shared = shared_residual(residual, known, found.kernel, leave_out=True)
    rest = (residual - shared).astype(np.float64)
    variance = np.asarray(noise.variance(intensity), dtype=np.float64)
    gap = calibrated(
        -rest[known] / (1 - fitted), variance[known], np.ones(np.count_nonzero(known)),
        (stack[block] - rest)[known].astype(np.float64),
    )  # fmt: skip
    law = filtered_noise(known, found, fitted, np.random.default_rng([seed, 3]))
    return NeighbourErrors(gap, denoised_errors((1 - found.own_weight) * rest, variance, known, intensity, law))


def filtered_noise(known: Bools, found: NeighbourEstimate, fitted: float, rng: np.random.Generator) -> Filtered:
    """Statistics of white noise under ``S + w (R - S)``, with the degrees of freedom of the model added."""
    white = np.where(known, rng.standard_normal(known.shape), 0.0)
    shared = shared_residual(white, known, found.kernel, leave_out=True)
    kept = shared + found.own_weight * (white - shared)
    removed = white - kept
    return Filtered(
        passed=fitted + (1 - fitted) * float(np.mean(kept[known] ** 2)),
        divergence=fitted + (1 - fitted) * found.own_weight,
        removed=(1 - fitted) * float(np.mean(removed[known] ** 2)),
        shared=(1 - fitted) * float(np.mean((removed * neighbours_mean(removed, known))[known])),
    )


def denoised_errors(rest: Doubles, noise: Doubles, known: Bools, intensity: Doubles, law: Filtered) -> Calibration:
    """Standard deviations at denoised voxels, by groups of intensity; `rest` is ``y - f``, `noise` a variance."""
    square, product = np.square(rest)[known], (rest * neighbours_mean(rest, known))[known]
    noise, intensity = noise[known], intensity[known]
    explained = law.removed * float(np.mean(noise))
    share = min(1.0, float(np.mean(square)) / explained) if explained > 0 else 1.0
    middles, squares = [], []
    for part in groups_of(intensity, min(GROUPS, intensity.size // GROUP)):
        level = share * float(np.mean(noise[part]))
        stein = float(np.mean(square[part])) - level * (1 - 2 * law.divergence)
        structure = max(0.0, float(np.mean(product[part])) - level * law.shared)
        middles.append(float(np.median(intensity[part])))
        squares.append(max(stein, level * law.passed + structure))
    return Calibration(np.array(middles), np.array(squares))
