"""Errors at measured voxels that were left out of a fit: they give the uncertainty in gaps, and choose a method.

A share of the measured voxels of a central block is left out, and the block is fitted again. The errors at the left-out
voxels are computed for the global model and, where a caller asks for it, for groups of similar patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.methods.patches import complete_by_patches
from tensorcell.methods.protocol import Problem
from tensorcell.solvers import IterationRecord, LocalOptions, LocalState, NoiseModel
from tensorcell.solvers.predictive_rank import ROUNDING, has_empty_lines
from tensorcell.solvers.rank_limits import affordable
from tensorcell.solvers.residual_kriging import estimate_with_neighbours
from tensorcell.solvers.slabs import central_block
from tensorcell.solvers.spread import conformal_width, robust_sigma

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

VOXELS = 300_000
"""Largest number of voxels of the block."""

HELD_OUT = 0.05
"""Share of the block's measured voxels that is left out."""

FEWEST = 200
"""Fewest left-out voxels from which an error is computed."""

CAP = 5.0
"""Errors are capped at this multiple of the typical error, since outliers cannot be predicted."""

BELOW_NOISE = 0.5
"""The lowest level that is tried, as a share of the noise."""

GROUPS, GROUP = 8, 250
"""Largest number of groups of voxels of similar spread, and fewest voxels in a group."""


@dataclass(frozen=True, eq=False)
class GlobalTrial:
    """Errors of the global model with its neighbours at left-out voxels."""

    values: Array
    """Intensities of the block."""
    training: Bools
    left_out: Bools
    start: Array
    """The estimate of the block."""
    noise: NoiseModel

    @property
    def sigma(self) -> float:
        """Root mean square of the noise at the left-out voxels, each at its own intensity."""
        return math.sqrt(float(np.mean(self.noise.variance(self.start[self.left_out]), dtype=np.float64)))

    @property
    def errors(self) -> Array:
        """``(n,)``, noise included, in double precision."""
        return self.errors_of(self.start)

    def errors_of(self, estimate: Array) -> Array:
        """The errors of any estimate of the block at the left-out voxels."""
        return (estimate - self.values)[self.left_out].astype(np.float64)

    def beyond_noise(self, errors: Array) -> float:
        """Root mean square of errors without the noise, each capped at five times the global model's typical error."""
        square = float(np.mean(self.capped(errors) ** 2))
        return math.sqrt(max(square - self.sigma**2, 0.01 * square))

    def capped(self, errors: Array) -> Array:
        """Errors, each cut at five typical ones of the global model: outliers cannot be predicted.

        Where most voxels are predicted exactly (a nearly empty stack), no error is cut.
        """
        own = self.errors
        typical = robust_sigma(own)
        if typical <= ROUNDING * math.sqrt(float(np.mean(own**2))):
            return errors
        return np.clip(errors, -CAP * typical, CAP * typical)

    @property
    def exact(self) -> bool:
        """Whether the global model predicts all left-out voxels but for rounding, so that nothing can be refined."""
        measured = float(np.mean(np.square(self.values[self.training], dtype=np.float64)))
        return max(self.error, self.sigma) <= float(np.finfo(np.float32).eps) * math.sqrt(measured)

    @property
    def error(self) -> float:
        """Root mean square error of the global model, without the noise."""
        return self.beyond_noise(self.errors)

    @property
    def width(self) -> float:
        """Standard deviation of the error in gaps that the global model fills."""
        return conformal_width(self.errors, self.sigma)


@dataclass(frozen=True, eq=False)
class PatchTrial:
    """Errors of groups of patches at the same voxels."""

    error: float
    """Root mean square error, without the noise."""
    levels: tuple[float, ...]
    """Noise levels of the sweeps; none where the global model leaves nothing to refine."""
    errors: Array
    spreads: Array
    """Disagreement of overlapping patches at the left-out voxels."""
    sigma: float
    """Root mean square of the noise at the left-out voxels."""

    def uncertainty(self, spread: Array) -> Array:
        """Standard deviations in gaps: conformal widths of left-out errors among voxels of similar spread."""
        groups = max(1, min(GROUPS, len(self.errors) // GROUP))
        parts = np.array_split(np.argsort(self.spreads), groups)
        middle = np.array([np.median(self.spreads[part]) for part in parts])
        width = np.array([conformal_width(self.errors[part], self.sigma) for part in parts])
        return np.asarray(np.interp(spread, middle, width))


def global_trial(problem: Problem) -> GlobalTrial | None:
    """Leave voxels out and fit the global model to the others; None where too few could be left out."""
    stack, model, fitting = problem.stack, problem.model, problem.fitting.quick()
    block = central_block(stack.values.shape, VOXELS)
    y, w = np.ascontiguousarray(stack.values[block]), model.inlier[block]
    left_out = w & (np.random.default_rng([fitting.seed, 2]).random(y.shape) < HELD_OUT)
    training = w & ~left_out
    if left_out.sum() < FEWEST or has_empty_lines(training):
        return None
    rank = affordable(tuple(map(min, model.rank.rank, y.shape)), y.shape, int(training.sum()) / 2)
    fit = fitting(y, training, rank)
    start = estimate_with_neighbours(
        y, training, fit, noise=0.0, keep=True, neighbours=bool(fitting.options.neighbours)
    ).value
    return GlobalTrial(y, training, left_out, start, model.noise)


def patch_trial(trial: GlobalTrial, options: LocalOptions, seed: int) -> PatchTrial:
    """Refine the global model by groups of patches, at noise levels that fall from its error to the best one.

    The levels tried fall to half of the noise, since estimates of it are upper bounds; the sweep with the smallest
    error at the left-out voxels shows where they should end.
    """
    before, sigma = trial.error, trial.sigma
    if trial.exact:
        return PatchTrial(before, (), trial.errors, np.zeros(len(trial.errors)), sigma)
    tried = np.geomspace(max(before, sigma), max(BELOW_NOISE * sigma, before / 8), options.sweeps)
    centre = float(np.mean(trial.values[trial.training], dtype=np.float64))
    sweeps: list[tuple[float, Array, Array]] = []

    def judge(_: IterationRecord, state: LocalState) -> None:
        errors = trial.errors_of(state.estimate + centre)
        sweeps.append((float(np.mean(trial.capped(errors) ** 2)), errors, np.asarray(state.spread)[trial.left_out]))

    found = complete_by_patches(
        trial.values, trial.training, trial.start, sigma, levels=tuple(tried.tolist()), options=options, seed=seed,
        callback=judge,
    )  # fmt: skip
    best = min(range(len(sweeps)), key=lambda sweep: sweeps[sweep][0])
    _, errors, spreads = sweeps[best]
    if best == len(tried) - 1:  # the result goes one stage further than the last sweep
        errors, spreads = trial.errors_of(found.value), np.asarray(found.spread)[trial.left_out]
    levels = tuple(np.geomspace(tried[0], tried[best], options.sweeps).tolist())
    return PatchTrial(trial.beyond_noise(errors), levels, errors, spreads, sigma)
