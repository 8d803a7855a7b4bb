from __future__ import annotations

import itertools
import math
from typing import Any

import numba
import numpy as np
import pytest
from scipy import ndimage, optimize

from tensorcell.solvers import kernels_variation
from tensorcell.solvers.total_variation import least_curvature


def difference(shape: tuple[int, ...], *steps: tuple[tuple[int, int, int], float]) -> np.ndarray:
    """Weighted sums of shifted voxels as a matrix; rows are 0 where a voxel that is needed is lacking."""
    matrix = np.zeros(shape + shape)
    for place in np.ndindex(shape):
        reached = [tuple(np.add(place, step)) for step, _ in steps]
        if all(0 <= n < size for to in reached for n, size in zip(to, shape, strict=True)):
            for to, (_, factor) in zip(reached, steps, strict=True):
                matrix[place + to] += factor
    return matrix.reshape(math.prod(shape), -1)


def differences(shape: tuple[int, ...], axial: float) -> np.ndarray:
    """``(6, N, N)``: the second differences by their definition."""
    unit = [tuple(row) for row in np.eye(3, dtype=int)]
    found = []
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        both = tuple(np.add(unit[a], unit[b]))
        if a == b:
            matrix = difference(shape, (unit[a], 1), ((0, 0, 0), -2), (tuple(np.negative(unit[a])), 1))
        else:
            matrix = math.sqrt(2) * difference(shape, (both, 1), (unit[a], -1), (unit[b], -1), ((0, 0, 0), 1))
        found.append(axial ** ((a == 0) + (b == 0)) * matrix)
    return np.array(found)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("weight", [0.05, 0.4])
def test_three_voxels_in_closed_form(axis: int, weight: float) -> None:
    """One second difference: the data move along (1, -2, 1) by as much as the weight allows."""
    shape = [1, 1, 1]
    shape[axis] = 3
    y, a = np.array([1.0, 3.0, 2.0]), np.array([1.0, -2.0, 1.0])
    wanted = y - a * np.clip(a @ y / 6, -weight, weight)
    found = least_curvature(y.reshape(shape), np.ones(shape, bool), weight, iterations=2000)
    np.testing.assert_allclose(found.ravel(), wanted, atol=5e-4)  # the error falls as 1 / iterations


@pytest.mark.parametrize(("share", "axial"), [(1.0, 1.0), (1.0, 0.5), (0.6, 1.0), (0.6, 0.5)])
def test_no_other_stack_has_a_smaller_objective(share: float, axial: float) -> None:
    rng = np.random.default_rng(3)
    y, weight = rng.standard_normal((3, 3, 4)), 0.1
    mask = rng.random(y.shape) < share
    found = least_curvature(np.where(mask, y, np.nan), mask, weight, axial=axial, iterations=3000)
    operators, smooth = differences(y.shape, axial), 1e-3

    def objective(x: np.ndarray, smooth: float) -> float:
        length = np.sqrt(np.sum((operators @ x) ** 2, axis=0) + smooth**2) - smooth
        return float(np.sum((x - y.ravel())[mask.ravel()] ** 2) / 2 + weight * np.sum(length))

    start = found.ravel() + 0.1 * rng.standard_normal(y.size)
    best = optimize.minimize(objective, start, (smooth,), method="L-BFGS-B", options={"maxfun": 100_000})
    allowed = weight * smooth * y.size  # by which smoothing the lengths lowers an objective at most
    assert objective(found.ravel(), 0.0) <= best.fun + allowed


def test_gaps_of_a_slope_are_filled_and_measured_slopes_stay() -> None:
    slope = np.add.outer(np.arange(6.0), np.add.outer(2 * np.arange(7.0), -3 * np.arange(8.0)))
    mask = np.random.default_rng(0).random(slope.shape) < 0.4
    found = least_curvature(np.where(mask, slope, np.nan), mask, 1.0, iterations=3000)
    np.testing.assert_allclose(found, slope, atol=2e-3)
    np.testing.assert_allclose(least_curvature(slope, np.ones_like(mask), 50.0), slope, atol=1e-3)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_unit_and_offset_do_not_matter(share: float) -> None:
    rng = np.random.default_rng(1)
    y = ndimage.gaussian_filter(rng.standard_normal((6, 8, 9)), 1)
    mask = rng.random(y.shape) < share
    one = least_curvature(y, mask, 0.05)
    other = least_curvature(2.0**20 * y + 2.0**22, mask, 2.0**20 * 0.05)
    np.testing.assert_allclose((other - 2.0**22) / 2.0**20, one, atol=1e-5)  # float32


def test_axes_within_planes_are_alike() -> None:
    rng = np.random.default_rng(2)
    y, mask = rng.standard_normal((4, 6, 7)), rng.random((4, 6, 7)) < 0.7
    one, other = least_curvature(y, mask, 0.2), least_curvature(y.swapaxes(1, 2), mask.swapaxes(1, 2), 0.2)
    np.testing.assert_allclose(other.swapaxes(1, 2), one, atol=1e-5)


def test_without_weight_along_z_planes_are_by_themselves() -> None:
    y = np.random.default_rng(4).standard_normal((3, 8, 9))
    mask = np.ones(y.shape, bool)
    whole = least_curvature(y, mask, 0.3, axial=0.0, iterations=400)
    alone = [least_curvature(y[k : k + 1], mask[k : k + 1], 0.3, iterations=400)[0] for k in range(3)]
    np.testing.assert_allclose(whole, alone, atol=1e-4)


def test_a_start_changes_the_way_and_not_the_end() -> None:
    rng = np.random.default_rng(5)
    y, mask = rng.standard_normal((4, 6, 7)), rng.random((4, 6, 7)) < 0.8
    one = least_curvature(y, mask, 0.3, iterations=4000)
    other = least_curvature(y, mask, 0.3, iterations=4000, start=np.full(y.shape, 3.0))
    np.testing.assert_allclose(other, one, atol=2e-3)
    assert not np.allclose(
        least_curvature(y, mask, 0.3, iterations=1), least_curvature(y, mask, 0.3, iterations=1, start=one), atol=0.01
    )


def test_number_of_threads_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    y, mask = rng.standard_normal((7, 6, 8)).astype(np.float32), rng.random((7, 6, 8)) < 0.7
    one = least_curvature(y, mask, 0.2)
    shares: list[int] = []

    def several(work: Any, size: int) -> None:
        shares.append(size)
        for first in range(size):
            work(first, first + 1)

    monkeypatch.setattr("tensorcell.solvers.total_variation.share_out", several)
    np.testing.assert_array_equal(least_curvature(y, mask, 0.2), one)
    assert set(shares) == {7}
    assert numba.extending.is_jitted(kernels_variation.update_dual)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_type_stays_and_nothing_is_written(dtype: type) -> None:
    y, mask = np.random.default_rng(7).standard_normal((3, 5, 6)).astype(dtype), np.ones((3, 5, 6), bool)
    mask[1, 2, 3], y[1, 2, 3] = False, np.nan
    y.flags.writeable = mask.flags.writeable = False
    found = least_curvature(y, mask, 0.1)
    assert found.dtype == dtype
    assert np.isfinite(found).all()


def test_bad_arguments_are_refused() -> None:
    y, mask = np.zeros((3, 4, 5)), np.ones((3, 4, 5), bool)
    with pytest.raises(ValueError, match="expected a positive weight, got 0"):
        least_curvature(y, mask, 0)
    with pytest.raises(ValueError, match=r"a mask of the same shape, got \(3, 4, 5\) and \(4, 5\)"):
        least_curvature(y, mask[0], 1.0)
    with pytest.raises(ValueError, match="expected at least one measured voxel, got none"):
        least_curvature(y, ~mask, 1.0)
