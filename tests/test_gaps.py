"""Neighbours, outliers, kernels and noise of the residual against brute force and planted values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from tensorcell import gaps
from tensorcell.gaps import Kernel

NAN = float("nan")


def brute_neighbours(volume: np.ndarray, mask: np.ndarray, where: tuple[int, ...]) -> list[float]:
    """Measured values among the 26 around one voxel."""
    found = []
    for step in itertools.product((-1, 0, 1), repeat=3):
        place = tuple(w + s for w, s in zip(where, step, strict=True))
        inside = all(0 <= p < size for p, size in zip(place, volume.shape, strict=True))
        if any(step) and inside and mask[place]:
            found.append(float(volume[place]))
    return found


def at(shape: tuple[int, ...], *where: int) -> np.ndarray:
    """Flat position of one voxel."""
    return np.array([np.ravel_multi_index(where, shape)])


# ------------------------------------------------------------------------------------------------ neighbours


def test_neighbours_equal_brute_force_at_every_voxel() -> None:
    rng = np.random.default_rng(0)
    volume, mask = rng.random((4, 5, 3)), rng.random((4, 5, 3)) < 0.6
    rows = gaps.neighbours(volume, mask, np.arange(volume.size))
    assert rows.shape == (60, 26)
    for row, where in zip(rows, np.ndindex(volume.shape), strict=True):
        assert sorted(row[~np.isnan(row)]) == sorted(brute_neighbours(volume, mask, where))


def test_neighbours_do_not_wrap_around_nor_see_under_the_mask() -> None:
    volume = np.arange(27.0).reshape(3, 3, 3)
    mask = np.ones((3, 3, 3), bool)
    corner = gaps.neighbours(volume, mask, at((3, 3, 3), 0, 0, 0))[0]
    assert sorted(corner[~np.isnan(corner)]) == [1, 3, 4, 9, 10, 12, 13]
    mask[0, 0, 1] = mask[1, 1, 1] = False
    volume[1, 1, 1] = np.inf
    corner = gaps.neighbours(volume, mask, at((3, 3, 3), 0, 0, 0))[0]
    assert sorted(corner[~np.isnan(corner)]) == [3, 4, 9, 10, 12]


# -------------------------------------------------------------------------------------------------- isolated


def smooth_bump(height: float, width: float = 1.6) -> np.ndarray:
    z, y, x = np.mgrid[:7, :9, :9]
    return height * np.exp(-((z - 3) ** 2 + (y - 4) ** 2 + (x - 4) ** 2) / (2 * width**2))


def test_isolated_tells_a_wrong_value_from_the_top_of_a_structure() -> None:
    everything = np.ones((7, 9, 9), bool)
    top = at((7, 9, 9), 3, 4, 4)
    bump = smooth_bump(10.0)
    assert not gaps.isolated(bump, everything, top, 1.0)[0]
    for sign in (1, -1):
        wrong = sign * bump
        wrong[3, 4, 4] += sign * 40
        assert gaps.isolated(wrong, everything, top, 1.0)[0]


def test_isolated_compares_with_the_threshold_and_with_three_times_the_spread() -> None:
    """Neighbours at -1 and +1 (median 0, spread 1): the voxel must pass three and the threshold."""
    residual = np.ones((3, 3, 3))
    residual.ravel()[::2] = -1  # the centre is number 13; 14 neighbours at -1 and 12 at +1 without the next line
    residual[0, 0, 0] = 1
    mask = np.ones((3, 3, 3), bool)
    centre = at((3, 3, 3), 1, 1, 1)
    assert np.nanmedian(gaps.neighbours(residual, mask, centre)) == 0
    for value, threshold, expected in [(2.9, 0.5, False), (3.1, 0.5, True), (3.1, 4.0, False), (4.1, 4.0, True)]:
        residual[1, 1, 1] = value
        assert gaps.isolated(residual, mask, centre, threshold)[0] == expected
        assert gaps.isolated(-residual, mask, centre, threshold)[0] == expected


def test_isolated_bears_one_fifth_of_wrong_neighbours() -> None:
    residual = np.zeros((3, 3, 3))
    residual.ravel()[[0, 5, 11, 18, 26]] = 100
    residual[1, 1, 1] = 10
    everything = np.ones((3, 3, 3), bool)
    assert gaps.isolated(residual, everything, at((3, 3, 3), 1, 1, 1), 1.0)[0]


def test_isolated_without_three_measured_neighbours_is_isolated() -> None:
    residual = np.full((3, 3, 3), 5.0)
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = mask[0, 0, 0] = mask[2, 2, 2] = True
    centre = at((3, 3, 3), 1, 1, 1)
    assert gaps.isolated(residual, mask, centre, 1.0)[0]
    mask[0, 1, 1] = True  # a third neighbour of the same residual: shared, so structure
    assert not gaps.isolated(residual, mask, centre, 1.0)[0]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
def test_isolated_ignores_what_lies_under_the_mask(garbage: float) -> None:
    rng = np.random.default_rng(1)
    residual, mask = rng.standard_t(2, (5, 6, 7)), rng.random((5, 6, 7)) < 0.5
    positions = np.flatnonzero(mask)
    expected = gaps.isolated(np.where(mask, residual, 0), mask, positions, 0.8)
    assert 0 < expected.sum() < len(expected)
    dirty = np.where(mask, residual, garbage)
    np.testing.assert_array_equal(gaps.isolated(dirty, mask, positions, 0.8), expected)


@pytest.mark.parametrize("fwhm", [3.5, 4.0, 6.0])
def test_isolated_spares_the_top_of_a_smooth_spot(fwhm: float) -> None:
    spot = 100 * smooth_bump(1.0, fwhm / 2.355)
    assert not gaps.isolated(spot, np.ones(spot.shape, bool), np.arange(spot.size), 1.0)[at(spot.shape, 3, 4, 4)[0]]


def test_isolated_of_nothing_and_of_many() -> None:
    """Candidates go in chunks of 65 536: more than that gives what each part gives."""
    rng = np.random.default_rng(2)
    residual, mask = rng.standard_t(2, (30, 50, 50)).astype(np.float32), rng.random((30, 50, 50)) < 0.9
    assert gaps.isolated(residual, mask, np.zeros(0, int), 1.0).shape == (0,)
    positions = np.arange(residual.size)
    whole = gaps.isolated(residual, mask, positions, 1.0)
    np.testing.assert_array_equal(whole[-100:], gaps.isolated(residual, mask, positions[-100:], 1.0))


# ----------------------------------------------------------------------------------------- beyond_neighbours


@pytest.mark.parametrize("sign", [1, -1])
def test_beyond_neighbours_compares_the_step_out_with_the_span_within(sign: int) -> None:
    """Lowest and highest neighbour do not count: 0 to 10 are left over, and a span is to be exceeded."""
    around = np.array([-3.0, 0.0, *np.linspace(1, 9, 22), 10.0, 13.0])
    everything = np.ones((3, 3, 3), bool)
    centre = at((3, 3, 3), 1, 1, 1)
    for value, expected in [(19.0, False), (-9.0, False), (5.0, False), (60.0, True), (-50.0, True)]:
        volume = sign * np.insert(around, 13, value).reshape(3, 3, 3)
        assert gaps.beyond_neighbours(volume, everything, centre, 1.0)[0] == expected


def test_beyond_neighbours_bears_one_wrong_neighbour() -> None:
    """Two hot pixels side by side are both found, three are not: anything resolved has more bright voxels."""
    volume = np.random.default_rng(0).uniform(0, 1, (5, 5, 5))
    everything = np.ones((5, 5, 5), bool)
    volume[2, 2, 2] = volume[2, 2, 3] = 50
    both = np.concatenate([at((5, 5, 5), 2, 2, 2), at((5, 5, 5), 2, 2, 3)])
    assert gaps.beyond_neighbours(volume, everything, both, 1.0).all()
    volume[2, 3, 2] = 50
    assert not gaps.beyond_neighbours(volume, everything, both, 1.0).any()


@pytest.mark.parametrize("fwhm", [2.0, 2.5, 3.0])
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_beyond_neighbours_leaves_resolved_spots_alone(fwhm: float, shift: float) -> None:
    z, y, x = np.mgrid[:9, :9, :9]
    spot = np.exp(-((z - 4) ** 2 + (y - 4 - shift) ** 2 + (x - 4 - shift) ** 2) / (2 * (fwhm / 2.355) ** 2))
    everything = np.ones(spot.shape, bool)
    assert not gaps.beyond_neighbours(spot, everything, np.arange(spot.size), 2.0).any()
    assert not gaps.beyond_neighbours(-spot, everything, np.arange(spot.size), 2.0).any()


def test_beyond_neighbours_needs_three_measured_neighbours() -> None:
    volume = np.zeros((3, 3, 3))
    volume[1, 1, 1] = 100
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = mask[0, 0, 0] = mask[0, 0, 1] = True
    centre = at((3, 3, 3), 1, 1, 1)
    assert not gaps.beyond_neighbours(volume, mask, centre, 1.0)[0]
    mask[0, 0, 2] = True
    assert gaps.beyond_neighbours(volume, mask, centre, 1.0)[0]


# -------------------------------------------------------------------------------------------- neighbour_mean


def brute_mean(residual: np.ndarray, mask: np.ndarray, widths: tuple[float, float], leave_out: bool) -> np.ndarray:
    """The weighted mean voxel by voxel, Gaussian weights cut at three widths."""
    sigma = np.array([widths[0], widths[1], widths[1]])
    reach = [int(3 * s + 0.5) for s in sigma]
    lines = [np.exp(-0.5 * (np.arange(-r, r + 1) / s) ** 2) for r, s in zip(reach, sigma, strict=True)]
    lines = [line / line.sum() for line in lines]
    out = np.zeros(residual.shape)
    for centre in np.ndindex(residual.shape):
        total = weight = 0.0
        for step in itertools.product(*(range(-r, r + 1) for r in reach)):
            place = tuple(c + s for c, s in zip(centre, step, strict=True))
            if not all(0 <= p < size for p, size in zip(place, residual.shape, strict=True)) or not mask[place]:
                continue
            if leave_out and not any(step):
                continue
            own = math.prod(line[r + s] for line, r, s in zip(lines, reach, step, strict=True))
            total, weight = total + own * residual[place], weight + own
        out[centre] = total / weight if weight > 1e-6 else 0.0
    return out


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("widths", [(0.5, 0.7), (1.0, 0.5)])
def test_neighbour_mean_equals_the_sum_over_the_kernel(widths: tuple[float, float], leave_out: bool) -> None:
    rng = np.random.default_rng(0)
    residual, mask = rng.standard_normal((4, 5, 6)), rng.random((4, 5, 6)) < 0.5
    mean = gaps.neighbour_mean(residual, mask, *widths, leave_out=leave_out)
    # The own value is taken off the filtered sum, whose weight may be as small as 1e-6: rounding is divided by that.
    np.testing.assert_allclose(mean, brute_mean(residual, mask, widths, leave_out), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbour_mean_of_a_constant_is_that_constant_where_neighbours_are_in_reach(dtype: type) -> None:
    mask = np.random.default_rng(1).random((6, 9, 9)) < 0.3
    residual = np.where(mask, 7, np.nan).astype(dtype)
    for leave_out in (False, True):
        mean = gaps.neighbour_mean(residual, mask, 1.0, 1.0, leave_out=leave_out)
        assert mean.dtype == dtype
        # Weights down to 1e-3 of the sum that was subtracted: a thousand units in the last place.
        np.testing.assert_allclose(mean, 7, rtol=1e4 * np.finfo(dtype).eps)


def test_neighbour_mean_is_zero_out_of_reach() -> None:
    residual, mask = np.zeros((3, 3, 20)), np.zeros((3, 3, 20), bool)
    residual[1, 1, 2], mask[1, 1, 2] = 5, True
    mean = gaps.neighbour_mean(residual, mask, 0.5, 0.5, leave_out=False)
    assert mean[1, 1, 3] == pytest.approx(5)
    assert not mean[:, :, 5:].any()  # the reach of width 0.5 is two voxels
    alone = gaps.neighbour_mean(residual, mask, 0.5, 0.5, leave_out=True)
    assert alone[1, 1, 2] == 0  # nothing but itself


def test_neighbour_mean_leaving_out_does_not_depend_on_the_voxel_itself() -> None:
    rng = np.random.default_rng(2)
    residual, mask = rng.standard_normal((5, 6, 7)), np.ones((5, 6, 7), bool)
    before = gaps.neighbour_mean(residual, mask, 1.0, 0.7, leave_out=True)
    residual[2, 3, 3] += 1000
    after = gaps.neighbour_mean(residual, mask, 1.0, 0.7, leave_out=True)
    assert after[2, 3, 3] == pytest.approx(before[2, 3, 3], abs=1e-9)  # rounding of 1000 taken off again
    assert abs(after[2, 3, 4] - before[2, 3, 4]) > 1


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e38])
def test_neighbour_mean_ignores_what_lies_under_the_mask(garbage: float) -> None:
    rng = np.random.default_rng(3)
    residual, mask = rng.standard_normal((5, 6, 7)).astype(np.float32), rng.random((5, 6, 7)) < 0.5
    dirty = np.where(mask, residual, np.float32(garbage))
    dirty.setflags(write=False)
    np.testing.assert_array_equal(
        gaps.neighbour_mean(dirty, mask, 1.0, 1.0, leave_out=True),
        gaps.neighbour_mean(np.where(mask, residual, 0), mask, 1.0, 1.0, leave_out=True),
    )


# ---------------------------------------------------------------------------- choose_kernel, shared_residual


@pytest.mark.parametrize("seed", range(4))
def test_choose_kernel_adds_next_to_nothing_to_white_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise, mask = rng.standard_normal((20, 30, 30)), rng.random((20, 30, 30)) < 0.5
    kernel = gaps.choose_kernel(noise, mask)
    # The best of 16 chance correlations, each with a standard error of 1 / sqrt(9000) = .01.
    assert kernel.weight < 0.3
    assert gaps.shared_residual(noise, mask, kernel, leave_out=True).std() < 0.05


def test_choose_kernel_trusts_a_smooth_residual() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((20, 30, 30)), 2.5)
    kernel = gaps.choose_kernel(smooth, rng.random(smooth.shape) < 0.5)
    assert kernel.weight > 0.9


def test_choose_kernel_weight_is_the_share_of_structure() -> None:
    """Structure in twice as much noise: the weight that predicts best lies between, and is that of least squares."""
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.standard_normal((20, 30, 30)), 0.7)
    residual = smooth / smooth.std() + 2 * rng.standard_normal(smooth.shape)
    mask = rng.random(smooth.shape) < 0.7
    kernel = gaps.choose_kernel(residual, mask)
    assert 0.4 < kernel.weight < 0.9
    guess = gaps.neighbour_mean(residual, mask, kernel.width_z, kernel.width_xy, leave_out=True)[mask]

    def error(weight: float) -> float:
        return float(np.sum((residual[mask] - weight * guess) ** 2))

    assert error(kernel.weight) < min(error(kernel.weight - 0.01), error(kernel.weight + 0.01))
    for width_z, width_xy in itertools.product(gaps.WIDTHS, gaps.WIDTHS):
        other = gaps.neighbour_mean(residual, mask, width_z, width_xy, leave_out=True)[mask]
        slope = np.clip(other @ residual[mask] / (other @ other), 0, 1)
        # The same sums in another order.
        assert np.sum((residual[mask] - slope * other) ** 2) >= error(kernel.weight) * (1 - 1e-9)


def test_choose_kernel_follows_the_direction_of_the_structure() -> None:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((30, 30, 30))
    along_z = gaps.choose_kernel(ndimage.gaussian_filter(noise, (3, 0.4, 0.4)), rng.random(noise.shape) < 0.7)
    within = gaps.choose_kernel(ndimage.gaussian_filter(noise, (0.4, 3, 3)), rng.random(noise.shape) < 0.7)
    assert along_z.width_z > along_z.width_xy
    assert within.width_z < within.width_xy


def test_choose_kernel_is_free_of_the_unit() -> None:
    rng = np.random.default_rng(3)
    residual = ndimage.gaussian_filter(rng.standard_normal((10, 20, 20)), 1) + 0.1 * rng.standard_normal((10, 20, 20))
    mask = rng.random(residual.shape) < 0.6
    assert gaps.choose_kernel(2.0**20 * residual, mask) == gaps.choose_kernel(residual, mask)  # exact: a power of two


@pytest.mark.parametrize("value", [0.0, NAN])
def test_choose_kernel_of_nothing_has_no_weight(value: float) -> None:
    residual = np.full((3, 4, 5), value)
    mask = np.full((3, 4, 5), value == 0)
    assert gaps.choose_kernel(residual, mask).weight == 0


@pytest.mark.parametrize("leave_out", [False, True])
def test_shared_residual_is_the_mean_times_the_weight(leave_out: bool) -> None:
    rng = np.random.default_rng(0)
    residual, mask = rng.standard_normal((4, 5, 6)).astype(np.float32), rng.random((4, 5, 6)) < 0.5
    shared = gaps.shared_residual(residual, mask, Kernel(0.7, 1.0, 0.25), leave_out=leave_out)
    assert shared.dtype == np.float32
    np.testing.assert_array_equal(shared, 0.25 * gaps.neighbour_mean(residual, mask, 0.7, 1.0, leave_out=leave_out))
    assert not gaps.shared_residual(residual, mask, Kernel(0.7, 1.0, 0.0), leave_out=leave_out).any()


# --------------------------------------------------------------------------------------------- central_block


@pytest.mark.parametrize("shape", [(3, 4, 5), (94, 512, 712), (1, 3000, 3000), (40, 41, 43)])
def test_central_block_is_in_the_middle_and_of_the_size_asked_for(shape: tuple[int, ...]) -> None:
    block = gaps.central_block(shape, 10_000)
    sizes = [part.stop - part.start for part in block]
    for part, size in zip(block, shape, strict=True):
        assert 0 <= part.start < part.stop <= size
        assert abs(part.start - (size - part.stop)) <= 1
    if math.prod(shape) <= 10_000:
        assert tuple(sizes) == shape
    elif min(shape) > 1:
        assert math.prod(sizes) == pytest.approx(10_000, rel=0.25)  # sides are rounded: half a voxel of ten on each


# -------------------------------------------------------------------------------------------- estimate_noise


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("sigma", [0.1, 20.0])
def test_estimate_noise_finds_the_planted_sigma(sigma: float, keep: float) -> None:
    """Noise on a slope: second differences do not see it. Outliers in 3 % of the voxels move the median a little."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:20, :40, :44]
    clean = 100 + 10.0 * z + 3.0 * y - 2.0 * x
    mask = rng.random(clean.shape) < keep
    noisy = np.where(mask, clean + sigma * rng.standard_normal(clean.shape), np.nan)
    # The median of n dependent differences has a relative standard error near 2 / sqrt(n); n is 4000 at half sampling.
    assert gaps.estimate_noise(noisy, mask) == pytest.approx(sigma, rel=0.06)
    hot = mask & (rng.random(clean.shape) < 0.03)
    # A tenth of the triples holds an outlier: the median moves by a tenth of a half, about 13 %.
    assert gaps.estimate_noise(np.where(hot, 1e6, noisy), mask) == pytest.approx(sigma, rel=0.25)


def test_estimate_noise_takes_the_smoother_direction() -> None:
    """Stripes along one axis are structure, not noise."""
    rng = np.random.default_rng(1)
    volume = 0.5 * rng.standard_normal((10, 40, 44))
    everything = np.ones(volume.shape, bool)
    for axis in (1, 2):
        stripes = np.moveaxis(np.zeros(volume.shape), axis, -1)
        stripes[..., ::2] = 100
        assert gaps.estimate_noise(volume + np.moveaxis(stripes, -1, axis), everything) == pytest.approx(0.5, rel=0.06)


def test_estimate_noise_does_not_look_along_z() -> None:
    """Planes far apart differ; that is not noise."""
    volume = np.random.default_rng(2).normal(0, 1000, (30, 1, 1)) + np.random.default_rng(3).normal(0, 1, (30, 30, 30))
    assert gaps.estimate_noise(volume, np.ones(volume.shape, bool)) == pytest.approx(1, rel=0.06)


def test_estimate_noise_without_enough_neighbours_is_zero() -> None:
    rng = np.random.default_rng(4)
    volume = rng.standard_normal((4, 10, 10))
    checkers = np.indices(volume.shape).sum(axis=0) % 2 == 0
    assert gaps.estimate_noise(volume, checkers) == 0
    assert gaps.estimate_noise(rng.standard_normal((100, 2, 2)), np.ones((100, 2, 2), bool)) == 0
    assert gaps.estimate_noise(rng.standard_normal((3, 4, 4)), np.ones((3, 4, 4), bool)) == 0  # 24 triples
    assert gaps.estimate_noise(np.full((9, 9, 9), 3.0), np.ones((9, 9, 9), bool)) == 0


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 3e38])
def test_estimate_noise_ignores_what_lies_under_the_mask(garbage: float) -> None:
    rng = np.random.default_rng(5)
    volume, mask = rng.standard_normal((8, 20, 20)).astype(np.float32), rng.random((8, 20, 20)) < 0.7
    dirty = np.where(mask, volume, np.float32(garbage))
    assert gaps.estimate_noise(dirty, mask) == gaps.estimate_noise(np.where(mask, volume, 0), mask) > 0
