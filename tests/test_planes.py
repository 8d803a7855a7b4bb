"""The basis along z: cardinal, adding up to one, and reproducing what a cubic Hermite spline must."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell.planes import fill_planes, plane_basis

# The bases are a handful of float64 products of numbers near one: 1e-12 is rounding with room to spare.
ROUNDING = 1e-12
KNOTS = [([0, 1], 2), ([0, 2, 4], 5), ([0, 3, 6, 9], 10), ([2, 3, 7, 8, 14], 17), ([0, 5], 6), ([4, 9], 13)]


@pytest.mark.parametrize(("measured", "planes"), KNOTS)
def test_plane_basis_is_cardinal_and_adds_up_to_one(measured: list[int], planes: int) -> None:
    basis = plane_basis(measured, planes)
    assert basis.shape == (planes, len(measured))
    assert basis.dtype == np.float64
    np.testing.assert_allclose(basis[measured], np.eye(len(measured)), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(basis.sum(axis=1), 1, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("measured", "planes"), KNOTS)
def test_plane_basis_reproduces_lines_between_the_measured_planes(measured: list[int], planes: int) -> None:
    inside = np.arange(measured[0], measured[-1] + 1)
    profile = 3.0 - 0.7 * np.asarray(measured)
    np.testing.assert_allclose(plane_basis(measured, planes)[inside] @ profile, 3.0 - 0.7 * inside, atol=ROUNDING)


@pytest.mark.parametrize("measured", [[0, 2, 4, 6, 8], [0, 1, 4, 6, 11], [3, 4, 9, 11, 18]])
def test_plane_basis_reproduces_parabolas_away_from_the_ends(measured: list[int]) -> None:
    """Slopes of three points are exact for parabolas, on irregular knots too; those at the two ends are one-sided."""
    inside = np.arange(measured[1], measured[-2] + 1)
    profile = np.asarray(measured, float) ** 2
    basis = plane_basis(measured, measured[-1] + 1)
    # Values reach 400, so rounding is a few hundred times that of the basis.
    np.testing.assert_allclose(basis[inside] @ profile, inside.astype(float) ** 2, rtol=0, atol=1e3 * ROUNDING)
    first = np.arange(measured[0] + 1, measured[1])
    if len(first):
        assert np.abs(basis[first] @ profile - first.astype(float) ** 2).min() > 1e-3


def test_plane_basis_is_catmull_rom_on_even_knots() -> None:
    """Closed form of the uniform Catmull-Rom spline at t = 1/3: weights of the four nearest planes."""
    t = 1 / 3
    weights = [
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (-(t**2) + t**3) / 2,
    ]
    basis = plane_basis(np.arange(0, 16, 3), 16)
    np.testing.assert_allclose(basis[7], [0, *weights, 0], rtol=0, atol=ROUNDING)


def test_plane_basis_between_two_planes_is_linear() -> None:
    np.testing.assert_allclose(plane_basis([0, 4], 5)[:, 1], np.arange(5) / 4, rtol=0, atol=ROUNDING)


def test_plane_basis_repeats_the_nearest_plane_outside() -> None:
    basis = plane_basis([3, 5, 9], 14)
    np.testing.assert_array_equal(basis[:3], np.tile([1.0, 0, 0], (3, 1)))
    np.testing.assert_array_equal(basis[10:], np.tile([0, 0, 1.0], (4, 1)))


def test_plane_basis_depends_on_the_four_nearest_planes_only() -> None:
    measured = np.array([0, 2, 5, 6, 9, 13, 14, 20])
    basis = plane_basis(measured, 21)
    for plane in np.setdiff1d(np.arange(21), measured):
        after = int(np.searchsorted(measured, plane))
        far = np.setdiff1d(np.arange(len(measured)), np.arange(after - 2, after + 2))
        np.testing.assert_array_equal(basis[plane, far], 0)


def test_plane_basis_is_mirrored_with_its_knots() -> None:
    measured = np.array([1, 2, 6, 9])
    mirrored = plane_basis(11 - measured[::-1], 12)[::-1, ::-1]
    np.testing.assert_allclose(plane_basis(measured, 12), mirrored, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fill_planes_is_the_basis_times_the_stack(dtype: type) -> None:
    stack = np.random.default_rng(0).random((4, 5, 6)).astype(dtype)
    measured = [1, 2, 6, 9]
    filled = fill_planes(stack, measured, 12)
    assert filled.dtype == dtype
    expected = np.einsum("zm,myx->zyx", plane_basis(measured, 12), stack.astype(float))
    # At most four terms below one: a few units in the last place.
    np.testing.assert_allclose(filled, expected, rtol=0, atol=8 * np.finfo(dtype).eps)


def test_fill_planes_gives_measured_planes_back_bit_for_bit() -> None:
    stack = np.random.default_rng(1).normal(1e4, 1.0, (3, 4, 4)).astype(np.float32)
    stack.setflags(write=False)
    np.testing.assert_array_equal(fill_planes(stack, [2, 5, 7], 9)[[2, 5, 7]], stack)
