"""What stands out of the estimate is returned as measured; pure noise returns the estimate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from problems import SIGMA, problem_of, waves

from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.solvers import NoiseModel, Status
from tensorcell.standing_out import (
    BESIDE,
    FALSE,
    LEVELS,
    SURROUND,
    grown,
    standard_residual,
    threshold_of,
    with_measured,
    without_single,
)

PLACES = [(3, 8, 8), (6, 20, 11), (9, 14, 25), (5, 27, 5), (7, 5, 27)]


def estimate_of(value: np.ndarray) -> Estimate:
    """An estimate that says so, of error .05 everywhere."""
    return Estimate(value.copy(), np.full(value.shape, 0.05), Status.CONVERGED, (), ("as before",))


def spotted(height: float, keep: bool = False) -> tuple[np.ndarray, np.ndarray, Problem]:
    """Truth without spots (the estimate), what was measured, and its problem; spots are two voxels, no outliers."""
    truth, data, mask = waves()
    for z, y, x in PLACES:
        data[z, y, x] += height
        data[z, y, x + 1] += height / 2
    problem = problem_of(data, mask, keep=keep)
    return truth, data, replace(problem, model=replace(problem.model, inlier=np.ones(data.shape, bool)))


@pytest.mark.parametrize("height", [3.0, -3.0])
def test_what_stands_out_is_returned_as_measured_with_the_error_of_the_noise(height: float) -> None:
    """A spot of ten standard deviations, and its half beside it, which has five: the estimate has neither."""
    truth, _, problem = spotted(height)
    measured = problem.stack.values
    result = with_measured(problem, estimate_of(truth))
    changed = result.value != truth
    for z, y, x in PLACES:
        assert changed[z, y, x]
        assert changed[z, y, x + 1]
    assert changed.sum() < 2 * len(PLACES) + 27 * len(PLACES) * 0.05 + 5  # 2.3 % of the neighbours are noise beyond 2
    np.testing.assert_array_equal(result.value[changed], measured[changed])
    np.testing.assert_allclose(result.error[changed], SIGMA, rtol=1e-6)
    np.testing.assert_array_equal(result.error[~changed], 0.05)
    (first, note) = result.notes
    assert first == "as before"
    assert f"{changed.sum()} voxels are returned as measured" in note


def test_the_callers_estimate_is_not_written() -> None:
    truth, _, problem = spotted(3.0)
    given = estimate_of(truth)
    for array in (given.value, given.error):
        array.setflags(write=False)
    assert with_measured(problem, given).value is not given.value


@pytest.mark.parametrize("seed", range(6))
def test_pure_noise_returns_the_estimate(seed: int) -> None:
    """No threshold has a tenth of noise above it; by chance a handful may have."""
    truth, data, mask = waves(seed=seed)
    problem = problem_of(data, mask, keep=False)
    given = estimate_of(truth)
    result = with_measured(problem, given)
    assert result is given or np.count_nonzero(result.value != truth) <= 3


def test_kept_measurements_and_data_without_noise_return_the_same_estimate() -> None:
    truth, data, problem = spotted(3.0, keep=True)
    given = estimate_of(truth)
    assert with_measured(problem, given) is given
    denoised = problem_of(data, np.ones(data.shape, bool), keep=False, noise=0.0)
    assert with_measured(denoised, given) is given


def test_outliers_and_unmeasured_voxels_do_not_stand_out() -> None:
    truth, _, problem = spotted(3.0)
    inlier = problem.model.inlier.copy()
    for z, y, x in PLACES[:2]:
        inlier[z, y, x] = False
    model = replace(problem.model, inlier=inlier)
    result = with_measured(replace(problem, model=model), estimate_of(truth))
    changed = result.value != truth
    assert not (changed & ~inlier).any()
    assert all(changed[place] for place in PLACES[2:])


def test_standard_residual_is_in_standard_deviations_of_the_noise() -> None:
    white = standard_residual(np.array([4.0, 1.0]), np.array([1.0, 2.0]), NoiseModel.white(2.0))
    np.testing.assert_allclose(white, [1.5, -0.5])
    shot = NoiseModel(gain=2.0, offset=3.0, sigma=1.0)
    mean = np.full(200_000, 100.0)
    rng = np.random.default_rng(0)
    counts = 2.0 * rng.poisson(50, mean.size) + np.sqrt(3.0) * rng.standard_normal(mean.size)
    off = standard_residual(counts, mean, shot)
    assert off.std() == pytest.approx(1, rel=0.02)  # the transform is within 4 % of 1 from four photons on


def test_faint_shot_noise_does_not_stand_out_but_a_spot_in_it_does() -> None:
    """Of two photons on average seven are some four standard deviations of a normal variable, but one voxel in 300."""
    shot = NoiseModel(gain=1.0, offset=0.0, sigma=1.5)
    truth = np.full((12, 32, 32), 2.0)
    counts = np.random.default_rng(0).poisson(truth).astype(float)
    problem = shot_problem(counts, shot)
    result = with_measured(problem, estimate_of(truth))
    assert np.count_nonzero(result.value != truth) <= 3
    counts[6, 15:17, 15:17] = 20
    problem = shot_problem(counts, shot)
    result = with_measured(problem, estimate_of(truth))
    assert (result.value[6, 15:17, 15:17] == 20).all()
    np.testing.assert_allclose(result.error[6, 15:17, 15:17], np.sqrt(20))


def shot_problem(counts: np.ndarray, noise: NoiseModel) -> Problem:
    """A complete stack with that law of noise, of which no voxel is an outlier."""
    problem = problem_of(counts, np.ones(counts.shape, bool), keep=False, noise=1.5, rank=(1, 1, 1))
    return replace(problem, model=replace(problem.model, noise=noise, inlier=np.ones(counts.shape, bool)))


def test_threshold_is_the_smallest_with_a_tenth_of_false_discoveries() -> None:
    """Of 10^6 normal values 465 are beyond 3.5 and 63 beyond 4: 4650 and 630 others make these a tenth."""
    everything = 1_000_000
    for level, needed in [(3.5, 4652), (4.0, 633)]:
        assert everything * math.erfc(level / math.sqrt(2)) == pytest.approx(FALSE * needed, rel=0.01)
        assert threshold_of(np.full(needed + 20, 8.0), everything) == pytest.approx(level)
        assert threshold_of(-np.full(needed + 20, 8.0), everything) == pytest.approx(level)
        assert threshold_of(np.full(needed - 20, 8.0), everything) > level
    assert threshold_of(np.zeros(1000), 1000) == math.inf
    assert threshold_of(np.full(10, 3.4), 1000) == math.inf
    assert threshold_of(np.full(1, 50.0), everything) < LEVELS[-1]


def test_grown_takes_neighbours_on_the_same_side() -> None:
    off = np.zeros((5, 5, 5))
    off[2, 2, 2] = 6
    off[2, 2, 3] = SURROUND + 0.1
    off[1, 1, 1] = SURROUND + 0.1  # a corner
    off[2, 3, 2] = SURROUND - 0.1
    off[3, 2, 2] = -SURROUND - 0.1  # the other side
    off[2, 2, 4] = SURROUND + 0.1  # not beside a seed
    chosen = np.zeros((5, 5, 5), bool)
    chosen[2, 2, 2] = chosen[2, 2, 3] = chosen[1, 1, 1] = True
    np.testing.assert_array_equal(grown(off, off > 5), chosen)
    assert not grown(off, off > 6.5).any()


def test_without_single_takes_seeds_without_a_neighbour_far_off_on_the_same_side() -> None:
    off = np.zeros((5, 6, 7))
    off[2, 2, 2], off[2, 2, 3] = 6, BESIDE + 0.1
    off[0, 5, 6], off[1, 5, 6] = 6, -6
    off[4, 0, 0], off[4, 1, 0] = 6, BESIDE - 0.1
    expected = np.zeros(off.shape, bool)
    expected[2, 2, 2] = True
    np.testing.assert_array_equal(without_single(off, off > 5), expected)
