"""Kernels of the residual against the sum over the kernel and planted structure; slabs and blocks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from tensorcell.solvers import CompletionResult, Status, slabs
from tensorcell.solvers.residual_kriging import (
    WIDTHS,
    Kernel,
    choose_kernel,
    estimate_with_neighbours,
    neighbour_mean,
    shared_residual,
    wiener_weight,
)
from tensorcell.solvers.results import SparsePart, tucker_tensor

NAN = float("nan")


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
    mean = neighbour_mean(residual, mask, *widths, leave_out=leave_out)
    # The own value is taken off the filtered sum, whose weight may be as small as 1e-6: rounding is divided by that.
    np.testing.assert_allclose(mean, brute_mean(residual, mask, widths, leave_out), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbour_mean_of_a_constant_is_that_constant_where_neighbours_are_in_reach(dtype: type) -> None:
    mask = np.random.default_rng(1).random((6, 9, 9)) < 0.3
    residual = np.where(mask, 7, np.nan).astype(dtype)
    for leave_out in (False, True):
        mean = neighbour_mean(residual, mask, 1.0, 1.0, leave_out=leave_out)
        assert mean.dtype == dtype
        # Weights down to 1e-3 of the sum that was subtracted: a thousand units in the last place.
        np.testing.assert_allclose(mean, 7, rtol=1e4 * np.finfo(dtype).eps)


def test_neighbour_mean_is_zero_out_of_reach() -> None:
    residual, mask = np.zeros((3, 3, 20)), np.zeros((3, 3, 20), bool)
    residual[1, 1, 2], mask[1, 1, 2] = 5, True
    mean = neighbour_mean(residual, mask, 0.5, 0.5, leave_out=False)
    assert mean[1, 1, 3] == pytest.approx(5)
    assert not mean[:, :, 5:].any()  # the reach of width 0.5 is two voxels
    alone = neighbour_mean(residual, mask, 0.5, 0.5, leave_out=True)
    assert alone[1, 1, 2] == 0  # nothing but itself


def test_neighbour_mean_leaving_out_does_not_depend_on_the_voxel_itself() -> None:
    rng = np.random.default_rng(2)
    residual, mask = rng.standard_normal((5, 6, 7)), np.ones((5, 6, 7), bool)
    before = neighbour_mean(residual, mask, 1.0, 0.7, leave_out=True)
    residual[2, 3, 3] += 1000
    after = neighbour_mean(residual, mask, 1.0, 0.7, leave_out=True)
    assert after[2, 3, 3] == pytest.approx(before[2, 3, 3], abs=1e-9)  # rounding of 1000 taken off again
    assert abs(after[2, 3, 4] - before[2, 3, 4]) > 1


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e38])
def test_neighbour_mean_ignores_what_lies_under_the_mask(garbage: float) -> None:
    rng = np.random.default_rng(3)
    residual, mask = rng.standard_normal((5, 6, 7)).astype(np.float32), rng.random((5, 6, 7)) < 0.5
    dirty = np.where(mask, residual, np.float32(garbage))
    dirty.setflags(write=False)
    np.testing.assert_array_equal(
        neighbour_mean(dirty, mask, 1.0, 1.0, leave_out=True),
        neighbour_mean(np.where(mask, residual, 0), mask, 1.0, 1.0, leave_out=True),
    )


@pytest.mark.parametrize("seed", range(4))
def test_choose_kernel_adds_next_to_nothing_to_white_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise, mask = rng.standard_normal((20, 30, 30)), rng.random((20, 30, 30)) < 0.5
    kernel = choose_kernel(noise, mask)
    # The best of 16 chance correlations, each with a standard error of 1 / sqrt(9000) = .01.
    assert kernel.weight < 0.3
    assert shared_residual(noise, mask, kernel, leave_out=True).std() < 0.05


def test_choose_kernel_trusts_a_smooth_residual() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((20, 30, 30)), 2.5)
    kernel = choose_kernel(smooth, rng.random(smooth.shape) < 0.5)
    assert kernel.weight > 0.9


def test_choose_kernel_weight_is_the_share_of_structure() -> None:
    """Structure in twice as much noise: the weight that predicts best lies between, and is that of least squares."""
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.standard_normal((20, 30, 30)), 0.7)
    residual = smooth / smooth.std() + 2 * rng.standard_normal(smooth.shape)
    mask = rng.random(smooth.shape) < 0.7
    kernel = choose_kernel(residual, mask)
    assert 0.4 < kernel.weight < 0.9
    guess = neighbour_mean(residual, mask, kernel.width_z, kernel.width_xy, leave_out=True)[mask]

    def error(weight: float) -> float:
        return float(np.sum((residual[mask] - weight * guess) ** 2))

    assert error(kernel.weight) < min(error(kernel.weight - 0.01), error(kernel.weight + 0.01))
    for width_z, width_xy in itertools.product(WIDTHS, WIDTHS):
        other = neighbour_mean(residual, mask, width_z, width_xy, leave_out=True)[mask]
        slope = np.clip(other @ residual[mask] / (other @ other), 0, 1)
        # The same sums in another order.
        assert np.sum((residual[mask] - slope * other) ** 2) >= error(kernel.weight) * (1 - 1e-9)


def test_choose_kernel_follows_the_direction_of_the_structure() -> None:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((30, 30, 30))
    along_z = choose_kernel(ndimage.gaussian_filter(noise, (3, 0.4, 0.4)), rng.random(noise.shape) < 0.7)
    within = choose_kernel(ndimage.gaussian_filter(noise, (0.4, 3, 3)), rng.random(noise.shape) < 0.7)
    assert along_z.width_z > along_z.width_xy
    assert within.width_z < within.width_xy


def test_choose_kernel_is_free_of_the_unit() -> None:
    rng = np.random.default_rng(3)
    residual = ndimage.gaussian_filter(rng.standard_normal((10, 20, 20)), 1) + 0.1 * rng.standard_normal((10, 20, 20))
    mask = rng.random(residual.shape) < 0.6
    assert choose_kernel(2.0**20 * residual, mask) == choose_kernel(residual, mask)  # exact: a power of two


@pytest.mark.parametrize("value", [0.0, NAN])
def test_choose_kernel_of_nothing_has_no_weight(value: float) -> None:
    residual = np.full((3, 4, 5), value)
    mask = np.full((3, 4, 5), value == 0)
    assert choose_kernel(residual, mask).weight == 0


@pytest.mark.parametrize("leave_out", [False, True])
def test_shared_residual_is_the_mean_times_the_weight(leave_out: bool) -> None:
    rng = np.random.default_rng(0)
    residual, mask = rng.standard_normal((4, 5, 6)).astype(np.float32), rng.random((4, 5, 6)) < 0.5
    shared = shared_residual(residual, mask, Kernel(0.7, 1.0, 0.25), leave_out=leave_out)
    assert shared.dtype == np.float32
    np.testing.assert_array_equal(shared, 0.25 * neighbour_mean(residual, mask, 0.7, 1.0, leave_out=leave_out))
    assert not shared_residual(residual, mask, Kernel(0.7, 1.0, 0.0), leave_out=leave_out).any()


@pytest.mark.parametrize("shape", [(3, 4, 5), (94, 512, 712), (1, 3000, 3000), (40, 41, 43)])
def test_central_block_is_in_the_middle_and_of_the_size_asked_for(shape: tuple[int, ...]) -> None:
    block = slabs.central_block(shape, 10_000)
    sizes = [part.stop - part.start for part in block]
    for part, size in zip(block, shape, strict=True):
        assert 0 <= part.start < part.stop <= size
        assert abs(part.start - (size - part.stop)) <= 1
    if math.prod(shape) <= 10_000:
        assert tuple(sizes) == shape
    elif min(shape) > 1:
        assert math.prod(sizes) == pytest.approx(10_000, rel=0.25)  # sides are rounded: half a voxel of ten on each


def model(shape: tuple[int, ...], seed: int = 0) -> CompletionResult:
    """A fit of rank (2, 3, 2) with random factors."""
    rng = np.random.default_rng(seed)
    factors = [np.linalg.qr(rng.standard_normal((n, r)))[0] for n, r in zip(shape, (2, 3, 2), strict=True)]
    return CompletionResult(
        tucker=tucker_tensor(20 * rng.standard_normal((2, 3, 2)), factors, np.float64),
        sparse=SparsePart(np.zeros(0, int), np.zeros(0)),
        status=Status.CONVERGED,
        history=(),
        state=None,
    )


def structure_and_noise(share_seen: float = 0.7) -> tuple[np.ndarray, np.ndarray, CompletionResult]:
    """A stack of a model, smooth structure beyond it and white noise of standard deviation .5, with its mask."""
    rng = np.random.default_rng(5)
    shape = (12, 16, 18)
    fit = model(shape)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0)
    stack = fit.value + smooth / smooth.std() + 0.5 * rng.standard_normal(shape)
    return stack, rng.random(shape) < share_seen, fit


@pytest.mark.parametrize("planes", [slice(0, 1), slice(3, 9), slice(0, 12)])
def test_model_planes_are_those_of_the_model(planes: slice) -> None:
    fit = model((12, 16, 18))
    np.testing.assert_allclose(slabs.model_planes(fit, planes), fit.value[planes], rtol=0, atol=1e-12)


def test_wiener_weight_is_the_share_of_structure_in_white_residuals() -> None:
    """Structure of variance 1 that no neighbour shares, noise of variance 9 / 16: the weight is 16 / 25."""
    rng = np.random.default_rng(0)
    residual = rng.standard_normal((20, 40, 40)) + 0.75 * rng.standard_normal((20, 40, 40))
    mask = rng.random(residual.shape) < 0.9
    alone = Kernel(1.0, 1.0, 0.0)
    weight = wiener_weight(residual, mask, alone, 0.75)
    # A variance of 29 000 numbers is known to .8 %, half of which 1 - w inherits.
    assert weight == pytest.approx(16 / 25, rel=0.02)
    assert wiener_weight(residual, mask, alone, 0.0) == 1.0
    assert wiener_weight(residual, mask, alone, 2.0) == 0  # more noise than there is variance
    assert wiener_weight(1000 * residual, mask, alone, 750.0) == pytest.approx(weight, rel=1e-9)  # the unit is free


def test_wiener_weight_leaves_the_voxel_itself_out_of_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    residual, mask = rng.standard_normal((4, 5, 6)), rng.random((4, 5, 6)) < 0.6
    rest = (residual - 0.8 * brute_mean(residual, mask, (0.5, 0.7), leave_out=True))[mask]
    weight = wiener_weight(residual, mask, Kernel(0.5, 0.7, 0.8), 0.6)
    assert weight == pytest.approx(1 - 0.36 / np.mean(rest**2), rel=1e-9)  # sums in another order


def test_wiener_weight_of_nothing_is_zero() -> None:
    residual, mask = np.zeros((3, 4, 5)), np.ones((3, 4, 5), bool)
    assert wiener_weight(residual, mask, Kernel(1.0, 1.0, 1.0), 0.5) == 0.0
    assert wiener_weight(residual + 1, ~mask, Kernel(1.0, 1.0, 1.0), 0.5) == 0.0


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("neighbours", [True, False])
def test_estimate_with_neighbours_equals_its_formula(keep: bool, neighbours: bool) -> None:
    """``X + S`` in gaps, ``X + S + w (R - S)`` or the value itself where one was measured."""
    stack, inlier, fit = structure_and_noise()
    stack[~inlier] = 1e9
    residual = np.where(inlier, stack - fit.value, 0)
    kernel = choose_kernel(residual, inlier) if neighbours else Kernel(1.0, 1.0, 0.0)
    assert (kernel.weight > 0.5) == neighbours
    shared = shared_residual(residual, inlier, kernel, leave_out=not keep)
    expected = fit.value + shared
    intensity, own = expected.copy(), 0.0
    if keep:
        expected[inlier] = stack[inlier]
    else:
        own = 1 - 0.25 / np.mean((residual - shared)[inlier] ** 2)
        expected[inlier] += own * (residual - shared)[inlier]
    found = estimate_with_neighbours(stack, inlier, fit, noise=0.5, keep=keep, neighbours=neighbours)
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-9)  # sums of intensities of some tens
    assert found.own_weight == pytest.approx(own, rel=1e-9)
    if keep:
        np.testing.assert_array_equal(found.value[inlier], stack[inlier])
        np.testing.assert_allclose(found.intensity, intensity, rtol=0, atol=1e-9)
    else:
        assert found.intensity is found.value


def test_estimate_with_neighbours_has_the_error_that_its_own_weight_tells() -> None:
    """White structure of variance ``a`` in noise of variance ``b``: Wiener's error is ``a b / (a + b) = w b``."""
    rng = np.random.default_rng(2)
    fit = model((16, 32, 32))
    truth = fit.value + rng.standard_normal((16, 32, 32))
    stack = truth + 0.8 * rng.standard_normal(truth.shape)
    found = estimate_with_neighbours(stack, np.ones(truth.shape, bool), fit, noise=0.8, keep=False)
    error = float(np.sqrt(np.mean((found.value - truth) ** 2)))
    # A standard deviation of 16 000 numbers is known to .6 %; a kernel that white residuals chose adds 1 % at most.
    assert error == pytest.approx(0.8 * math.sqrt(found.own_weight), rel=0.025)


@pytest.mark.parametrize("keep", [True, False])
def test_estimate_with_neighbours_in_slabs_gives_what_one_slab_gives(
    monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    stack, inlier, fit = structure_and_noise()
    whole = estimate_with_neighbours(stack, inlier, fit, noise=0.5, keep=keep)
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 2 * 16 * 18)
    parts = estimate_with_neighbours(stack, inlier, fit, noise=0.5, keep=keep)
    # Kernels end at three widths, so that the planes beyond the rim weigh exactly nothing.
    np.testing.assert_allclose(parts.value, whole.value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3, 4), (7, 5, 5), (12, 100, 100)])
def test_slabs_cover_every_plane_once(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 60)
    parts = slabs.slabs(shape)
    np.testing.assert_array_equal(np.concatenate([np.arange(shape[0])[part] for part in parts]), np.arange(shape[0]))
    plane = shape[1] * shape[2]
    assert all(plane * (part.stop - part.start) <= max(60, plane) for part in parts)
