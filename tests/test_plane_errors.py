"""Errors of planes between few measured planes and beyond the measured ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tensorcell.solvers import fill_planes
from tensorcell.solvers.noise import NoiseModel
from tensorcell.solvers.plane_errors import between_two, power_of_variogram, repeated

QUIET = NoiseModel.white(0.0)


def walk(planes: int, seed: int = 0, side: int = 64) -> np.ndarray:
    """Every voxel a random walk along z with steps of variance 1, from anywhere between 0 and 200."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 200, (side, side)) + np.cumsum(rng.standard_normal((planes, side, side)), axis=0)


def field(planes: int, width: float, seed: int = 0) -> np.ndarray:
    """A smooth field of variance 1 and mean 10, with the same correlation along all axes."""
    made = gaussian_filter(np.random.default_rng(seed).standard_normal((planes + 20, 64, 64)), width, mode="wrap")
    return 10 + made[10 : 10 + planes] / made.std()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_between_two_planes_of_a_random_walk_is_the_brownian_bridge(share: float) -> None:
    gap = 8
    truth = walk(gap + 1)
    found = between_two(truth[[0, gap]], np.array([0.0, gap]), share * gap, QUIET, 1.0)
    # A mean of 4 096 squared differences is known to 2 %.
    assert found.variance.mean() == pytest.approx(share * (1 - share) * gap, rel=0.07)
    assert not found.passed.any()


def test_between_two_unrelated_planes_the_error_is_larger_than_the_spread() -> None:
    """Half the sum of two unrelated planes predicts a third one worse than their mean: 1.5 times the variance."""
    planes = np.random.default_rng(0).standard_normal((2, 64, 64))
    found = between_two(planes, np.array([0.0, 4.0]), 2.0, QUIET, None)
    # The exponential variogram knows nothing below a correlation of .05, of which .22 are left half-way.
    assert 1.0 < found.variance.mean() < 1.5


def test_between_two_planes_the_power_two_would_be_without_error() -> None:
    values = np.random.default_rng(0).standard_normal((2, 32, 32))
    one, two = (between_two(values, np.array([0.0, 4.0]), 2.0, QUIET, power) for power in (1.0, 1.75))
    assert (two.variance < 0.5 * one.variance).all()
    assert (two.variance > 0).all()


def test_between_two_planes_noise_is_passed_on_and_not_taken_for_structure() -> None:
    rng = np.random.default_rng(1)
    truth = walk(9)[[0, 8]]
    noisy, places = truth + 2 * rng.standard_normal(truth.shape), np.array([0.0, 8.0])
    found = between_two(noisy, places, 4.0, NoiseModel.white(2.0), 1.0)
    plain = between_two(truth, places, 4.0, QUIET, 1.0)
    assert found.variance.mean() == pytest.approx(plain.variance.mean(), rel=0.1)
    np.testing.assert_allclose(found.passed, 4 / 2, rtol=1e-9)


def test_power_of_a_random_walk_is_one_and_of_lines_the_largest() -> None:
    places = np.array([0.0, 3.0, 6.0])
    assert power_of_variogram(walk(7)[::3], places, QUIET) == pytest.approx(1, abs=0.1)
    lines = walk(1)[0] + np.arange(3)[:, None, None]
    assert power_of_variogram(lines, places, QUIET) == 1.75
    assert power_of_variogram(lines[:2], places[:2], QUIET) is None


def test_repeated_planes_err_as_much_as_measured_planes_at_that_distance() -> None:
    """A random walk: the standard deviation grows with the root of the distance, beyond the measured distances too."""
    law = repeated(walk(9)[:5], np.arange(5.0), QUIET, 7.0)
    plane = np.linspace(20, 180, 100).reshape(10, 10)
    for distance in (1, 2, 4, 7):
        # Groups of at least 500 pairs; at large distances few planes, the steps of which all pairs share.
        np.testing.assert_allclose(np.mean(law(plane, distance)), np.sqrt(distance), rtol=0.12)


def test_repeated_planes_are_judged_as_far_as_errors_are_asked_for() -> None:
    law = repeated(walk(9), np.arange(9.0), QUIET, 2.5)
    np.testing.assert_array_equal(law.distances, [1, 2, 3])


def test_repeated_planes_far_off_err_by_the_spread_of_the_data() -> None:
    truth = field(5, 2.0)
    law = repeated(truth, np.arange(5.0), QUIET, 1000.0)
    plane = np.array([[10.0, 12.0]])
    expected = np.sqrt(truth.var() + (plane - truth.mean()) ** 2)
    np.testing.assert_allclose(law(plane, 1000.0), np.maximum(expected, law(plane, 4.0)), rtol=1e-9)


def test_repeated_plane_of_a_single_measured_one_errs_by_the_spread_of_the_data() -> None:
    plane = field(1, 2.0)
    filled = fill_planes(plane, [2], 4, noise=0.01)
    expected = np.sqrt(plane[0].var() + (plane[0] - plane.mean()) ** 2)
    for n in (0, 1, 3):
        np.testing.assert_allclose(filled.error[n], expected, rtol=1e-9)


@pytest.mark.parametrize("grid", [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]])
def test_fill_planes_beyond_the_measured_ones_is_not_certain(grid: list[int]) -> None:
    truth = field(11, 2.0)
    noisy = truth + 0.2 * np.random.default_rng(1).standard_normal(truth.shape)
    filled = fill_planes(noisy[grid], grid, 11, noise=0.2)
    beyond = np.setdiff1d(np.arange(11), grid)
    inside = np.abs(filled.volume - truth)[beyond] <= 1.645 * filled.error[beyond]
    assert 0.85 < inside.mean() < 0.99
    near, far = (np.mean(filled.error[n]) for n in sorted(beyond, key=lambda n: min(abs(n - g) for g in grid))[::5])
    assert near < far


@pytest.mark.parametrize("grid", [[0, 4], [0, 3, 6], [0, 2, 4, 6]])
def test_fill_planes_between_few_planes_covers_the_truth(grid: list[int]) -> None:
    covered = []
    for seed in range(4):
        truth = field(grid[-1] + 1, 2.0, seed)
        filled = fill_planes(truth[grid], grid, len(truth))
        missing = ~filled.measured
        covered.append(np.mean(np.abs(filled.volume - truth)[missing] <= 1.645 * filled.error[missing]))
    assert np.mean(covered) > 0.85
