"""The single-precision twin of a problem: where there is one, what it holds, and that it is made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tensorcell.solvers.problem import Problem


def some(dtype: Any, unit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = rng.random((5, 6, 7)) < 0.6
    return np.where(mask, unit * rng.standard_normal(mask.shape), np.nan).astype(dtype), mask


def test_single_is_float32_and_zero_where_nothing_was_observed(xp: Any) -> None:
    data, mask = some(np.float64)
    single = Problem(xp.put(data), xp.put(mask)).single
    found = xp.take(single.data)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.where(mask, data, 0.0).astype(np.float32))
    np.testing.assert_array_equal(xp.take(single.mask), mask)


def test_single_of_float32_data_is_the_problem_itself() -> None:
    problem = Problem(*some(np.float32))
    assert problem.single is problem


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_single_keeps_double_where_float32_cannot_hold_the_squares(unit: float) -> None:
    data, mask = some(np.float64, unit)
    with np.errstate(over="ignore", under="ignore"):
        squares = np.square(data[mask].astype(np.float32))
    assert not np.all(np.isfinite(squares) & (squares > 0))
    problem = Problem(data, mask)
    assert problem.single is problem


def test_norm_and_grid_are_those_of_the_observed_entries() -> None:
    data, mask = some(np.float64)
    problem = Problem(data, mask)
    assert problem.norm == pytest.approx(np.linalg.norm(data[mask]))
    assert problem.grid is problem.grid
    np.testing.assert_array_equal(np.sort(problem.grid.values), np.sort(data[mask]))
