"""Trials at left-out voxels: errors without noise, levels, uncertainty, and what a method makes of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from problems import SIGMA, outliers_at, problem_of, waves

from tensorcell.fitting import Fitting
from tensorcell.methods import auto, frames, local, tucker
from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.methods.trial import GlobalTrial, PatchTrial, global_trial, patch_trial
from tensorcell.model import StackModel
from tensorcell.plane_grid import PlaneGrid
from tensorcell.solvers import LocalOptions, LocalState, NoiseModel, Status, degrees_of_freedom
from tensorcell.solvers.neighbour_errors import neighbour_errors
from tensorcell.solvers.predictive_rank import has_empty_lines
from tensorcell.solvers.residual_kriging import NeighbourEstimate

SHAPE = (12, 32, 32)


def from_patches(problem: Problem, start: NeighbourEstimate, trial: PatchTrial | None) -> Estimate:
    """The estimate of a single stack."""
    (found,) = local.from_patches(frames.Frames([problem], [start], None), trial)
    return found


def trial_of(errors: np.ndarray, noise: float) -> GlobalTrial:
    """A trial of a stack of zeros in which the voxels of the lower half were left out and missed by these errors."""
    left_out = np.arange(2 * errors.size).reshape(2, -1) < errors.size
    start = np.zeros(left_out.shape)
    start[left_out] = errors
    return GlobalTrial(np.zeros(left_out.shape), ~left_out, left_out, start, NoiseModel.white(noise))


def patches_of(errors: np.ndarray, spreads: np.ndarray, noise: float = 0.0, **more: Any) -> PatchTrial:
    """A trial of groups of patches that made these errors, at intensities that say nothing of them."""
    intensities = np.random.default_rng(9).uniform(0, 1000, errors.size)
    fields = {"error": 1.0, "levels": (1.0,), "least_share": 0.65, **more}
    variance = np.full(errors.size, noise**2)
    return PatchTrial(errors=errors, spreads=spreads, intensities=intensities, noise_variance=variance, **fields)


def normal(count: int = 20_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


def test_global_trial_error_is_what_lies_beyond_the_noise() -> None:
    """Errors of an estimate of standard deviation 3 at voxels with noise of 4 are 5 wide."""
    trial = trial_of(3 * normal(seed=1) + 4 * normal(seed=2), noise=4.0)
    # The mean square of 20 000 errors is known to 1 % of 25, which is 2.8 % of 9: 1.4 % of 3, three of which are 4 %.
    assert trial.error == pytest.approx(3.0, rel=0.05)
    assert trial.beyond_noise(trial.errors) == trial.error
    assert trial.beyond_noise(4.5 * normal(seed=3)) == pytest.approx(math.sqrt(4.5**2 - 16), rel=0.05)


def test_global_trial_uncertainty_is_without_noise_and_follows_the_intensity() -> None:
    """Errors of 3 in the dark and 6 in the bright, with noise of 4, at neighbours that share nothing of them."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(100, 200, (4, 100, 100))
    error, noise = (
        np.where(truth < 150, 3.0, 6.0) * rng.standard_normal(truth.shape),
        4 * rng.standard_normal(truth.shape),
    )
    left_out = rng.random(truth.shape) < 0.9
    trial = GlobalTrial(truth + noise, ~left_out, left_out, truth + error, NoiseModel.white(4.0))
    # Sixteen groups of 2 200 errors: the square of their width of 5 is known to 6 %, which is 17 % of 9.
    np.testing.assert_allclose(trial.uncertainty(np.array([120.0, 180.0])), [3, 6], rtol=0.17)


def test_global_trial_of_exact_predictions_is_not_certain() -> None:
    """400 voxels of a background were predicted exactly: one in 400 may still differ by the spread of the data, 8."""
    left_out = np.arange(800).reshape(2, -1) < 400
    trial = GlobalTrial(np.zeros((2, 400)), ~left_out, left_out, np.zeros((2, 400)), NoiseModel.white(0.0), spread=8.0)
    np.testing.assert_allclose(trial.uncertainty(np.zeros(3)), 8 / 20)
    assert trial.error > 0  # levels and comparisons need a positive one


def test_global_trial_typical_error_is_that_of_the_structure_beside_a_background_of_zeros() -> None:
    """Nine errors in ten are 0: their median is no measure of what the others miss."""
    errors = np.where(np.arange(10_000) % 10 == 0, 50 * normal(10_000), 0.0)
    trial = trial_of(errors, noise=0.0)
    assert trial.typical == pytest.approx(50, rel=0.08)  # the median of a thousand errors
    assert trial.error == pytest.approx(50 / math.sqrt(10), rel=0.08)


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
    _, data, mask = waves(0.018)  # 220 measured voxels, of which a fifth would be left out
    assert not has_empty_lines(mask)
    assert global_trial(problem_of(data, mask, rank=(1, 1, 1))) is None


def test_global_trial_leaves_more_out_where_few_voxels_were_measured() -> None:
    _, data, mask = waves(0.2)  # 2 500 measured voxels
    trial = global_trial(problem_of(data, mask, rank=(1, 1, 1)))
    assert trial is not None
    assert trial.left_out.sum() == pytest.approx(400, abs=75)  # four standard deviations


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
    runs: list[Any] = dataclasses.field(default_factory=list)
    """Starts of all runs; those after the first one have no sweeps."""

    def __call__(self, stack: Any, training: Any, start: np.ndarray, sigma: float, **more: Any) -> Any:
        self.runs.append((start, more["levels"]))
        if len(self.runs) > 1:
            return Restored(0.9 * start, np.full(start.shape, 7.0))
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
    assert len(sweeps.runs) == 1
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
    assert found.error == pytest.approx(trial.beyond_noise(0.5 * trial.errors))
    if best < 4:  # the errors are those of a result, which ends with another stage than a sweep
        start, levels = sweeps.runs[1]
        assert levels == (sweeps.told["levels"][best],)
        np.testing.assert_allclose(found.errors, 0.9 * 0.5 * trial.errors)
        np.testing.assert_allclose(start, 0.5 * trial.start)
        assert (found.spreads == 7).all()


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
    patches = patches_of(spreads * normal(8000), spreads)
    asked, ten = np.array([[1.5, 3.0], [6.0, 10.0]]), np.full((2, 2), 500.0)
    # A group holds an eighth of a range of 16: its spreads differ by 41 %, and the quantile of the mixture lies 5 %
    # above that of its middle; the quantiles of 1000 and of 500 errors are known to 3 and 4 %.
    np.testing.assert_allclose(patches.uncertainty(asked, ten), asked, rtol=0.17)
    assert patches.uncertainty(np.array([0.0]), ten[:1, 0])[0] > 0.5  # beyond what was seen: that of the nearest group
    noisy = patches_of(spreads * normal(8000), spreads, noise=1.0)
    assert (noisy.uncertainty(asked, ten) < patches.uncertainty(asked, ten)).all()  # the noise is taken off


def test_patch_trial_uncertainty_follows_the_intensity_beside_the_spread() -> None:
    """Errors are as wide as the spread in the dark, and three times as wide in the bright."""
    rng = np.random.default_rng(1)
    spreads, intensities = np.exp(rng.uniform(0, np.log(4), 8000)), rng.uniform(0, 1000, 8000)
    factor = np.where(intensities < 500, 1, 3)
    patches = PatchTrial(
        1.0, (1.0,), factor * spreads * normal(8000), spreads, intensities, np.zeros(8000), least_share=0.65
    )
    for spread in (1.2, 3.0):
        dark, bright = patches.uncertainty(np.full(2, spread), np.array([200.0, 800.0]))
        assert bright / dark == pytest.approx(3, rel=0.2)  # the quantiles of two groups of 500 errors
        assert math.sqrt(dark * bright) == pytest.approx(math.sqrt(3) * spread, rel=0.2)


def test_patch_trial_of_few_errors_has_one_width_for_all() -> None:
    """180 errors are too few for two groups of 100."""
    patches = patches_of(normal(180), np.linspace(1, 2, 180))
    assert np.ptp(patches.uncertainty(np.array([1.0, 1.5, 2.0]), np.array([9.0, 10.0, 11.0]))) == 0


# --------------------------------------------------------------------------------- what methods make of the trials


@pytest.mark.parametrize(("share", "many"), [(0.0, False), (0.004, False), (0.1, True), (0.4, True)])
def test_few_gaps_need_no_trial_and_denoising_takes_care_of_them(share: float, many: bool) -> None:
    """One voxel in ten is no few."""
    for keep in (True, False):
        problem = with_lacking(share, keep=keep)
        assert problem.has_gaps == (share > 0)
        assert problem.has_few_gaps == (problem.has_gaps and not many)
        assert problem.needs_trial == many
        assert problem.needs_sweeps == (problem.has_gaps if keep else many)


def with_lacking(share: float, keep: bool) -> Any:
    """A problem of which that share is no inlier; its model is nowhere asked for more."""
    inlier = np.random.default_rng(0).random(SHAPE) >= share
    model = StackModel(NoiseModel.white(SIGMA), None, None, outliers_at(np.zeros(0, int)), inlier)  # type: ignore[arg-type]
    return local.Problem(
        stack=None, model=model, keep=keep, fitting=Fitting(), noise=None, grid=PlaneGrid(1), label="", options={}
    )  # type: ignore[arg-type]


def test_noise_is_passed_on_by_planes_that_are_kept_only() -> None:
    assert with_lacking(0.1, keep=True).noise_passed_on.sigma == SIGMA
    assert with_lacking(0.1, keep=False).noise_passed_on.sigma == 0


def test_from_global_model_knows_the_error_of_denoised_voxels() -> None:
    """The model smooths: the error that is left is a fraction of the noise, but not nothing."""
    truth, data, mask = waves()
    problem = problem_of(data, mask, keep=False)
    found = tucker.from_global_model(problem, tucker.global_estimate(problem), None)
    rms = math.sqrt(np.mean((found.value - truth) ** 2))
    assert rms < 0.5 * SIGMA
    # Of a variance that Stein's estimate knows to 2 % of the noise's.
    assert math.sqrt(np.mean(found.error**2)) == pytest.approx(rms, rel=0.25)


def test_from_global_model_has_the_noise_at_the_intensity_itself_where_voxels_are_kept() -> None:
    """Not at the measured value: a voxel that noise made dark has no less noise for that."""
    truth, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    law = NoiseModel(gain=0.01, offset=-0.01, sigma=SIGMA, floor=1e-4)
    problem = dataclasses.replace(problem, model=dataclasses.replace(problem.model, noise=law))
    found = tucker.from_global_model(problem, tucker.global_estimate(problem), None)
    kept = problem.model.inlier
    expected = np.sqrt(law.variance(truth))[kept]
    # Noise of .3 at 10 changes the standard deviation by 1.7 %, and an estimate of the intensity by less than that.
    assert np.std(found.error[kept] / expected) < 0.6 * np.std(np.sqrt(law.variance(data))[kept] / expected)


@pytest.mark.parametrize("noise", [SIGMA, 0.0])
def test_from_global_model_has_an_error_in_gaps_without_a_trial(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few voxels could be left out: the errors of X + S at measured voxels, each without its own residual."""
    truth, data, mask = waves(0.2, planes=6)
    values = data if noise else truth
    problem = problem_of(values, mask, noise=noise)
    monkeypatch.setattr("tensorcell.methods.trial.FEWEST", 10_000)
    assert global_trial(problem) is None
    gap = ~problem.model.inlier
    spread = np.std(values[mask])
    for found, most in ((tucker.estimate(problem), 0.9 * spread), (local.estimate(problem), 1.001 * spread)):
        assert np.mean(np.abs(found.value - truth)[gap] <= 1.645 * found.error[gap]) > 0.85
        assert (found.error[gap] < most).all()


def test_from_global_model_has_the_width_of_the_trial_in_gaps() -> None:
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    trial = global_trial(problem)
    assert trial is not None
    found = tucker.from_global_model(problem, tucker.global_estimate(problem), trial)
    gap = ~problem.model.inlier
    np.testing.assert_allclose(found.error[~gap], SIGMA, rtol=1e-12)
    np.testing.assert_allclose(found.error[gap], trial.uncertainty(found.value)[gap], rtol=1e-12)


def test_from_patches_that_were_stopped_has_the_error_of_the_global_estimate_at_measured_voxels() -> None:
    """The callback ends the sweeps before anything is denoised by groups of patches."""
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask, keep=False, fitting=Fitting(callback=lambda *_: True))
    start = tucker.global_estimate(problem)
    found = from_patches(problem, start, None)
    assert found.status is Status.STOPPED
    own = neighbour_errors(problem.stack.values, mask, problem.model.fit, start, problem.model.noise)
    assert own is not None
    inlier = problem.model.inlier
    np.testing.assert_allclose(found.error[inlier], own.denoised(found.value)[inlier], rtol=1e-12)
    np.testing.assert_allclose(found.error[~inlier], own.gap(found.value)[~inlier], rtol=1e-12)


def test_from_patches_keeps_inliers_and_has_the_uncertainty_of_the_trial_in_gaps() -> None:
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    patches = patches_of(normal(180), np.linspace(1, 2, 180), SIGMA, levels=(0.6, 0.4, SIGMA))
    found = from_patches(problem, tucker.global_estimate(problem), patches)
    inlier = problem.model.inlier
    np.testing.assert_array_equal(found.value[inlier], data[inlier])
    np.testing.assert_allclose(found.error[inlier], SIGMA, rtol=1e-12)
    np.testing.assert_allclose(found.error[~inlier], patches.uncertainty(np.ones(1), np.full(1, 500.0))[0], rtol=1e-6)
    assert found.status is Status.COMPLETED


def test_from_patches_completes_at_the_levels_that_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, mask = waves(0.8, planes=6)
    problem, told = problem_of(data, mask), []
    complete = local.complete_by_patches

    def spy(*arrays: Any, levels: Any, **more: Any) -> Any:
        told.append(levels)
        return complete(*arrays, levels=levels, **more)

    monkeypatch.setattr(local, "complete_by_patches", spy)
    patches = patches_of(normal(400), np.linspace(1, 2, 400), SIGMA, levels=(0.7, 0.5, SIGMA))
    start = tucker.global_estimate(problem)
    for trial in (patches, None):
        from_patches(problem, start, trial)
    assert told == [(0.7, 0.5, SIGMA), None]


def test_from_patches_of_a_whole_stack_with_an_outlier_has_the_left_out_width_there() -> None:
    truth, data, mask = waves(1.0)
    data[5, 16, 16] = -500  # a single bright voxel might be signal
    problem = problem_of(data, mask, keep=False)
    assert problem.has_few_gaps
    assert problem.has_gaps
    start = tucker.global_estimate(problem)
    found = from_patches(problem, start, None)
    lacking = ~problem.model.inlier
    assert lacking[5, 16, 16]
    own = neighbour_errors(problem.stack.values, ~lacking, problem.model.fit, start, problem.model.noise)
    assert own is not None
    np.testing.assert_allclose(found.error[lacking], own.gap(found.value)[lacking], rtol=1e-6)
    assert abs(found.value[5, 16, 16] - truth[5, 16, 16]) < 4 * SIGMA
    rms = math.sqrt(np.mean((found.value - truth) ** 2))
    assert rms < 0.6 * SIGMA
    # Stein's estimate of its error: it knows the mean square of 12 000 voxels.
    assert math.sqrt(np.mean(found.error**2)) == pytest.approx(rms, rel=0.3)


def test_auto_fills_a_few_defects_of_kept_voxels_by_groups_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, data, mask = waves(1.0)
    dead = np.random.default_rng(5).random(data.shape) < 0.004
    data[dead] = -500
    problem = problem_of(data, mask, keep=True)
    assert problem.has_few_gaps
    monkeypatch.setattr(frames, "global_trial", None)  # not called
    found, start = auto.estimate(problem), tucker.global_estimate(problem)
    np.testing.assert_array_equal(found.value[problem.model.inlier], data[problem.model.inlier])
    assert np.all(found.value[dead] != start.value[dead])
    ours, theirs = (math.sqrt(np.mean((value - truth)[dead] ** 2)) for value in (found.value, start.value))
    assert ours < 1.1 * theirs  # the global model has nearly the rank of the waves
    assert np.mean(np.abs(found.value - truth)[dead] <= 1.645 * found.error[dead]) > 0.8


@pytest.mark.parametrize("better", ["local", "tucker"])
def test_auto_takes_the_estimate_with_the_smaller_error(monkeypatch: pytest.MonkeyPatch, better: str) -> None:
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    factor = 0.9 if better == "local" else 1.1

    def told(trial: GlobalTrial, options: LocalOptions, seed: int) -> PatchTrial:
        levels = tuple(np.geomspace(0.5, SIGMA, options.sweeps))
        return patches_of(normal(400), np.linspace(1, 2, 400), trial.sigma, levels=levels, error=factor * trial.error)

    monkeypatch.setattr(frames, "blended_trial", told)
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
        # Intervals of 90 % are to cover about that; 82 to 100 % allows for what left-out voxels hide in their noise.
        assert np.mean(np.abs(error) <= 1.645 * found.error[where]) > 0.82
    assert (found.error > 0).all()


@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("keep", [True, False])
def test_methods_leave_no_voxel_without_value_or_error(share: float, keep: bool) -> None:
    _, data, mask = waves(share, planes=6)
    for method in (tucker, local):
        found = method.estimate(problem_of(data, mask, keep=keep))
        assert np.isfinite(found.value).all()
        assert (found.error > 0).all()
