"""The uncertainty of `recover` from end to end: never certain about the unknown, and intervals that hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from problems import problem_of, waves

from tensorcell import recover
from tensorcell.datasets import simulate_cells
from tensorcell.methods import tucker
from tensorcell.methods.errors import NO_NOISE_FOUND, NOISE_NOT_MEASURED, NOTHING_TOLD, errors_of
from tensorcell.methods.kriging import BEYOND, TWO_PLANES
from tensorcell.recovered import Recovery
from tensorcell.solvers.noise import UNMEASURABLE


def inside(result: Recovery, truth: np.ndarray) -> np.ndarray:
    """Where the noise-free intensity lies within the interval."""
    assert np.isfinite(result.volume.data).all()
    assert np.isfinite(result.uncertainty).all()
    return np.abs(result.volume.data - truth) <= 1.645 * result.uncertainty


def brightest(truth: np.ndarray) -> np.ndarray:
    return truth >= np.quantile(truth, 0.9)


@pytest.mark.parametrize("method", ["tucker", "local"])
@pytest.mark.parametrize("detection", [{}, {"keep_pixels": 0.3}, {"keep_pixels": 0.7}, {"axial_factor": 2}])
def test_intervals_hold_in_the_whole_volume_and_in_its_brightest_tenth(method: str, detection: dict[str, Any]) -> None:
    """One small stack: 90 % of its voxels, within a few percent. The mean over many is in benchmarks."""
    cells = simulate_cells((11, 32, 32), cells=6, seed=1, **detection)
    fast = {"sweeps": 2} if method == "local" else {}
    result = recover(cells.measured, method=method, axial_factor=detection.get("axial_factor", 1), **fast)
    covered = inside(result, cells.truth)
    # Where few voxels could be left out, the errors are those of the global estimate, which is the poorer one.
    assert 0.84 < covered.mean() < 0.985
    assert 0.75 < covered[brightest(cells.truth)].mean() < 0.985
    assert (result.uncertainty > 0).all()


def test_planes_beyond_the_measured_ones_are_not_certain_and_a_note_says_so() -> None:
    cells = simulate_cells((12, 40, 40), cells=8, seed=1)
    measured = cells.measured.copy()
    measured[5:] = np.nan
    result = recover(measured)
    assert 0.85 < inside(result, cells.truth)[5:].mean() < 0.99
    assert (result.uncertainty[5:] > 0).all()
    assert result.uncertainty[6].mean() < result.uncertainty[11].mean()
    assert result.invented[5:].mean() > 0.5
    assert BEYOND in result.notes


def test_two_measured_planes_are_said_to_tell_little() -> None:
    cells = simulate_cells((5, 40, 40), cells=8, seed=1)
    measured = np.full_like(cells.measured, np.nan)
    measured[[0, 4]] = cells.measured[[0, 4]]
    result = recover(measured)
    assert inside(result, cells.truth)[1:4].mean() > 0.75  # nothing could be left out
    assert TWO_PLANES in result.notes
    assert BEYOND not in result.notes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_bead_over_exact_zeros_is_recovered_without_nan_and_without_certainty(dtype: type, width: float) -> None:
    z, y, x = np.mgrid[:10, :24, :24]
    bead = 1000 * np.exp(-((z - 5) ** 2 + (y - 12) ** 2 + (x - 12) ** 2) / 2 / width**2)
    bead[bead < 50] = 0
    mask = np.random.default_rng(0).random(bead.shape) < 0.5
    result = recover(bead.astype(dtype), mask=mask, method="local", sweeps=2)
    assert np.isfinite(result.volume.data).all()
    # One voxel in so many may have the error of the bead: far more than rounding, 1e-4.
    assert (result.uncertainty[~mask] > 1e-2).all()


def test_errors_of_too_few_voxels_are_the_spread_of_the_data_and_a_note_says_so() -> None:
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask)
    start = tucker.global_estimate(problem)
    few = np.zeros(mask.shape, bool)
    few.ravel()[:40] = True
    problem = dataclasses.replace(problem, model=dataclasses.replace(problem.model, inlier=few))
    found = errors_of(problem, start, start.value)
    spread = data[mask].std()
    np.testing.assert_allclose(found.value[~few], spread, rtol=1e-9)
    assert found.notes == (NOTHING_TOLD.format(spread),)


@pytest.mark.parametrize("keep", [True, False])
def test_noise_that_could_not_be_measured_is_not_taken_for_nothing(keep: bool) -> None:
    """At measured voxels, the error with which neighbours predict them is an upper bound of the noise."""
    _, data, mask = waves(0.8)
    problem = problem_of(data, mask, keep=keep)
    unknown = dataclasses.replace(problem.model.noise, sigma=0.0, offset=0.0, floor=0.0, sentence=UNMEASURABLE)
    problem = dataclasses.replace(problem, noise=None, model=dataclasses.replace(problem.model, noise=unknown))
    start = tucker.global_estimate(problem)
    found = errors_of(problem, start, start.value)
    assert (found.value > 0.2).all()  # noise of .3 and more
    assert NOISE_NOT_MEASURED in found.notes


def test_measured_voxels_without_noise_have_a_note() -> None:
    truth, _, mask = waves(0.8)
    problem = dataclasses.replace(problem_of(truth, mask, noise=0.0), noise=None)
    start = tucker.global_estimate(problem)
    assert errors_of(problem, start, start.value).notes == (NO_NOISE_FOUND,)
    assert errors_of(dataclasses.replace(problem, noise=0.0), start, start.value).notes == ()


def test_planes_between_smooth_noisy_planes_are_known_better_than_the_noise() -> None:
    """Errors at left-out planes are nearly all noise, which is told from structure: neighbours do not share it."""
    truth, data, _ = waves(planes=21)
    result = recover(data[::2], axial_factor=2)
    true = float(np.sqrt(np.mean((result.volume.data - truth)[1::2] ** 2)))
    told = float(np.sqrt(np.mean(result.uncertainty[1::2] ** 2)))
    assert true < told < 2 * true
    assert inside(result, truth)[1::2].mean() > 0.88


def test_outliers_have_the_error_of_a_gap() -> None:
    truth, data, mask = waves(0.9)
    mask[6, 16, 16] = True
    data[6, 16, 16] = 500
    result = recover(data, mask=mask, method="tucker")
    assert result.outliers[6, 16, 16] > 400
    near = ~mask & (np.abs(truth - truth[6, 16, 16]) < 0.3)
    assert result.uncertainty[6, 16, 16] == pytest.approx(np.mean(result.uncertainty[near]), rel=0.2)


@pytest.mark.parametrize("keep", [False, True])
def test_a_rare_filament_lies_in_its_intervals_on_measured_planes_and_between(keep: bool) -> None:
    """Photons of a thin filament that moves by four pixels a plane: .3 % of the voxels, and all that is sought."""
    z = np.arange(0, 10.01, 0.5)[:, None, None]
    y, x = np.arange(60)[:, None], np.arange(64)
    thread = 60 * np.exp(-((y - 20 - 1.6 * z) ** 2 + (x - 10 - 4 * z) ** 2) / 2.5)
    truth = 3 + 25 * np.exp(-((y - 44) ** 2 + (x - 50) ** 2) / 40) + thread
    there = thread > 10
    planes = np.random.default_rng(5).poisson(truth[::2]).astype(np.float32)
    covered = inside(recover(planes, axial_factor=2, keep_measured=keep), truth)
    # Laws of the whole stack cover a quarter of it where it is denoised, and four tenths between planes.
    assert covered[::2][there[::2]].mean() > 0.75
    assert covered[1::2][there[1::2]].mean() > 0.8
    assert covered.mean() > 0.9
