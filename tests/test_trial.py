"""Trials at left-out voxels: errors without noise, levels, uncertainty, and what a method makes of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from problems import SIGMA, problem_of, waves

from tensorcell.fitting import Fitting
from tensorcell.methods import auto, local, tucker
from tensorcell.methods.trial import GlobalTrial, PatchTrial, global_trial, patch_trial
from tensorcell.model import StackModel
from tensorcell.solvers import LocalOptions, LocalState, NoiseModel, Status, degrees_of_freedom
from tensorcell.solvers.outliers import Outliers, no_defects
from tensorcell.solvers.residual_kriging import NeighbourEstimate

SHAPE = (12, 32, 32)
NOTHING_WRONG = Outliers(np.zeros(0, int), np.zeros(0), np.zeros(0, np.uint8), 0, no_defects().width)


def trial_of(errors: np.ndarray, noise: float) -> GlobalTrial:
    """A trial of a stack of zeros in which the voxels of the lower half were left out and missed by these errors."""
    left_out = np.arange(2 * errors.size).reshape(2, -1) < errors.size
    start = np.zeros(left_out.shape)
    start[left_out] = errors
    return GlobalTrial(np.zeros(left_out.shape), ~left_out, left_out, start, NoiseModel.white(noise))


def normal(count: int = 20_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


def test_global_trial_error_is_what_lies_beyond_the_noise() -> None:
    """Errors of an estimate of standard deviation 3 at voxels with noise of 4 are 5 wide."""
    trial = trial_of(3 * normal(seed=1) + 4 * normal(seed=2), noise=4.0)
    # The mean square of 20 000 errors is known to 1 % of 25, which is 2.8 % of 9: 1.4 % of 3, three of which are 4 %.
    assert trial.error == pytest.approx(3.0, rel=0.05)
    assert trial.beyond_noise(trial.errors) == trial.error
    assert trial.beyond_noise(4.5 * normal(seed=3)) == pytest.approx(math.sqrt(4.5**2 - 16), rel=0.05)
    # At most 35 % of the squared width are put down to noise.
    assert trial.width == pytest.approx(5 * math.sqrt(0.65), rel=0.04)


def test_global_trial_error_never_falls_to_zero() -> None:
    """Noise that was given too large leaves a tenth of the error over: levels and comparisons need a positive one."""
    trial = trial_of(normal(), noise=3.0)
    assert trial.error == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("outlier", [30.0, 1e6])
def test_global_trial_caps_what_cannot_be_predicted(outlier: float) -> None:
    """One error in a hundred is an outlier: each counts as five typical ones, and 25 / 100 are added to 99 / 100."""
    errors = normal()
    errors[::100] = outlier
    trial = trial_of(errors, noise=0.0)
    assert trial.error == pytest.approx(math.sqrt(1.24), rel=0.03)  # the median errs by 1 %
    assert trial.beyond_noise(np.full(100, 1e9)) == pytest.approx(5.0, rel=0.03)  # of the global model's, not its own


def test_global_trial_judges_by_voxels_that_its_estimate_did_not_see() -> None:
    """Whatever stands at the left-out voxels, the estimate of the block is the same bit for bit."""
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    trial = global_trial(problem)
    assert trial is not None
    inlier = problem.model.inlier
    assert np.array_equal(trial.training | trial.left_out, inlier)
    assert not (trial.training & trial.left_out).any()
    # One in twenty of 9 800 voxels is left out: 490, give or take four times 22.
    assert trial.left_out.sum() == pytest.approx(0.05 * inlier.sum(), abs=90)
    other = np.where(trial.left_out, 1e3, problem.stack.values)
    again = global_trial(dataclasses.replace(problem, stack=dataclasses.replace(problem.stack, values=other)))
    assert again is not None
    np.testing.assert_array_equal(again.left_out, trial.left_out)
    np.testing.assert_array_equal(again.start, trial.start)
    np.testing.assert_array_equal(trial.errors, (trial.start - data)[trial.left_out])


def test_global_trial_of_too_few_voxels_is_none() -> None:
    _, data, mask = waves(0.2)  # 2 500 measured voxels: 125 would be left out
    assert global_trial(problem_of(data, mask, rank=(1, 1, 1))) is None


def test_global_trial_fits_no_more_unknowns_than_half_of_its_samples() -> None:
    """A rank that the whole stack carries may be too large for a part of its samples."""
    _, data, mask = waves(0.8)
    problem, asked = problem_of(data, mask), []

    class Spy(Fitting):
        def __call__(self, stack: np.ndarray, mask: np.ndarray, rank: Any) -> Any:
            asked.append((tuple(rank), int(mask.sum())))
            return super().__call__(stack, mask, rank)

    for wanted in ((12, 30, 30), (2, 3, 3)):
        rank = dataclasses.replace(problem.model.rank, rank=wanted)
        model = dataclasses.replace(problem.model, rank=rank)
        global_trial(dataclasses.replace(problem, model=model, fitting=Spy()))
    (large, samples), (small, _) = asked
    assert degrees_of_freedom(large, SHAPE) <= samples / 2
    assert degrees_of_freedom(large, SHAPE) > samples / 4  # and not far fewer
    assert small == (2, 3, 3)


@dataclasses.dataclass
class Sweeps:
    """Groups of patches whose error at the left-out voxels is these multiples of the start's, one a sweep."""

    factors: tuple[float, ...]
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, stack: Any, training: Any, start: np.ndarray, sigma: float, **more: Any) -> Any:
        self.told = more
        centre = stack[training].mean()
        for number, factor in enumerate(self.factors, 1):
            spread = np.full(start.shape, float(number))
            more["callback"](None, LocalState(factor * start - centre, np.zeros_like(start), spread, number))
        return Restored(0.5 * self.factors[-1] * start, np.zeros(start.shape))


@dataclasses.dataclass
class Restored:
    value: np.ndarray
    spread: np.ndarray


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 2.0])
def test_patch_trial_tries_levels_from_the_error_to_half_of_the_noise(
    monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    """The noise is nothing, a quarter, half or twice of what the global model misses."""
    sweeps = Sweeps((0.9, 0.8, 0.7, 0.6, 0.5))
    monkeypatch.setattr("tensorcell.methods.trial.complete_by_patches", sweeps)
    trial = trial_of(normal(seed=1) + ratio * normal(seed=2), noise=ratio)
    found = patch_trial(trial, LocalOptions(sweeps=5), 0)
    tried = sweeps.told["levels"]
    assert found.levels == pytest.approx(tried)  # the last sweep is the best one
    assert tried[0] == pytest.approx(max(trial.error, ratio))
    assert tried[-1] == pytest.approx(max(ratio / 2, trial.error / 8))
    np.testing.assert_allclose(np.diff(np.log(tried)), np.log(tried[-1] / tried[0]) / 4, atol=1e-12)  # equal ratios
    np.testing.assert_allclose(found.errors, 0.25 * trial.errors)  # of the result, which is better than the last sweep
    assert (found.spreads == 0).all()


@pytest.mark.parametrize("best", range(4))
def test_patch_trial_levels_end_where_left_out_voxels_are_predicted_best(
    monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    factors = tuple(0.5 + 0.1 * abs(sweep - best) for sweep in range(5))
    sweeps = Sweeps(factors)
    monkeypatch.setattr("tensorcell.methods.trial.complete_by_patches", sweeps)
    trial = trial_of(normal(), noise=0.1)
    found = patch_trial(trial, LocalOptions(sweeps=5), 0)
    assert len(found.levels) == 5
    assert (found.levels[0], found.levels[-1]) == pytest.approx((sweeps.told["levels"][0], sweeps.told["levels"][best]))
    np.testing.assert_allclose(found.errors, 0.5 * trial.errors)
    assert (found.spreads == best + 1).all()


def test_patch_trial_beats_the_global_model_where_there_is_more_than_a_low_rank() -> None:
    """Diagonal stripes are of a high rank; patches along them are alike."""
    y, x = np.mgrid[:32, :32]
    truth = 10 + 3 * np.sin((x + y) ** 1.5 / 12) + np.zeros(SHAPE)
    rng = np.random.default_rng(0)
    data = truth + 0.1 * rng.standard_normal(SHAPE)
    trial = global_trial(problem_of(data, rng.random(SHAPE) < 0.7, noise=0.1, rank=(1, 3, 3)))
    assert trial is not None
    patches = patch_trial(trial, LocalOptions(sweeps=3), 0)
    true_error = math.sqrt(np.mean((patches.errors + (data - truth)[trial.left_out]) ** 2))
    assert patches.error < 0.8 * trial.error
    # The mean square of the noise of 400 voxels is known to 7 % of it, of which three are allowed.
    assert patches.error**2 == pytest.approx(true_error**2, abs=0.21 * 0.1**2)


def test_patch_trial_judges_by_voxels_that_the_groups_did_not_see() -> None:
    """Whatever stands at the left-out voxels, the estimate there is the same."""
    _, data, mask = waves(0.8)
    trial = global_trial(problem_of(data, mask))
    assert trial is not None
    mirrored = np.where(trial.left_out, 2 * trial.start - trial.values, trial.values)  # errors of the other sign
    other = dataclasses.replace(trial, values=mirrored)
    one, two = (patch_trial(each, LocalOptions(sweeps=1), 0) for each in (trial, other))  # one level: no choice
    np.testing.assert_allclose(two.levels, one.levels, rtol=1e-9)  # they follow the size of the errors alone
    estimates = [found.errors + each.values[trial.left_out] for found, each in ((one, trial), (two, other))]
    np.testing.assert_allclose(estimates[1], estimates[0], rtol=0, atol=1e-4)  # sums of numbers near 10 in float32
    np.testing.assert_allclose(two.spreads, one.spreads, rtol=0, atol=1e-4)


def test_patch_trial_uncertainty_follows_the_spread() -> None:
    """Errors that are as wide as the spread says: the uncertainty is the spread, for all of its values."""
    spreads = np.exp(np.random.default_rng(0).uniform(0, np.log(16), 8000))
    patches = PatchTrial(1.0, (1.0,), spreads * normal(8000), spreads, 0.0)
    asked = np.array([[1.5, 3.0], [6.0, 10.0]])
    # A group holds an eighth of a range of 16: its spreads differ by 41 %, and the quantile of the mixture lies 5 %
    # above that of its middle; the quantile of 1000 errors itself is known to 3 %.
    np.testing.assert_allclose(patches.uncertainty(asked), asked, rtol=0.15)
    assert patches.uncertainty(np.array([0.0]))[0] > 0.5  # beyond what was seen: that of the nearest group
    noisy = dataclasses.replace(patches, sigma=1.0)
    assert (noisy.uncertainty(asked) < patches.uncertainty(asked)).all()  # the noise of the left-out is taken off


def test_patch_trial_of_few_errors_has_one_width_for_all() -> None:
    """400 errors are too few for two groups of 250."""
    patches = PatchTrial(1.0, (1.0,), normal(400), np.linspace(1, 2, 400), 0.0)
    assert np.ptp(patches.uncertainty(np.array([1.0, 1.5, 2.0]))) == 0


# --------------------------------------------------------------------------------- what methods make of the trials


@pytest.mark.parametrize(("share", "sweeps"), [(0.0, False), (0.004, False), (0.1, True), (0.4, True)])
def test_needs_sweeps_of_a_stack_that_is_to_be_denoised(share: float, sweeps: bool) -> None:
    """A few outliers are no gaps: their neighbours and the model do. One voxel in ten is no few."""
    problem = with_lacking(share, keep=False)
    assert local.needs_sweeps(problem) == sweeps
    assert problem.has_gaps == (share > 0)
    assert local.needs_sweeps(with_lacking(share, keep=True)) == (share > 0)


def with_lacking(share: float, keep: bool) -> Any:
    """A problem of which that share is no inlier; its model is nowhere asked for more."""
    inlier = np.random.default_rng(0).random(SHAPE) >= share
    model = StackModel(NoiseModel.white(SIGMA), None, None, NOTHING_WRONG, inlier)  # type: ignore[arg-type]
    return local.Problem(
        stack=None, model=model, keep=keep, fitting=Fitting(), noise=None, axial_factor=1, label="", options={}
    )  # type: ignore[arg-type]


def test_noise_is_passed_on_by_planes_that_are_kept_only() -> None:
    assert with_lacking(0.1, keep=True).noise_passed_on.sigma == SIGMA
    assert with_lacking(0.1, keep=False).noise_passed_on.sigma == 0


def test_from_global_model_has_the_error_of_wieners_estimate_at_denoised_voxels() -> None:
    """Noise of variance ``b`` beside structure of variance ``a`` leaves ``w b`` over, ``w = a / (a + b)``."""
    _, data, mask = waves(0.8)
    start = NeighbourEstimate(np.full(SHAPE, 10.0), own_weight=0.25, left_out_width=0.7)
    denoised = tucker.from_global_model(problem_of(data, mask, keep=False), start, None)
    np.testing.assert_allclose(denoised.error, SIGMA / 2, rtol=1e-12)
    kept = tucker.from_global_model(problem_of(data, mask), start, None)
    np.testing.assert_allclose(kept.error, SIGMA, rtol=1e-12)


def test_from_global_model_has_the_width_of_the_trial_in_gaps() -> None:
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    trial = trial_of(normal(), noise=0.0)
    found = tucker.from_global_model(problem, tucker.global_estimate(problem), trial)
    np.testing.assert_allclose(found.error[problem.model.inlier], SIGMA, rtol=1e-12)
    np.testing.assert_allclose(found.error[~problem.model.inlier], trial.width, rtol=1e-12)


def test_from_patches_that_were_stopped_has_the_error_of_the_global_estimate_at_measured_voxels() -> None:
    """The callback ends the sweeps before anything is denoised by groups of patches."""
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask, keep=False, fitting=Fitting(callback=lambda *_: True))
    start = NeighbourEstimate(np.full(SHAPE, 10.0), own_weight=0.25, left_out_width=0.7)
    found = local.from_patches(problem, start, None)
    assert found.status is Status.STOPPED
    np.testing.assert_allclose(found.error[problem.model.inlier], SIGMA / 2, rtol=1e-12)


def test_from_patches_keeps_inliers_and_has_the_uncertainty_of_the_trial_in_gaps() -> None:
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    patches = PatchTrial(1.0, (0.6, 0.4, SIGMA), normal(400), np.linspace(1, 2, 400), SIGMA)
    found = local.from_patches(problem, tucker.global_estimate(problem), patches)
    inlier = problem.model.inlier
    np.testing.assert_array_equal(found.value[inlier], data[inlier])
    np.testing.assert_allclose(found.error[inlier], SIGMA, rtol=1e-12)
    np.testing.assert_allclose(found.error[~inlier], patches.uncertainty(np.ones(1))[0], rtol=1e-6)
    assert found.status is Status.COMPLETED


def test_from_patches_completes_at_the_levels_that_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, mask = waves(0.8, planes=6)
    problem, told = problem_of(data, mask), []
    complete = local.complete_by_patches

    def spy(*arrays: Any, levels: Any, **more: Any) -> Any:
        told.append(levels)
        return complete(*arrays, levels=levels, **more)

    monkeypatch.setattr(local, "complete_by_patches", spy)
    patches = PatchTrial(1.0, (0.7, 0.5, SIGMA), normal(400), np.linspace(1, 2, 400), SIGMA)
    start = tucker.global_estimate(problem)
    for trial in (patches, None):
        local.from_patches(problem, start, trial)
    assert told == [(0.7, 0.5, SIGMA), None]


def test_from_patches_of_a_whole_stack_with_an_outlier_has_the_left_out_width_there() -> None:
    truth, data, mask = waves(1.0)
    data[5, 16, 16] = -500  # a single bright voxel might be signal
    problem = problem_of(data, mask, keep=False)
    assert problem.only_outliers_lack
    assert problem.has_gaps
    start = tucker.global_estimate(problem)
    found = local.from_patches(problem, start, None)
    lacking = ~problem.model.inlier
    assert lacking[5, 16, 16]
    np.testing.assert_allclose(found.error[lacking], start.left_out_width, rtol=1e-6)
    assert abs(found.value[5, 16, 16] - truth[5, 16, 16]) < 4 * SIGMA
    rms = math.sqrt(np.mean((found.value - truth) ** 2))
    assert rms < 0.6 * SIGMA
    # Stein's estimate of its error: it knows the mean square of 12 000 voxels.
    assert math.sqrt(np.mean(found.error**2)) == pytest.approx(rms, rel=0.3)


@pytest.mark.parametrize("better", ["local", "tucker"])
def test_auto_takes_the_estimate_with_the_smaller_error(monkeypatch: pytest.MonkeyPatch, better: str) -> None:
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    factor = 0.9 if better == "local" else 1.1

    def told(trial: GlobalTrial, options: LocalOptions, seed: int) -> PatchTrial:
        levels = tuple(np.geomspace(0.5, SIGMA, options.sweeps))
        return PatchTrial(factor * trial.error, levels, normal(400), np.linspace(1, 2, 400), trial.sigma)

    monkeypatch.setattr(auto, "patch_trial", told)
    found = auto.estimate(problem)
    assert found.notes[0].startswith(f"method {better}: at 400 left-out")
    stages = {record.stage for record in found.history}
    assert ("local" in stages) == (better == "local")


def test_denoised_by_the_local_method_are_all_measured_voxels() -> None:
    """With gaps, too: inliers are denoised, and gaps are filled by the sweeps."""
    truth, data, mask = waves(0.7)
    problem = problem_of(data, mask, keep=False)
    found = local.estimate(problem)
    inlier = problem.model.inlier
    for where, most in ((inlier, 0.8), (~inlier, 1.0)):
        error = found.value[where] - truth[where]
        assert math.sqrt(np.mean(error**2)) < most * SIGMA
        # Intervals of 90 % are to cover about that; 85 to 100 % allows for what left-out voxels hide in their noise.
        assert np.mean(np.abs(error) <= 1.645 * found.error[where]) > 0.85
    assert (found.error > 0).all()


@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("keep", [True, False])
def test_methods_leave_no_voxel_without_value_or_error(share: float, keep: bool) -> None:
    _, data, mask = waves(share, planes=6)
    for method in (tucker, local):
        found = method.estimate(problem_of(data, mask, keep=keep))
        assert np.isfinite(found.value).all()
        assert (found.error > 0).all()
