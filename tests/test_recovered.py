"""The share of a result that the measurement leaves open, in closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tensorcell.recovered import share_left_open


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
