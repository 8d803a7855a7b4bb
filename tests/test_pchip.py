"""Monotone cubic interpolation between planes: SciPy's curves, whatever the distances, and nothing but four planes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from tensorcell.solvers.interpolation import pchip


@pytest.mark.parametrize("planes", [2, 3, 4, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [0, 3, 16])
def test_pchip_is_that_of_scipy(planes: int, dtype: type, decimals: int) -> None:
    """Rounded values have equal neighbours, whose slopes are 0, and at the ends slopes of another sign."""
    rng = np.random.default_rng(planes)
    positions = np.cumsum(rng.integers(1, 5, planes)).astype(float)
    values = rng.standard_normal((planes, 30, 41)).round(decimals).astype(dtype)
    targets = np.sort(np.concatenate([positions, rng.uniform(positions[0], positions[-1], 13)]))
    found = np.stack(list(pchip(values, positions, targets)))
    assert found.dtype == dtype
    # The same formulas in another order of sums; values are about 1.
    np.testing.assert_allclose(found, PchipInterpolator(positions, values)(targets), atol=4 * np.finfo(dtype).eps)


def test_pchip_of_tiny_slopes_is_finite() -> None:
    values = np.array([0.0, 1e-310, 3e-310, 3e-310, 1.0]).reshape(5, 1, 1)
    assert np.isfinite(list(pchip(values, np.arange(5.0), np.arange(0.5, 4)))).all()


def test_pchip_reads_four_planes_only() -> None:
    values = np.random.default_rng(0).standard_normal((9, 3, 4))
    (before,) = pchip(values, np.arange(9.0), np.array([4.5]))
    values[[0, 1, 2, 7, 8]] = np.nan
    (after,) = pchip(values, np.arange(9.0), np.array([4.5]))
    np.testing.assert_array_equal(after, before)
