"""``method="fast"``: a preview by total variation of the second order, at weights that the measurement judges.

No rank is searched and no global model is refined. Estimates at a few weights are mixed: in gaps by their errors at
measured voxels of a block that were left out, and at denoised voxels by Stein's estimate of the squared error, for each
class of local contrast separately, as groups of patches are (:mod:`tensorcell.solvers.patch_denoising`). The same
errors tell the uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.fitting import TuckerOptions
from tensorcell.methods.errors import GapError, errors_of
from tensorcell.methods.kriging import between_by_kriging
from tensorcell.methods.patches import light_of
from tensorcell.methods.protocol import Estimate, Method, Problem
from tensorcell.methods.trial import GlobalTrial, split_block
from tensorcell.methods.tucker import from_global_model, global_estimate, was_stopped
from tensorcell.solvers import NoiseModel, Status
from tensorcell.solvers.anscombe import destabilised, destabilised_error, stabilised
from tensorcell.solvers.noise_terms import terms_of
from tensorcell.solvers.patch_denoising import PERTURBATION, Candidates, Denoised, local_contrast, mixed, total_spread
from tensorcell.solvers.residual_kriging import Kernel, NeighbourEstimate
from tensorcell.solvers.slabs import central_block
from tensorcell.solvers.stein import Trial, divergence_terms, error_laws, random_direction, simplex_weights
from tensorcell.solvers.total_variation import least_curvature
from tensorcell.stages import stage

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

OF_NOISE = (0.15, 0.4, 1.0)
"""Weights that are mixed, as shares of the standard deviation of the noise."""

OF_SPREAD = 0.01
"""The smallest weight in gaps, as a share of the spread of the intensities: measured voxels hardly move."""

ITERATIONS, COMPLETE_ITERATIONS = 50, 25
"""Iterations of a solve with gaps and without: twice as many change the error by less than .1 dB."""

BLOCK, LEAST_BLOCK, MOST_BLOCK = 0.125, 40_000, 300_000
"""Share of the stack from which voxels are left out, and fewest and most voxels of that block."""

HELD_OUT = 0.1
"""Share of the measured voxels of the block that is left out."""

STEIN_VOXELS = 140_000
"""Largest number of voxels on which Stein's estimate is computed."""

AXIAL = (1.0, 0.5, 0.25)
"""Weights of differences along z that are tried, until the next one is worse: planes lie further apart than pixels."""

LEAST_SHARE = 0.05
"""Estimates of a smaller share in the mixture are not made."""


class Mixture(NamedTuple):
    """How gaps are filled."""

    shares: dict[float, float]
    """Shares of the estimates by their weight; they add up to 1."""
    axial: float
    """Weight of differences along z."""

    def of(self, estimate: Callable[[float], Array]) -> Array:
        """The mixture of estimates at these weights."""
        return np.asarray(sum(share * estimate(weight) for weight, share in self.shares.items()))


@stage("curvature")
def estimate(problem: Problem) -> Estimate:
    """The preview: gaps are filled, and measured voxels denoised where they need not be kept."""
    stack, inlier, law = problem.stack, problem.model.inlier, problem.model.noise
    if was_stopped(problem):
        return from_global_model(problem, global_estimate(problem), None)
    denoises = not problem.keep and law.sigma > 0
    if not denoises and not problem.has_gaps:
        return with_errors(problem, stack.values, stack.values)
    values, level = stabilised(stack.values, law) if denoises else (stack.values, law.sigma)
    mixture, trial = chosen_mixture(problem, values, NoiseModel.white(level) if denoises else law)
    notes = (said(mixture, trial),)

    @cache
    def estimate_at(weight: float) -> Array:
        return solved(values, inlier, weight, mixture.axial)

    filled = mixture.of(estimate_at) if problem.has_gaps else values
    gap = None if trial is None else trial.uncertainty(filled)
    if not denoises:
        return with_errors(problem, np.where(inlier, values, filled), filled, gap=gap, notes=notes)
    found = denoised(problem, values, filled, level, mixture.axial, estimate_at)
    whole = np.where(inlier, found.value, filled)
    error = destabilised_error(whole, found.error, law)
    gap = None if gap is None else destabilised_error(whole, gap, law)
    value = destabilised(whole, law)
    value = (value + light_of(value, stack.values, inlier, law)).astype(stack.values.dtype)
    return with_errors(problem, value, value, gap=gap, denoised=error, notes=notes)._replace(weighed=True)


def solved(values: Array, mask: Bools, weight: float, axial: float) -> Array:
    """The estimate at one weight."""
    iterations = COMPLETE_ITERATIONS if mask.all() else ITERATIONS
    return least_curvature(values, mask, weight, axial=axial, iterations=iterations)


def with_errors(
    problem: Problem,
    value: Array,
    intensity: Array,
    *,
    gap: Array | None = None,
    denoised: Array | None = None,
    notes: tuple[str, ...] = (),
) -> Estimate:
    """The estimate, with the errors that are known in gaps and at denoised voxels."""
    start = NeighbourEstimate(value, intensity, Kernel(1.0, 1.0, 0.0), 0.0)
    known: GapError | None = None if gap is None else gap.__getitem__
    error = errors_of(problem, start, value, gap=known, denoised=denoised)
    return Estimate(value, error.value, Status.COMPLETED, problem.model.fit.history, (*notes, *error.notes))


def denoised(
    problem: Problem, values: Array, filled: Array, sigma: float, axial: float, estimate_at: Callable[[float], Array]
) -> Denoised:
    """Estimates at several weights, mixed by the smallest of Stein's estimates of the squared error.

    Parameters
    ----------
    problem : Problem
    values, filled : arrays ``(K, Y, X)``
        Measured values whose noise has the standard deviation ``sigma`` everywhere, and estimates of all voxels.
    sigma : float
    axial : float
        Weight of differences along z.
    estimate_at : callable
        The estimate of all voxels at a weight.
    """
    inlier = problem.model.inlier
    block = central_block(values.shape, STEIN_VOXELS)
    y, known = np.ascontiguousarray(values[block]), inlier[block]
    rng, correlation = np.random.default_rng([problem.fitting.seed, 1]), problem.model.noise.autocorrelation
    direction = random_direction(rng, known, correlation=correlation)
    step = PERTURBATION * sigma
    found: dict[str, Array] = {}
    misfits, divergences = [np.zeros(y[known].shape)], [np.ones(y[known].shape)]
    for share in OF_NOISE:
        whole = estimate_at(share * sigma)
        part = whole if y.shape == values.shape else solved(y, known, share * sigma, axial)
        moved = solved(y + step * direction, known, share * sigma, axial)
        found[f"{share:g}"] = whole
        misfits.append((part - y)[known].astype(np.float64))
        divergences.append(divergence_terms(direction, part, moved, step)[known].astype(np.float64))
    contrast = local_contrast(whole)  # of the smoothest estimate
    spread = total_spread(Candidates(found, np.zeros_like(whole)))
    trial = Trial(
        y[known].astype(np.float64), np.stack(misfits), np.stack(divergences), contrast[block][known],
        spread[block][known].astype(np.float64),
    )  # fmt: skip
    data = np.where(inlier, values, filled)
    return mixed(data, found, contrast, spread, error_laws(trial, terms_of(problem.model.noise, sigma)))


def said(mixture: Mixture, trial: GlobalTrial | None) -> str:
    """What the preview is, how it was made, and what other methods would add."""
    along = "" if mixture.axial == 1 else f" (differences along z count {mixture.axial:g} times as much)"
    judge = "" if trial is None else f", judged at {len(trial.errors)} left-out measured voxels"
    return (
        f"this is a preview by total variation of the second order{along}{judge}; method auto follows fine and "
        "repeated structure better, and takes longer"
    )


def chosen_mixture(problem: Problem, values: Array, noise: NoiseModel) -> tuple[Mixture, GlobalTrial | None]:
    """The mixture with the smallest error at left-out voxels, and its errors; None where too few were left out."""
    inlier = problem.model.inlier
    least = OF_SPREAD * float(np.std(values[inlier], dtype=np.float64))
    weights = sorted({max(least, share * noise.sigma) for share in (0.0, *OF_NOISE)})
    middle = max(least, OF_NOISE[1] * noise.sigma)
    voxels = round(min(max(BLOCK * values.size, LEAST_BLOCK), MOST_BLOCK))
    split = split_block(values, inlier, problem.fitting.seed, voxels, HELD_OUT)
    if split is None:
        return Mixture({middle: 1.0}, AXIAL[0]), None
    y, training, _ = split
    spread = float(np.std(problem.stack.values[problem.stack.mask], dtype=np.float64))
    trial = GlobalTrial(y, training, split[2], solved(y, training, middle, AXIAL[0]), noise, spread)
    axial, trial = chosen_axial(trial, middle)
    if not problem.has_gaps:
        return Mixture({}, axial), trial
    candidates = {weight: solved(y, training, weight, axial) for weight in weights}
    errors = np.stack([trial.capped(trial.errors_of(one)) for one in candidates.values()])
    shares, _ = simplex_weights(errors @ errors.T, np.zeros(len(errors)))
    shares[shares < LEAST_SHARE] = 0
    kept = {weight: float(share / shares.sum()) for weight, share in zip(weights, shares, strict=True) if share > 0}
    mixture = Mixture(kept, axial)
    return mixture, replace(trial, start=mixture.of(candidates.__getitem__))


def chosen_axial(trial: GlobalTrial, weight: float) -> tuple[float, GlobalTrial]:
    """The weight of differences along z with the smallest error, and the errors of the estimate with it."""
    best, least = AXIAL[0], trial.error
    for axial in AXIAL[1:] if len(trial.values) > 1 else ():
        further = replace(trial, start=solved(trial.values, trial.training, weight, axial))
        error = trial.beyond_noise(further.errors)
        if error >= least:
            break
        best, least, trial = axial, error, further
    return best, trial


METHOD = Method(
    name="fast",
    summary="A preview in a fraction of the time of local: gaps and noise by total variation of the second order.",
    options=(TuckerOptions,),
    estimate=estimate,
    between=between_by_kriging,
    rank=(1, 1, 1),
)
