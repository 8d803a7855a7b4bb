"""The plain reference method: HOSVD, filling, HOSVD, ..."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensorly.decomposition import tucker

from tensorcell.solvers import EmState, IterationRecord, Status, em_tucker, hosvd, tucker_to_dense


@pytest.mark.parametrize(("shape", "rank"), [((8, 9), (2, 2)), ((8, 9, 10), (2, 3, 2)), ((5, 6, 4, 5), (2, 2, 2, 2))])
def test_full_data_give_the_hosvd_at_once(xp: Any, planted: Any, shape: Any, rank: Any) -> None:
    data = planted(shape, rank, noise=0.3).data
    result = em_tucker(xp.put(data), None, rank)
    assert result.status is Status.CONVERGED
    assert result.iterations == 1
    # The same factorisation of the same tensor up to rounding.
    np.testing.assert_allclose(xp.take(result.value), tucker_to_dense(*hosvd(data, rank)), atol=1e-12)
    assert np.count_nonzero(xp.take(result.outliers)) == 0


def test_iterations_are_those_of_the_definition(planted: Any) -> None:
    problem = planted((8, 9, 10), (2, 3, 2), seen=0.7, noise=0.1)
    models: list[np.ndarray] = []

    def callback(record: IterationRecord, state: EmState) -> None:
        models.append(tucker_to_dense(*state))

    result = em_tucker(problem.data, problem.mask, problem.rank, max_iterations=5, tolerance=0.0, callback=callback)
    x = tucker_to_dense(*hosvd(np.where(problem.mask, problem.data, problem.data[problem.mask].mean()), problem.rank))
    norm = np.linalg.norm(problem.data[problem.mask])
    for model, record in zip(models, result.history, strict=True):
        before = x
        x = tucker_to_dense(*hosvd(np.where(problem.mask, problem.data, before), problem.rank))
        np.testing.assert_allclose(model, x, atol=1e-12)
        assert record.residual == pytest.approx(np.linalg.norm((problem.data - before)[problem.mask]) / norm)
        assert record.change == pytest.approx(np.linalg.norm(x - before) / np.linalg.norm(x))
        assert (record.stage, record.outliers, record.threshold) == ("em", 0, 0.0)


def test_em_recovers_masked_tensors(xp: Any, planted: Any) -> None:
    problem = planted((15, 16, 17), (2, 3, 2), seen=0.6)
    result = em_tucker(xp.put(problem.data), xp.put(problem.mask), problem.rank)
    assert result.status is Status.CONVERGED
    # Linear convergence: with a rate of .7 the error is some three times the last move of 1e-7.
    assert problem.error(xp.take(result.value)) < 1e-6


def test_em_agrees_with_the_masked_tucker_of_tensorly(planted: Any) -> None:
    problem = planted((10, 11, 12), (2, 2, 2), seen=0.8)
    core, factors = tucker(
        np.where(problem.mask, problem.data, 0.0), problem.rank, mask=problem.mask.astype(float), tol=0, n_iter_max=100
    )
    ours = em_tucker(problem.data, problem.mask, problem.rank)
    # Both find the planted tensor: TensorLy's hundred iterations to rounding, ours to its tolerance of 1e-7.
    np.testing.assert_allclose(ours.value, tucker_to_dense(core, factors), atol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf])
def test_em_ignores_what_stands_under_the_mask(planted: Any, garbage: float) -> None:
    problem = planted((8, 9, 10), (2, 3, 2), seen=0.7)
    nan = em_tucker(problem.data, problem.mask, problem.rank)
    other = em_tucker(np.where(problem.mask, problem.data, garbage), problem.mask, problem.rank)
    np.testing.assert_array_equal(other.value, nan.value)


@pytest.mark.parametrize("scale", [1e6, 1e-12, 1e12])
def test_em_follows_the_scale_of_the_data(planted: Any, scale: float) -> None:
    problem = planted((10, 11, 12), (2, 3, 2), seen=0.7)
    plain, scaled = (em_tucker(factor * problem.data, problem.mask, problem.rank) for factor in (1.0, scale))
    assert scaled.iterations == plain.iterations
    np.testing.assert_allclose(scaled.value / scale, plain.value, atol=1e-11)  # rounding of the scaled data


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("by", ["iterations", "callback"])
def test_resumed_equals_straight_bit_for_bit(planted: Any, stop: int, by: str) -> None:
    problem = planted((8, 9, 10), (2, 3, 2), seen=0.7)

    def run(count: int, **more: Any) -> Any:
        return em_tucker(problem.data, problem.mask, problem.rank, max_iterations=count, tolerance=0.0, **more)

    straight = run(9)
    if by == "iterations":
        first = run(stop)
        assert first.status is Status.MAX_ITERATIONS
    else:
        first = run(9, callback=lambda record, state: record.iteration == stop)
        assert first.status is Status.STOPPED
    second = run(9 - stop, initial_state=first.state)
    np.testing.assert_array_equal(second.value, straight.value)
    changes = [record.change for record in (*first.history, *second.history)]
    assert changes == [record.change for record in straight.history]


def test_single_precision_comes_back_single_and_accurate(planted: Any) -> None:
    problem = planted((10, 11, 12), (2, 3, 2), seen=0.7)
    result = em_tucker(problem.data.astype(np.float32), problem.mask, problem.rank)
    assert result.value.dtype == np.float32
    assert problem.error(result.value) < 1e-5  # stops at changes of 8 eps = 1e-6
