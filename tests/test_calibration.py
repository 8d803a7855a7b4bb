"""Standard deviations of errors, calibrated by brightness at left-out voxels."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell.solvers.calibration import (
    Calibration,
    brightest,
    calibrated,
    groups_of,
    least_share_of,
    neighbours_mean,
    ordered,
    weighted_quantile,
)

COUNT = 20_000


def voxels(width: np.ndarray, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of intensities of 0 to 1000 that err by this width, and their errors at noisy measurements."""
    rng = np.random.default_rng(seed)
    truth = np.linspace(0, 1000, COUNT)
    estimate = truth + width * rng.standard_normal(COUNT)
    return estimate, estimate - truth - noise * rng.standard_normal(COUNT)


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_calibrated_width_is_that_of_the_errors_without_noise(noise: float) -> None:
    truth = np.linspace(0, 1000, COUNT)
    width = np.where(truth < 500, 4.0, 8.0)
    estimate, errors = voxels(width, noise)
    found = calibrated(errors, np.full(COUNT, noise**2), np.ones(COUNT), estimate, least_share=0.1)
    # The squared width of 1250 errors is known to 6 % of it; noise doubles the smaller one.
    np.testing.assert_allclose(found(np.array([200.0, 800.0])), [4, 8], rtol=0.12)


def test_calibrated_factors_multiply_the_shape() -> None:
    shape = np.exp(np.random.default_rng(1).uniform(0, 2, COUNT))
    estimate, errors = voxels(3 * shape)
    found = calibrated(errors, np.zeros(COUNT), shape, estimate)
    np.testing.assert_allclose(found(np.full(2, 500.0), np.array([1.0, 5.0])), [3, 15], rtol=0.1)


def test_calibrated_leaves_at_least_the_share_given_and_what_neighbours_share() -> None:
    """Noise that was given four times too large explains all of the errors."""
    estimate, errors = voxels(np.full(COUNT, 3.0))
    law = (np.full(COUNT, 36.0), np.ones(COUNT), estimate)
    middle = np.array([500.0])
    assert calibrated(errors, *law)(middle)[0] == pytest.approx(3 * np.sqrt(0.65), rel=0.08)
    assert calibrated(errors, *law, least_share=0.2)(middle)[0] == pytest.approx(3 * np.sqrt(0.2), rel=0.08)
    assert calibrated(errors, *law, np.full(COUNT, 4.0))(middle)[0] == pytest.approx(2, rel=1e-6)


def test_calibrated_is_never_certain_beside_large_errors() -> None:
    """A background of zeros was predicted exactly, a few bright voxels were not predicted at all."""
    errors = np.where(np.arange(COUNT) % 50 == 0, -100.0, 0.0)
    found = calibrated(errors, np.zeros(COUNT), np.ones(COUNT), np.zeros(COUNT))
    assert found(np.zeros(1))[0] >= 0.1 * np.sqrt(np.mean(errors**2))


def test_calibrated_covers_the_brightest_tenth_where_brightness_is_underestimated() -> None:
    """Estimates that are shrunk to their mean miss the bright voxels more often than others."""
    rng = np.random.default_rng(2)
    truth = rng.gamma(1.0, 100.0, COUNT)
    estimate = 50 + 0.5 * truth + 20 * rng.standard_normal(COUNT)
    errors, nothing = estimate - truth, np.zeros(COUNT)
    inside = np.abs(errors) <= 1.645 * calibrated(errors, nothing, np.ones(COUNT), estimate)(estimate)
    assert inside[truth >= np.quantile(truth, 0.9)].mean() >= 0.845
    assert 0.88 <= inside.mean() <= 0.95


def test_calibrated_is_free_of_the_unit() -> None:
    estimate, errors = voxels(np.linspace(1, 9, COUNT), 2.0)
    one = calibrated(errors, np.full(COUNT, 4.0), np.ones(COUNT), estimate)
    two = calibrated(1e6 * errors, np.full(COUNT, 4e12), np.ones(COUNT), 1e6 * estimate)
    np.testing.assert_allclose(two(np.array([3e8])), 1e6 * one(np.array([300.0])), rtol=1e-9)


def test_brightest_are_those_of_the_estimate_where_all_that_was_measured_is_noise() -> None:
    rng = np.random.default_rng(3)
    estimate, noise = rng.uniform(0, 10, 1000), 5 * rng.standard_normal(1000)
    by_estimate = estimate >= np.quantile(estimate, 0.9)
    np.testing.assert_array_equal(brightest(-noise, np.full(1000, 1e6), estimate), by_estimate)
    measured = estimate + noise
    by_measurement = measured >= np.quantile(measured, 0.9)
    np.testing.assert_array_equal(brightest(-noise, np.zeros(1000), estimate), by_measurement)


def test_groups_hold_all_voxels_and_keep_equal_keys_together() -> None:
    keys = np.repeat([0.0, 3.0, 5.0, 6.0], [700, 100, 100, 100])
    parts = groups_of(np.random.default_rng(0).permutation(keys), 8)
    assert sum(part.size for part in parts) == 1000
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    values = [set(np.random.default_rng(0).permutation(keys)[part]) for part in parts]
    assert all(not one & two for n, one in enumerate(values) for two in values[n + 1 :])
    assert [part.size for part in groups_of(np.arange(400.0), 4)] == [100] * 4
    assert len(groups_of(keys, 0)) == 1


def test_weighted_quantile_counts_each_value_as_often_as_its_weight_says() -> None:
    rng = np.random.default_rng(4)
    values, weights = rng.standard_normal(50), rng.integers(1, 6, 50)
    repeated = np.sort(np.repeat(values, weights))
    for share in (0.1, 0.5, 0.9, 1.0):
        expected = repeated[int(np.ceil(share * repeated.size - 1e-9)) - 1]
        assert weighted_quantile(ordered(values), weights.astype(float), share) == expected


def test_constant_calibration_is_the_same_everywhere() -> None:
    np.testing.assert_allclose(Calibration.constant(3.0)(np.array([[-1.0, 5.0]])), 3.0)


def test_neighbours_mean_equals_its_definition() -> None:
    rng = np.random.default_rng(5)
    values, known = rng.standard_normal((2, 4, 5)), rng.random((2, 4, 5)) < 0.7
    expected = np.zeros(values.shape)
    for z, y, x in np.ndindex(values.shape):
        near = [(z, y - 1, x), (z, y + 1, x), (z, y, x - 1), (z, y, x + 1)]
        inside = [v for v in near if 0 <= v[1] < 4 and 0 <= v[2] < 5 and known[v]]
        expected[z, y, x] = np.mean([values[v] for v in inside]) if inside else 0
    np.testing.assert_allclose(neighbours_mean(values, known), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("structure", [0.0, 1.0, 3.0])
def test_least_share_is_what_neighbours_share(structure: float) -> None:
    """Errors of one value all over each block of 4 x 4 x 4 voxels, in noise of variance 1."""
    rng = np.random.default_rng(6)
    blocks = np.kron(rng.standard_normal((8, 12, 12)), np.ones((4, 4, 4)))
    errors = np.sqrt(structure) * blocks + rng.standard_normal(blocks.shape)
    known = rng.random(blocks.shape) < 0.3
    # Of the pairs of neighbours, (3/4)^k are in one block where they differ along k axes: .58 of the 13 pairs.
    expected = 0.58 * structure / (1 + structure)
    found = least_share_of(errors, known)
    assert expected - 0.03 < found < min(0.65, expected + 0.12)  # two standard errors are added


def test_least_share_of_voxels_without_neighbours_is_the_largest() -> None:
    known = np.zeros((6, 12, 12), bool)
    known[::2, ::2, ::2] = True
    assert least_share_of(np.random.default_rng(0).standard_normal(known.shape), known) == 0.65
