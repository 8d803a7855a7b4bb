"""Proximal maps against the minimisation that defines them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorcell.solvers import (
    hard_threshold,
    procrustes,
    project_nonnegative,
    singular_value_threshold,
    soft_threshold,
)

VALUES = np.array([-3.0, -1.0, -0.4, 0.0, 0.2, 0.7, 1.0, 2.5])

# Entries of order one after a factorisation of a matrix of a few rows.
ROUNDING = 1e-13


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0, 5.0])
def test_soft_threshold_minimises_its_definition(xp: Any, threshold: float) -> None:
    found = xp.take(soft_threshold(xp.put(VALUES), threshold))
    for value, minimiser in zip(VALUES, found, strict=True):
        brute = scipy.optimize.minimize_scalar(
            lambda x, v=value: threshold * abs(x) + 0.5 * (x - v) ** 2, bounds=(-4, 4), options={"xatol": 1e-10}
        )
        # A minimum is located to the square root of the precision of the function at best.
        assert minimiser == pytest.approx(brute.x, abs=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(0, 1e6))
@settings(max_examples=50, deadline=None)
def test_soft_threshold_and_clip_add_up(values: list[float], threshold: float) -> None:
    array = np.array(values)  # Moreau: v = prox_f(v) + prox_f*(v), the conjugate being the box
    parts = soft_threshold(array, threshold) + np.clip(array, -threshold, threshold)
    np.testing.assert_allclose(parts, array, rtol=0, atol=1e-9)  # two roundings at 1e6


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 5.0])
def test_hard_threshold_minimises_its_definition(xp: Any, threshold: float) -> None:
    found = xp.take(hard_threshold(xp.put(VALUES), threshold))
    # Away from zero the penalty is constant, so v itself and zero are the only candidates.
    keep, drop = np.where(VALUES == 0, 0, threshold**2 / 2), VALUES**2 / 2
    np.testing.assert_array_equal(found, np.where(keep < drop, VALUES, 0.0))


def test_project_nonnegative_is_nearest(xp: Any) -> None:
    found = xp.take(project_nonnegative(xp.put(VALUES)))
    grid = np.linspace(0, 4, 40001)
    nearest = grid[np.argmin((VALUES[:, None] - grid) ** 2, axis=1)]
    np.testing.assert_allclose(found, nearest, atol=1e-4)  # the grid's step


def assert_strong_minimum(function: Callable[[np.ndarray], float], point: np.ndarray) -> None:
    """``F(x) >= F(p) + 1/2 ||x - p||^2`` for all x is true of the proximal point p and of no other."""
    rng = np.random.default_rng(0)
    for scale in (1e-4, 1e-2, 1.0, 10.0):
        for _ in range(25):
            other = point + scale * rng.standard_normal(point.shape)
            gap = 0.5 * np.linalg.norm(other - point) ** 2
            assert function(other) >= function(point) + gap - 1e-12  # rounding of the function


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 3)])
def test_singular_value_threshold_minimises_its_definition(xp: Any, shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape)
    threshold = float(np.mean(np.linalg.svd(matrix)[1][1:3]))  # two singular values above it, the others below
    found = xp.take(singular_value_threshold(xp.put(matrix), threshold))
    assert_strong_minimum(
        lambda x: threshold * float(np.linalg.norm(x, "nuc")) + 0.5 * float(np.sum((x - matrix) ** 2)), found
    )


@pytest.mark.parametrize("shape", [(6, 3), (4, 4), (5, 1), (1, 1)])
def test_procrustes_attains_the_nuclear_norm(xp: Any, shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(2).standard_normal(shape)
    found = xp.take(procrustes(xp.put(matrix)))
    np.testing.assert_allclose(found.T @ found, np.eye(shape[1]), atol=ROUNDING)
    # <U, M> <= ||U||_2 ||M||_*, so no U with orthonormal columns does better.
    assert np.sum(found * matrix) == pytest.approx(np.linalg.norm(matrix, "nuc"), rel=ROUNDING)
    np.testing.assert_allclose(found, scipy.linalg.polar(matrix)[0], atol=ROUNDING)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_procrustes_of_a_deficient_matrix_is_orthonormal_and_optimal(rank: int) -> None:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((6, rank)) @ rng.standard_normal((rank, 4))
    found = procrustes(matrix)
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=ROUNDING)
    assert np.sum(found * matrix) == pytest.approx(np.linalg.norm(matrix, "nuc"), abs=ROUNDING)


def test_procrustes_refuses_more_columns_than_rows() -> None:
    with pytest.raises(ValueError, match=r"expected at least as many rows as columns, got shape \(2, 3\)"):
        procrustes(np.ones((2, 3)))
