"""Errors at measured voxels that were left out of a fit: they give the uncertainty in gaps, and choose a method.

A share of the measured voxels of a central block is left out, and the block is fitted again. The errors at the left-out
voxels are computed for the global model and, where a caller asks for it, for groups of similar patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensorcell.fitting import Callback
from tensorcell.methods.patches import complete_by_patches
from tensorcell.methods.protocol import Problem
from tensorcell.solvers import IterationRecord, LocalOptions, LocalResult, LocalState, NoiseModel
from tensorcell.solvers.arrays import to_host
from tensorcell.solvers.calibration import Calibration, calibrated, least_share_of
from tensorcell.solvers.predictive_rank import has_empty_lines
from tensorcell.solvers.rank_limits import affordable
from tensorcell.solvers.residual_kriging import estimate_with_neighbours
from tensorcell.solvers.slabs import central_block
from tensorcell.solvers.spread import LEAST_SHARE, conformal_width, robust_sigma

if TYPE_CHECKING:
    from tensorcell.methods.blend import Blend

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

VOXELS = 300_000
"""Largest number of voxels of the block."""

HELD_OUT, MOST_HELD_OUT = 0.05, 0.2
"""Share of the block's measured voxels that is left out, and the largest where these are few."""

FEWEST, ENOUGH = 50, 400
"""Fewest left-out voxels from which an error is computed, and how many are left out if the largest share allows it."""

TELLING = 450
"""Fewest left-out voxels that tell the uncertainty in gaps: of fewer, too few are bright."""

CAP = 5.0
"""Errors are capped at this multiple of the typical error, since outliers cannot be predicted."""

SOME_OUTLIERS = 1e-3
"""Outliers are taken to be among the left-out voxels where more than this share of the measured ones are outliers."""

BELOW_NOISE = 0.5
"""The lowest level that is tried, as a share of the noise."""

GROUPS, GROUP = 8, 250
"""Largest number of groups of voxels of similar spread, and fewest voxels in a group."""


@dataclass(frozen=True, eq=False)
class GlobalTrial:
    """Errors of the global model with its neighbours, or of another estimate, at left-out voxels."""

    values: Array
    """Intensities of the block."""
    training: Bools
    left_out: Bools
    start: Array
    """The estimate of the block."""
    noise: NoiseModel
    spread: float = 0.0
    """Standard deviation of all measured intensities, outliers among them."""
    outliers: bool = True
    """Whether outliers were found, so that others may be among the left-out voxels."""
    device: str = "cpu"
    """Where groups of patches are filtered; the arrays are on the host."""

    @property
    def telling(self) -> bool:
        """Whether the left-out voxels are enough to tell the uncertainty in gaps."""
        return int(np.count_nonzero(self.left_out)) >= TELLING

    @property
    def noise_variance(self) -> Array:
        """``(n,)``: the variance of the noise at the left-out voxels, each at its own intensity."""
        return np.asarray(self.noise.variance(self.start[self.left_out]), dtype=np.float64)

    @property
    def sigma(self) -> float:
        """Root mean square of the noise at the left-out voxels."""
        return math.sqrt(float(np.mean(self.noise_variance)))

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
        return max(math.sqrt(max(square - self.sigma**2, 0.01 * square)), self.rounding)

    def capped(self, errors: Array) -> Array:
        """Errors, each cut at five typical ones of the global model: outliers cannot be predicted."""
        return np.clip(errors, -self.cap, self.cap)

    @property
    def cap(self) -> float:
        """Largest error that counts; infinite where no outliers were found."""
        return CAP * self.typical if self.outliers else math.inf

    @property
    def exact(self) -> bool:
        """Whether the global model predicts all left-out voxels but for rounding, so that nothing can be refined."""
        return max(self.error, self.sigma) <= self.rounding

    @property
    def rounding(self) -> float:
        """Rounding in single precision of the largest measured value; no error is known to be smaller."""
        return float(np.finfo(np.float32).eps) * float(np.max(np.abs(self.values[self.training]), initial=1e-30))

    @property
    def typical(self) -> float:
        """Robust standard deviation of the global model's errors.

        Where most voxels are predicted to within rounding, as a background of zeros is, it is that of the others: a
        median of nothing would cut every error of the structure down to nothing.
        """
        errors, rounding = self.errors, self.rounding
        found = robust_sigma(errors)
        beyond = np.abs(errors) > rounding
        return max(robust_sigma(errors[beyond]) if found <= rounding and beyond.any() else found, rounding)

    @property
    def error(self) -> float:
        """Root mean square error of the global model, without the noise."""
        return self.beyond_noise(self.errors)

    @property
    def least(self) -> float:
        """Smallest standard deviation of an error in gaps: 0, where the left-out voxels have errors beyond rounding.

        That all of ``n`` voxels were predicted exactly does not exclude that one in ``n`` errs by the spread of the
        data: the root mean square of that is returned.
        """
        if np.any(np.abs(self.errors) > self.rounding):
            return 0.0
        return self.spread / math.sqrt(self.errors.size)

    def least_share(self, errors: Array) -> float:
        """Smallest share of the squared errors of an estimate that is not put down to noise."""
        placed = np.zeros(self.left_out.shape)
        placed[self.left_out] = self.capped(errors)
        return least_share_of(placed, self.left_out)

    def uncertainty(self, intensity: Array) -> Array:
        """Standard deviations of the error in gaps that the global model fills, by their estimated intensity."""
        predicted = self.start[self.left_out].astype(np.float64)
        shape, share = np.ones(predicted.size), self.least_share(self.errors)
        found = calibrated(self.errors, self.noise_variance, shape, predicted, least_share=share)
        widths: Array = found.bounded(self.least)(intensity)
        return widths


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
    intensities: Array
    """Estimates at the left-out voxels."""
    noise_variance: Array
    """Variance of the noise at the left-out voxels."""
    least: float = 0.0
    """Smallest standard deviation of an error in gaps."""
    least_share: float = LEAST_SHARE
    """Smallest share of the squared errors that is not put down to noise."""
    telling: bool = True
    """Whether the left-out voxels are enough to tell the uncertainty in gaps."""
    blend: Blend | None = None
    """What the groups of patches are mixed with; None: with nothing."""
    few: bool = False
    """Whether too few voxels were measured to judge a model, so that the errors are those of a smooth fill."""

    def uncertainty(self, spread: Array, intensity: Array) -> Array:
        """Standard deviations in gaps.

        Conformal widths of left-out errors among voxels of similar spread give their shape, which is calibrated by
        intensity.
        """
        shape = np.maximum(self.by_spread(spread), 1e-30)
        widths: Array = self.calibration(intensity, shape)
        return widths

    @cached_property
    def calibration(self) -> Calibration:
        """Factors of the widths by spread."""
        shape = np.maximum(self.by_spread(self.spreads), 1e-30)
        found = calibrated(self.errors, self.noise_variance, shape, self.intensities, least_share=self.least_share)
        return found.bounded(self.least)

    def by_spread(self, spread: Array) -> Array:
        """Conformal widths of left-out errors among voxels of similar spread, interpolated between the groups."""
        groups = max(1, min(GROUPS, len(self.errors) // GROUP))
        parts = np.array_split(np.argsort(self.spreads), groups)
        middle = np.array([np.median(self.spreads[part]) for part in parts])
        noise = [math.sqrt(float(np.mean(self.noise_variance[part]))) for part in parts]
        width = [
            conformal_width(self.errors[part], sigma, self.least_share)
            for part, sigma in zip(parts, noise, strict=True)
        ]
        return np.asarray(np.interp(spread, middle, width))


def global_trial(problem: Problem) -> GlobalTrial | None:
    """Leave voxels out and fit the global model to the others; None where too few could be left out."""
    stack, model, fitting = problem.stack, problem.model, problem.fitting.quick()
    found = split_block(stack.values, model.inlier, fitting.seed)
    if found is None:
        return None
    y, training, left_out = found
    rank = affordable(tuple(map(min, model.rank.rank, y.shape)), y.shape, int(training.sum()) / 2)
    fit = fitting(y, training, rank)
    start = estimate_with_neighbours(
        y, training, fit, noise=0.0, keep=True, neighbours=bool(fitting.options.neighbours)
    ).value
    spread = float(np.std(stack.values[stack.mask], dtype=np.float64))
    outliers = len(model.outliers.positions) > SOME_OUTLIERS * int(np.count_nonzero(stack.mask))
    return GlobalTrial(y, training, left_out, start, model.noise, spread, outliers, problem.fitting.device)


def split_block(
    values: Array, inlier: Bools, seed: int, voxels: int = VOXELS, share: float = HELD_OUT
) -> tuple[Array, Bools, Bools] | None:
    """A central block, its voxels for a fit, and those left out; None where too few could be left out.

    More than the share are left out where these would be few.
    """
    block = central_block(values.shape, voxels)
    y, w = np.ascontiguousarray(values[block]), inlier[block]
    share = min(max(share, ENOUGH / max(1, int(w.sum()))), MOST_HELD_OUT)
    left_out = w & (np.random.default_rng([seed, 2]).random(y.shape) < share)
    training = w & ~left_out
    if left_out.sum() < FEWEST or has_empty_lines(training):
        return None
    return y, training, left_out


def patch_trial(trial: GlobalTrial, options: LocalOptions, seed: int) -> PatchTrial:
    """Refine the global model by groups of patches, at noise levels that fall from its error to the best one.

    The levels tried fall to half of the noise, since estimates of it are upper bounds; the sweep with the smallest
    error at the left-out voxels shows where they should end.
    """
    before, sigma = trial.error, trial.sigma
    if trial.exact:
        errors = trial.errors
        return PatchTrial(
            before, (), errors, np.zeros(len(errors)), errors + trial.values[trial.left_out], trial.noise_variance,
            trial.least, trial.least_share(errors),
        )  # fmt: skip
    tried = np.geomspace(max(before, sigma), max(BELOW_NOISE * sigma, before / 8), options.sweeps)
    centre = float(np.mean(trial.values[trial.training], dtype=np.float64))
    best = (math.inf, 0, trial.start, trial.errors)

    def judge(_: IterationRecord, state: LocalState) -> None:
        nonlocal best
        estimate = to_host(state.estimate) + centre
        errors = trial.errors_of(estimate)
        square = float(np.mean(trial.capped(errors) ** 2))
        if square < best[0]:
            best = (square, state.sweep - 1, estimate, errors)

    def complete(start: Array, levels: Sequence[float], callback: Callback | None) -> LocalResult:
        return complete_by_patches(
            trial.values, trial.training, start, sigma, levels=levels, options=options, seed=seed, callback=callback,
            device=trial.device,
        )  # fmt: skip

    found = complete(trial.start, tuple(tried.tolist()), judge)
    _, last, estimate, judged = best
    if last == len(tried) - 1:  # the result goes one stage further than the last sweep
        judged = trial.errors_of(found.value)
    else:  # errors and spreads are to be those of a result, which ends with that stage
        found = complete(estimate, (float(tried[last]),), None)
    errors = trial.errors_of(found.value)
    return PatchTrial(
        trial.beyond_noise(judged),
        tuple(np.geomspace(tried[0], tried[last], options.sweeps).tolist()),
        errors,
        np.asarray(found.spread)[trial.left_out],
        errors + trial.values[trial.left_out],
        trial.noise_variance,
        trial.least,
        trial.least_share(errors),
    )
