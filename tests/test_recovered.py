"""The share of a result that the measurement leaves open, in closed form."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from tensorcell.plane_grid import PlaneGrid
from tensorcell.recovered import Recovery, StackOutliers, share_left_open
from tensorcell.solvers import Status
from tensorcell.volume import Volume


def spot() -> np.ndarray:
    """One voxel of 100 in the middle of zeros."""
    values = np.zeros((21, 41, 41))
    values[10, 20, 20] = 100
    return values


def window(width: float, radius: int) -> np.ndarray:
    """Weights of a Gaussian window along one axis that ends at four widths."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    weights[np.abs(np.arange(-radius, radius + 1)) > 4 * width] = 0
    return weights / weights.sum()


def test_share_left_open_is_that_of_the_variance_in_a_window_of_one_and_two_voxels() -> None:
    """The weighted variance of one voxel of height ``a`` that has the weight ``g`` in a window is ``a^2 g (1 - g)``."""
    values, u = spot(), 3.0
    g = np.einsum("i,j,k->ijk", window(1.0, 10), window(2.0, 20), window(2.0, 20))
    variance = 100**2 * g * (1 - g)
    expected = u**2 / (u**2 + variance)
    structure = variance > (0.02 * values.std()) ** 2
    assert structure.sum() > 500
    found = share_left_open(values, np.full(values.shape, u))
    # Differences of squares of up to 100^2 g, whose rounding is nothing beside u^2.
    np.testing.assert_allclose(found[structure], expected[structure], rtol=0, atol=1e-9)
    assert found[9, 20, 20] == pytest.approx(found[10, 18, 20])  # one voxel along z is worth two along y


def test_share_left_open_of_a_flat_surrounding_compares_with_a_fiftieth_of_the_contrast() -> None:
    """Far from all structure: an uncertainty far below the contrast leaves nothing open, a far larger one all."""
    values = spot()
    contrast = float(values.std())
    shares = [share_left_open(values, np.full(values.shape, u * contrast))[0, 0, 0] for u in (1e-4, 0.02, 1.0)]
    assert shares == pytest.approx([0, 0.5, 1], abs=1e-3)  # (1 / 200)^2 and (1 / 50)^2 beside 1


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_share_left_open_is_free_of_the_unit_and_of_an_offset(unit: float) -> None:
    rng = np.random.default_rng(0)
    values, u = rng.random((6, 12, 12)), rng.random((6, 12, 12))
    share = share_left_open(values, u)
    assert ((share >= 0) & (share <= 1)).all()
    np.testing.assert_allclose(share_left_open(unit * values, unit * u), share, rtol=1e-9)
    np.testing.assert_allclose(share_left_open(values + 100, u), share, rtol=1e-9)  # the mean is taken off first


def test_share_left_open_grows_with_the_uncertainty() -> None:
    values = np.random.default_rng(0).random((6, 12, 12))
    shares = [share_left_open(values, np.full(values.shape, u)) for u in (0.0, 0.1, 0.3, 10.0)]
    assert not shares[0].any()
    assert all((low < high).all() for low, high in itertools.pairwise(shares))
    assert shares[-1].min() > 0.99


def two_channels() -> tuple[Recovery, np.ndarray]:
    """Two channels of every other plane, with three outliers in the second one, and where a value was measured."""
    rng = np.random.default_rng(0)
    shape = (2, 7, 8, 9)
    measured = np.zeros(shape, bool)
    measured[:, ::2] = rng.random((2, 4, 8, 9)) < 0.6
    positions = np.flatnonzero(measured[1, ::2])[[3, 50, 100]]
    result = Recovery(
        volume=Volume(rng.random(shape), axes="CZYX"),
        measured=measured,
        uncertainty=rng.uniform(0.1, 0.2, shape),
        rank=(1, 1, 1),
        status=Status.COMPLETED,
        history=(),
        noise=0.1,
        defects={},
        notes=(),
        seconds=0.0,
        input_shape=(2, 4, 8, 9),
        grid=PlaneGrid(4, Fraction(2)),
        _outliers=(
            StackOutliers((0,), np.zeros(0, int), np.zeros(0)),
            StackOutliers((1,), positions, np.array([5.0, -6.0, 7.0])),
        ),
    )
    return result, positions


def test_outliers_stand_where_they_were_given() -> None:
    result, positions = two_channels()
    assert result.outlier_count == 3
    assert result.outliers.shape == (2, 4, 8, 9)
    assert not result.outliers[0].any()
    np.testing.assert_array_equal(np.flatnonzero(result.outliers[1]), positions)
    np.testing.assert_array_equal(result.outliers[1].ravel()[positions], [5, -6, 7])


def test_invented_is_nothing_of_what_was_measured_but_for_outliers() -> None:
    result, positions = two_channels()
    replaced = np.zeros((2, 7, 8, 9), bool)
    replaced[1, ::2] = np.isin(np.arange(4 * 72), positions).reshape(4, 8, 9)
    invented = result.invented
    determined = result.measured & ~replaced
    assert not invented[determined].any()
    for channel in range(2):
        share = share_left_open(result.volume.data[channel], result.uncertainty[channel])
        where = ~determined[channel]
        np.testing.assert_array_equal(invented[channel][where], share[where])
        assert (share > 0).all()
