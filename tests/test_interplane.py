"""Planes filled by kriging along z: exactness, invariances, honest weights, and gains on fields and real volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.ndimage import gaussian_filter
from scipy.stats import t as student

from tensorcell.solvers.interplane import FEWEST_PLANES, _scale, fill_planes, judged_slope
from tensorcell.solvers.kriging import (
    Correlation,
    bands_of,
    correlation_of_trend,
    correlation_through,
    correlations_of,
    kriged,
    kriging_weights,
    pairs_of,
    share_left,
)
from tensorcell.solvers.noise import NoiseModel, estimate_noise


def field(seed: int = 0, shape: tuple[int, int, int] = (65, 28, 30), width: float = 1.5) -> np.ndarray:
    """An isotropic stationary random field, positive and skewed as fluorescence is."""
    normal = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), width)
    return np.exp(normal / normal.std())


def linear(stack: np.ndarray, grid: np.ndarray, planes: int) -> np.ndarray:
    flat = stack.reshape(len(stack), -1)
    return np.stack([np.interp(np.arange(planes), grid, line) for line in flat.T], axis=1).reshape(-1, *stack.shape[1:])


def decibels(volume: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean(np.square(volume.astype(np.float64) - truth))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grid", [np.arange(0, 65, 4), np.array([1, 3, 4, 9, 12, 20, 22, 30, 33, 34, 40, 47, 52, 60])])
def test_fill_planes_keeps_measured_planes_bit_for_bit(grid: np.ndarray, dtype: type) -> None:
    stack = field()[grid].astype(dtype)
    filled = fill_planes(stack, grid, 65)
    assert filled.volume.dtype == filled.error.dtype == dtype
    assert filled.volume.shape == filled.error.shape == (65, 28, 30)
    assert np.array_equal(filled.volume[grid], stack)
    assert np.array_equal(np.flatnonzero(filled.measured), grid)
    assert np.array_equal(filled.volume[: grid[0]], np.repeat(stack[:1], grid[0], axis=0))  # the end planes repeat
    assert np.array_equal(filled.volume[grid[-1] :], np.repeat(stack[-1:], 65 - grid[-1], axis=0))
    assert (filled.error[grid] == 0).all()
    assert (filled.error[~filled.measured] > 0).all()
    assert np.isfinite(filled.volume).all()


@pytest.mark.parametrize("planes", [2, FEWEST_PLANES + 4])
def test_fill_planes_reproduces_linear_ramps(planes: int) -> None:
    z, y, x = np.meshgrid(np.arange(3.0 * planes - 2), np.arange(20.0), np.arange(17.0), indexing="ij")
    truth = 5 + 0.7 * z - 0.2 * y + 0.3 * x
    filled = fill_planes(truth[::3], np.arange(0, len(truth), 3), len(truth))
    # At left-out planes pchip leaves nothing to correct: a slope of rounding size, of which the weight is the root.
    assert np.allclose(filled.volume, truth, rtol=0, atol=1e-6)


def test_tails_that_fade_to_denormal_numbers_are_planes_like_others() -> None:
    """The tails of a spot as formulas give it: warnings of infinite reciprocals would be errors here."""
    z, y, x = np.indices((13, 40, 40))
    spot = np.exp(-((z - 6) ** 2 / 2 + (y - 20) ** 2 + (x - 20) ** 2))
    assert 0 < spot[spot > 0].min() < 1e-300
    filled = fill_planes(spot[::2], np.arange(0, 13, 2), 13)
    assert np.isfinite(filled.volume).all()
    assert estimate_noise(spot).step == 0


def test_fill_planes_reproduces_constants() -> None:
    filled = fill_planes(np.full((9, 12, 10), 7.25), np.arange(0, 33, 4), 33)
    assert (filled.volume == 7.25).all()
    assert (filled.error == 0).all()


def test_fill_planes_commutes_with_transposing_y_and_x() -> None:
    stack, grid = field()[::3], np.arange(0, 64, 3)
    one, other = fill_planes(stack, grid, 64), fill_planes(stack.transpose(0, 2, 1).copy(), grid, 64)
    # Single-precision transforms and flows of another order of summation.
    assert np.allclose(one.volume, other.volume.transpose(0, 2, 1), rtol=0, atol=5e-4 * stack.std())
    assert one.weight == pytest.approx(other.weight, abs=1e-4)


def test_fill_planes_commutes_with_reversing_z() -> None:
    stack, grid = field(1)[::4], np.arange(0, 65, 4)
    one, other = fill_planes(stack, grid, 65), fill_planes(stack[::-1].copy(), grid, 65)
    assert np.allclose(one.volume, other.volume[::-1], rtol=0, atol=1e-4 * stack.std())


@pytest.mark.parametrize(("gain", "offset"), [(1e6, 0.0), (1e-5, 3.0), (40.0, -900.0)])
def test_fill_planes_commutes_with_unit_changes(gain: float, offset: float) -> None:
    stack, grid = field()[::4], np.arange(0, 65, 4)
    one, other = fill_planes(stack, grid, 65, noise=0.1), fill_planes(gain * stack + offset, grid, 65, noise=0.1 * gain)
    assert np.allclose((other.volume - offset) / gain, one.volume, rtol=0, atol=1e-4 * stack.std())
    # Errors are sums of squares in single precision.
    assert np.allclose(other.error / gain, one.error, rtol=1e-2, atol=1e-4 * stack.std())


def test_fill_planes_never_writes_its_input() -> None:
    stack, grid = field()[::4], np.arange(0, 65, 4)
    stack.setflags(write=False)
    grid.setflags(write=False)
    fill_planes(stack, grid, 65)


@pytest.mark.parametrize("step", [3, 4])
def test_fill_planes_gains_on_an_isotropic_field(step: int) -> None:
    truth = field(3, (61, 64, 64), width=step / 2)
    truth = truth[: (len(truth) - 1) // step * step + 1]
    grid = np.arange(0, len(truth), step)
    filled = fill_planes(truth[::step], grid, len(truth))
    missing = ~filled.measured
    others = (
        linear(truth[::step], grid, len(truth)),
        PchipInterpolator(grid, truth[::step])(np.arange(len(truth))),
        CubicSpline(grid, truth[::step])(np.arange(len(truth))),
    )
    best = max(decibels(other[missing], truth[missing]) for other in others)
    assert decibels(filled.volume[missing], truth[missing]) > best + 1  # the bar for training-free methods is .25
    error, deviation = np.abs(filled.volume - truth)[missing], filled.error[missing]
    # Judged at twice the gap, where a field as smooth as this is lost: intervals are too wide rather than too narrow.
    assert 0.4 < np.sqrt(np.mean(error**2) / np.mean(deviation**2)) < 1
    assert np.mean(error <= 1.645 * deviation) > 0.9


def test_fill_planes_of_white_noise_is_its_mean() -> None:
    noise = 10 + np.random.default_rng(0).standard_normal((17, 48, 48))
    filled = fill_planes(noise, np.arange(0, 33, 2), 33)
    # Nothing carries over: the best estimate is the mean, and linear interpolation keeps a deviation of sqrt(1/2).
    # Untold, it may be blurred structure: a correlation of two standard errors at the gap, some .02, makes weights of
    # .02^(1/4) = .38 for both neighbours. Told that it is noise, half of it is taken off, and the weights are smaller.
    assert filled.volume[1::2].std() < 0.6
    assert fill_planes(noise, np.arange(0, 33, 2), 33, noise=1.0).volume[1::2].std() < 0.42
    assert filled.weight > 0.9


def test_kriged_planes_know_the_noise_they_pass_on() -> None:
    truth, grid = field(5, (65, 40, 44), width=3.0)[::2].astype(np.float64), np.arange(0.0, 65.0, 2.0)
    targets = grid[:-1] + 1
    offset = (truth.mean() - np.quantile(truth, 0.001)) / 3 - np.quantile(truth, 0.001)
    level = 1e-3 * np.sqrt(truth + offset)  # the same everywhere in the roots, and little
    light = NoiseModel(gain=0.0, offset=1.0, sigma=1.0, patches=1)
    noisy = truth + level * np.random.default_rng(1).standard_normal(truth.shape)
    without, with_noise = (list(kriged(each, grid, targets, light)) for each in (truth, noisy))
    change = np.stack([b.value - a.value for a, b in zip(without, with_noise, strict=True)])
    passed = np.stack([1e-6 * (a.value + offset) * a.passed for a in with_noise])
    # 70 000 numbers, of which neighbours share their noise: some 2 %; the coarse trend, left out of it, is as little.
    assert np.mean(np.square(change)) == pytest.approx(np.mean(passed), rel=0.08)


@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_fill_planes_errors_cover_the_truth_beneath_noise(sigma: float) -> None:
    truth = field(5, (65, 36, 36), width=3.0)
    noisy = truth + sigma * np.random.default_rng(1).standard_normal(truth.shape)
    grid, missing = np.arange(0, 65, 2), np.arange(65) % 2 == 1
    model = NoiseModel(gain=0.0, offset=sigma**2, sigma=sigma, patches=100)  # not told apart from structure
    plain, told = (fill_planes(noisy[::2], grid, 65, noise=level) for level in (0.0, model))
    np.testing.assert_allclose(told.volume, plain.volume, atol=0.3)  # but for the trend, as if there was no noise
    mean = [np.square(each.error[missing]).mean() for each in (told, plain)]
    assert mean[0] < mean[1]  # which holds the noise of the left-out voxels
    assert np.mean(np.abs(told.volume - truth)[missing] <= 1.645 * told.error[missing]) > 0.9


def test_fill_planes_takes_a_model_of_the_noise() -> None:
    stack, grid = field(6)[::2], np.arange(0, 65, 2)
    one = fill_planes(stack, grid, 65, noise=0.3)
    other = fill_planes(stack, grid, 65, noise=NoiseModel(gain=0.0, offset=0.09, sigma=0.3))
    np.testing.assert_array_equal(other.error, one.error)


def test_fill_planes_distrusts_corrections_that_left_out_planes_refute() -> None:
    pair = np.random.default_rng(0).standard_normal((2, 32, 32))
    share = np.linspace(0, 1, 9)[:, None, None]
    stack = (1 - share) * pair[0] + share * pair[1]  # linear along z exactly
    filled = fill_planes(stack, np.arange(0, 33, 4), 33)
    assert np.allclose(filled.volume, linear(stack, np.arange(0, 33, 4), 33), rtol=0, atol=1e-3)


def test_weight_at_the_gap_is_the_root_of_that_at_twice_the_gap() -> None:
    """Between planes of a random walk straight lines are best, and the slope is far below 1."""
    steps = gaussian_filter(np.random.default_rng(1).standard_normal((64, 48, 48)), (0, 2, 2))
    filled = fill_planes(np.cumsum(steps, axis=0)[::3], np.arange(0, 64, 3), 64)
    measured = (4 + filled.slope / filled.slope_error**2) / (4 + 1 / filled.slope_error**2)
    assert 0.1 < measured < 0.9  # neither end of [0, 1], where the root changes nothing
    assert filled.weight == pytest.approx(np.sqrt(measured), rel=1e-6)


def test_judged_slope_is_the_jackknife_of_the_quotient() -> None:
    products, squares = np.random.default_rng(0).uniform(1.0, 3.0, (2, 7))
    slope, error, weight = judged_slope(products, squares)
    without = [np.delete(products, n).sum() / np.delete(squares, n).sum() for n in range(7)]
    assert slope == pytest.approx(products.sum() / squares.sum())
    assert error == pytest.approx(np.sqrt(6 / 7 * np.sum(np.square(without - np.mean(without)))))
    assert weight == pytest.approx(min(max(slope - student.ppf(0.95, 6) * error, 0.0), 1.0))
    assert judged_slope(products[:1], squares[:1])[2] == 0.0  # one plane tells nothing of its error
    assert judged_slope(np.zeros(3), np.zeros(3)) == (0.0, 0.0, 0.0)  # no correction was predicted at all


def test_judged_slope_exceeds_the_truth_once_in_twenty() -> None:
    rng = np.random.default_rng(1)
    products = 0.5 + 0.15 * rng.standard_normal((4000, 8))  # corrections of length 1, half of which is true
    weights = np.array([judged_slope(each, np.ones(8))[2] for each in products])
    # 4000 draws: a standard deviation of .35 %, of which four are allowed.
    assert np.mean(weights > 0.5) == pytest.approx(0.05, abs=0.014)


@pytest.mark.parametrize(("size", "noise"), [(2.0, 0.0), (0.25, 0.0), (2.0, 4.0)])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_scale_is_what_covers_at_twice_the_gap_or_its_geometric_mean_with_one_where_that_is_more(
    size: float, noise: float, shared: float
) -> None:
    """White noise of a known variance is taken off but for what neighbours share, which no noise explains."""
    rng = np.random.default_rng(0)
    errors, value = size * rng.standard_normal(40_000), rng.uniform(0, 100, 40_000)
    law = _scale(value, errors, np.ones(40_000), np.full(40_000, noise), np.full(40_000, shared * size**2))
    expected = max(size**2 - noise, shared * size**2, 0.1 * size**2)
    # Quantiles of groups of 2500 errors are known to 4 % of their squares, and the difference with the noise to as much
    # of the larger number.
    tolerance = 0.12 * (1 + noise / expected)
    squares = law(np.array([30.0, 70.0]), np.ones(2)) ** 2
    np.testing.assert_allclose(squares, max(expected, np.sqrt(expected)), rtol=tolerance)


def test_errors_where_nothing_changes_are_small_but_not_nothing() -> None:
    stack, grid = field(), np.arange(0, 65, 4)
    stack[:40] = 1e-3
    filled = fill_planes(stack[::4], grid, 65)
    missing = np.flatnonzero(~filled.measured)
    empty, busy = (filled.error[each] for each in (missing[missing < 36], missing[missing > 40]))
    # The smallest variance is a hundredth of the mean one at left-out planes: a tenth of its root, the planes there
    # being twice as far apart and half of them empty.
    assert 0.03 < np.sqrt(np.mean(np.square(empty)) / np.mean(np.square(busy))) < 0.3
    # Nor does a tiny prediction in the empty planes blow up the factor that widens all others.
    assert filled.error.max() < np.ptp(stack)


def test_fill_planes_removes_noise_from_filled_planes() -> None:
    truth = field(2, width=2.5)
    noisy = truth + 0.5 * np.random.default_rng(1).standard_normal(truth.shape)
    grid = np.arange(0, 65, 4)
    missing = np.arange(65) % 4 > 0
    blind, told = (fill_planes(noisy[::4], grid, 65, noise=level).volume[missing] for level in (0.0, 0.5))
    assert decibels(told, truth[missing]) > decibels(blind, truth[missing])
    assert decibels(told, truth[missing]) > decibels(linear(noisy[::4], grid, 65)[missing], truth[missing]) + 1


def test_fill_planes_is_pchip_for_few_planes_and_says_so() -> None:
    stack, grid = field()[: 4 * FEWEST_PLANES - 4 : 4], np.arange(0, 4 * FEWEST_PLANES - 4, 4)
    filled = fill_planes(stack, grid, grid[-1] + 1)
    assert np.allclose(filled.volume, PchipInterpolator(grid, stack)(np.arange(grid[-1] + 1)))
    assert np.isnan(filled.weight)
    assert filled.sentence.startswith(f"pchip interpolation: {FEWEST_PLANES - 1} measured planes")


def test_fill_planes_with_one_measured_plane_repeats_it() -> None:
    plane = field()[:1]
    filled = fill_planes(plane, [2], 4)
    assert np.array_equal(filled.volume, np.repeat(plane, 4, axis=0))


@pytest.mark.parametrize("shape", [(9, 1, 1), (9, 1, 30), (9, 3, 2), (5, 6, 40)])
def test_fill_planes_takes_thin_stacks(shape: tuple[int, int, int]) -> None:
    stack = np.random.default_rng(0).random(shape)
    filled = fill_planes(stack, 2 * np.arange(shape[0]), 2 * shape[0] - 1)
    assert np.isfinite(filled.volume).all()
    assert np.array_equal(filled.volume[::2], stack)


@pytest.mark.parametrize("length", [3, 16, 41])
def test_bands_are_a_partition_of_unity(length: int) -> None:
    bands, coarse = bands_of(length, 29)
    assert np.allclose(bands.sum(axis=0) + coarse, 1, atol=1e-6)  # single precision
    assert coarse[0, 0] == 1


@pytest.mark.parametrize("length", [8, 16, 41, 64, 100])
def test_bands_leave_one_period_a_side_to_the_trend_and_take_two(length: int) -> None:
    _, coarse = bands_of(length, length + 3)
    along = coarse[:, 0]  # by the number of half-periods along the shorter side
    assert (along[:3] == 1).all()
    assert (along[4:] == 0).all()


@pytest.mark.parametrize(
    "grid", [[0, 1, 2, 3], [0, 1, 6], [0, 1, 6, 7, 12], [0, 0.2, 0.4, 1.4, 6.4, 11.4], [0, 9, 10, 30]]
)
def test_pairs_are_at_two_distances(grid: list[float]) -> None:
    positions = np.array(grid, dtype=float)
    (low, high), (far_low, far_high), *_ = pairs_of(positions)
    assert np.mean(positions[far_high] - positions[far_low]) > 1.2 * np.mean(positions[high] - positions[low])


def test_the_correlation_passes_through_its_points() -> None:
    c, g, h = np.array([0.3, 0.0, 0.7]), np.array([0.5, 0.1, 0.05]), np.array([0.02, 0.0, 0.001])
    rho = Correlation(c, g, h, np.zeros(3), np.zeros((1, 3)))
    for distances, narrow in (((1.5, 3.0, 6.0), h), ((1.5, 3.0), 0 * h)):
        rho = rho._replace(h=narrow)
        points = [(t, rho(np.array(t))) for t in distances]
        fitted = Correlation(*correlation_through(points, np.zeros(3)), np.zeros(3), np.zeros((1, 3)))
        for t in (0.0, 0.4, 1.5, 2.2, 3.0, 6.0):  # the same parameters, so the same function everywhere
            np.testing.assert_allclose(fitted(np.array(t)), rho(np.array(t)), atol=2e-3)


@pytest.mark.parametrize(
    "rho", [(0.6, 0.5, 0.1), (0.9, 0.8, 0.5), (0.3, 0.25, 0.1), (0.5, 0.1, 0.05), (0.95, 0.9, 0.9)]
)
def test_measured_correlations_are_met(rho: tuple[float, float, float]) -> None:
    points = [(t, np.array([each])) for t, each in zip((1.0, 2.0, 4.0), rho, strict=True)]
    fitted = Correlation(*correlation_through(points, np.array([0.02])), np.zeros(1), np.zeros((1, 1)))
    np.testing.assert_allclose(fitted(np.array([1.0, 2.0, 4.0]))[0], rho, atol=0.1)
    np.testing.assert_allclose(fitted(np.array([1.0]))[0], rho[0], atol=1e-6)


def test_a_correlation_that_falls_faster_than_a_gaussian_is_one_through_the_near_point() -> None:
    c, g, _ = correlation_through([(1.0, np.array([0.8, 0.8])), (2.0, np.array([0.3, -0.2]))], np.zeros(2))
    np.testing.assert_array_equal(c, 0)
    np.testing.assert_allclose(np.exp(-g), 0.8)


def test_a_correlation_that_is_not_known_is_the_largest_that_it_may_be() -> None:
    """Half a gap apart it is the fourth root of that."""
    points = [(2.0, np.array([0.001, -0.01, 0.3])), (4.0, np.array([0.0, 0.01, 0.0]))]
    rho = Correlation(*correlation_through(points, np.full(3, 0.02)), np.zeros(3), np.zeros((1, 3)))
    np.testing.assert_allclose(rho(np.array(2.0)), [0.02, 0.02, 0.3])
    np.testing.assert_allclose(rho(np.array(1.0))[:2], 0.02**0.25)


def test_noise_is_at_most_what_planes_one_gap_apart_do_not_share() -> None:
    rng = np.random.default_rng(0)
    spectra = rng.standard_normal((9, 24, 24)).astype(np.float32)
    bands, _ = bands_of(24, 24)
    alike = np.repeat(spectra[:1], 9, axis=0) + 0.1 * spectra  # a hundredth of the energy is not shared
    told, believed = (correlations_of(each, np.arange(9.0), bands, 1.0) for each in (alike, spectra))
    assert told.nugget.max() < 0.1  # two standard errors of the share, since as much may be noise
    assert believed.nugget.min() > 5
    none = correlations_of(alike, np.arange(9.0), bands, 0.0)
    np.testing.assert_allclose(none.nugget, 1e-5)
    assert (none(np.array(1.0)) < told(np.array(1.0))).all()  # noise hides a part of what planes share


def test_the_trend_is_kriged_about_its_mean() -> None:
    """Weights that sum to one pass a constant on, and those of a slow wave follow it better than straight lines do."""
    positions = np.arange(0.0, 24.0, 2.0)
    wave = np.sin(2 * np.pi * np.arange(23) / 16 + np.arange(9.0)[:, None]).T
    trend = (5 + wave[::2]).astype(np.float32)
    slow = correlation_of_trend(trend, positions, 0.0)
    targets = np.arange(5.0, 18.0, 2.0)
    weights = np.concatenate([kriging_weights(slow, positions, t, sum_to_one=True) for t in targets])
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    off = weights @ trend - (5 + wave[5:18:2])
    straight = (trend[2:-3] + trend[3:-2]) / 2 - (5 + wave[5:18:2])
    assert np.sqrt(np.mean(off**2)) < 0.3 * np.sqrt(np.mean(straight**2))
    noisy = kriging_weights(correlation_of_trend(trend, positions, 0.2), positions, targets[0], sum_to_one=True)
    assert np.sum(noisy**2) < np.sum(weights[0] ** 2)  # with noise, distant planes are averaged instead


def test_ordinary_kriging_is_the_best_prediction_whose_weights_sum_to_one() -> None:
    correlation = Correlation(np.array([0.2]), np.array([0.1]), np.array([0.01]), np.array([0.1]), np.zeros((1, 1)))
    positions, target = np.array([0.0, 2.0, 5.0, 6.0]), 3.3
    everywhere = np.append(positions, target)
    covariance = correlation(everywhere[:, None] - everywhere)[0] + np.diag([0.1] * 4 + [0])
    (weights,) = kriging_weights(correlation, positions, target, sum_to_one=True)

    def error(w: np.ndarray) -> float:
        return float(np.append(w, -1) @ covariance @ np.append(w, -1))

    steps = np.random.default_rng(0).normal(scale=0.01, size=(50, 4))
    steps -= steps.mean(axis=1, keepdims=True)
    assert all(error(weights + step) > error(weights) for step in steps)


def test_kriging_weights_are_the_best_linear_prediction() -> None:
    correlation = Correlation(np.array([0.2]), np.array([0.1]), np.array([0.01]), np.array([0.1]), np.zeros((1, 1)))
    positions, target = np.array([0.0, 2.0, 5.0, 6.0]), 3.3
    weights = kriging_weights(correlation, positions, target)
    unknown = share_left(correlation, weights, positions, target) + 0.1 * np.sum(weights**2, axis=1)

    def error(w: np.ndarray) -> float:
        """Mean squared error of the prediction by its definition."""
        everywhere = np.append(positions, target)
        covariance = correlation(everywhere[:, None] - everywhere)[0] + np.diag([0.1] * 4 + [0])
        return float(np.append(w, -1) @ covariance @ np.append(w, -1))

    assert error(weights[0]) == pytest.approx(unknown[0])
    steps = np.random.default_rng(0).normal(scale=0.01, size=(50, 4))
    assert all(error(weights[0] + step) > error(weights[0]) for step in steps)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("brain_nuclei_mesospim_lightsheet", 3),
        ("flybrain_confocal_neuropil", 2),
        ("flybrain_confocal_neuropil", 4),
        ("nuclei_chromocenters_clean", 2),
    ],
)
def test_fill_planes_beats_interpolation_on_real_volumes(volumes_folder: Path, name: str, step: int) -> None:
    raw = tifffile.imread(volumes_folder / f"{name}.tif").astype(np.float32)[:64, :80, :80]
    low, high = np.percentile(raw, [0.1, 99.9])
    truth = (np.clip(raw, low, high) - low) / (high - low)
    truth = truth[: (len(truth) - 1) // step * step + 1]
    grid = np.arange(0, len(truth), step)
    filled = fill_planes(truth[::step], grid, len(truth))
    missing = ~filled.measured
    straight = decibels(linear(truth[::step], grid, len(truth))[missing], truth[missing])
    cubic = decibels(CubicSpline(grid, truth[::step])(np.arange(len(truth)))[missing], truth[missing])
    ours = decibels(filled.volume[missing], truth[missing])
    assert ours > straight - 0.05
    assert ours > max(straight, cubic) + (0.25 if step > 2 else -0.35)


@pytest.mark.parametrize(
    ("stack", "grid", "planes", "noise", "message"),
    [
        (np.ones((3, 4)), [0, 1, 2], 3, 0.0, r"three axes .* got shape \(3, 4\)"),
        (np.ones((0, 4, 4)), [], 3, 0.0, "not empty"),
        (np.ones((3, 4, 4)), [0, 1], 3, 0.0, r"one position a plane, 3, got shape \(2,\)"),
        (np.ones((3, 4, 4)), [0, 2, 2], 3, 0.0, "increase"),
        (np.ones((3, 4, 4)), [0, np.nan, 2], 3, 0.0, "increase"),
        (np.ones((3, 4, 4)), [0, 1, 2], 0, 0.0, "at least 1, got 0"),
        (np.ones((3, 4, 4)), [0, 1, 2], 3, -1.0, "not negative, got -1"),
        (np.full((3, 4, 4), np.nan), [0, 1, 2], 3, 0.0, "stack must be finite"),
    ],
)
def test_fill_planes_refuses(stack: np.ndarray, grid: list[float], planes: int, noise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fill_planes(stack, grid, planes, noise=noise)


def test_fill_planes_refuses_other_types() -> None:
    with pytest.raises(TypeError, match="expected NumPy or CuPy arrays, got list"):
        fill_planes([[[1.0]]], [0], 1)


def test_errors_stay_within_the_range_where_many_planes_are_empty(volumes_folder):
    """Where nothing is seen to change, the predicted variance is next to nothing; real errors over it are no factor."""
    from tensorcell.files import read

    stack = np.asarray(read(volumes_folder / "flybrain_confocal_neuropil.tif").data[:57:4, :80, :80], np.float32)
    filled = fill_planes(stack, np.arange(0, 57, 4), 57)
    assert float(filled.error.max()) < float(np.ptp(stack))
