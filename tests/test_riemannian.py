"""Gauss-Newton against dense linear algebra on the tangent space, independent optimisers and planted truth."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tucker
from tensorly.tucker_tensor import TuckerTensor

from tensorcell.solvers import (
    GaussNewtonOptions,
    GaussNewtonState,
    IterationRecord,
    Status,
    hosvd,
    riemannian,
    riemannian_gauss_newton,
    tucker_to_dense,
    unfold,
)
from tensorcell.solvers.rules import Rule
from tensorcell.solvers.sweeps import sweep

SMALL: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5, 6), (2, 2)),
    ((4, 5, 6), (2, 3, 2)),
    ((4, 1, 5), (2, 1, 2)),
    ((3, 4, 3, 4), (2, 2, 1, 2)),
]

# Dense linear algebra with a few hundred unknowns of order one.
ROUNDING = 1e-10


def near(truth: np.ndarray, rank: Any, distance: float = 0.1, seed: int = 1) -> TuckerTensor:
    """A model about ``distance`` away from the truth."""
    noise = np.random.default_rng(seed).standard_normal(truth.shape)
    return hosvd(truth + distance * noise, rank)


def chart(model: TuckerTensor) -> riemannian.Chart:
    """Coordinates at a model with orthonormal factors."""
    return riemannian.chart_at(GaussNewtonState(model.core, tuple(model.factors), 1.0, 1.0))


def tangent_basis(model: TuckerTensor) -> np.ndarray:
    """Orthonormal basis of the tangent space, ``(N, dimension)``: each entry of core and factors is moved once."""
    core, factors = model
    columns = []
    for index in np.ndindex(core.shape):
        unit = np.zeros(core.shape)
        unit[index] = 1.0
        columns.append(tucker_to_dense(unit, factors).ravel())
    for mode, factor in enumerate(factors):
        for index in np.ndindex(factor.shape):
            moved = [np.zeros_like(f) if m == mode else f for m, f in enumerate(factors)]
            moved[mode][index] = 1.0
            columns.append(tucker_to_dense(core, moved).ravel())
    return scipy.linalg.orth(np.stack(columns, axis=1), rcond=1e-10)


def dense_tangent(at: riemannian.Chart, tangent: riemannian.Tangent) -> np.ndarray:
    """A tangent vector as a full tensor."""
    return tucker_to_dense(*riemannian.block_tucker(at, tangent))


@pytest.mark.parametrize(("shape", "rank"), SMALL)
def test_tangent_space_has_the_dimension_of_the_manifold(planted: Any, shape: Any, rank: Any) -> None:
    basis = tangent_basis(near(planted(shape, rank).truth, rank))
    freedom = math.prod(rank) + sum(r * (n - r) for n, r in zip(shape, rank, strict=True))
    assert basis.shape[1] == freedom


@pytest.mark.parametrize(("shape", "rank"), SMALL)
def test_to_tangent_is_the_orthogonal_projection(planted: Any, shape: Any, rank: Any) -> None:
    problem = planted(shape, rank, seen=0.7)
    model = near(problem.truth, rank)
    at, basis = chart(model), tangent_basis(model)
    data = np.where(problem.mask, problem.data, 0.0)
    direction = np.where(problem.mask, data - tucker_to_dense(*model), 0.0)
    result = sweep(data, problem.mask, at.core, at.factors, rule=Rule.RESIDUAL, model=tuple(model))
    tangent = riemannian.to_tangent(at, result.core, result.factors)
    projected = basis @ (basis.T @ direction.ravel())
    np.testing.assert_allclose(dense_tangent(at, tangent).ravel(), projected, atol=ROUNDING)
    # The coordinates are orthonormal: lengths and angles are those of the full tensors.
    assert riemannian.tangent_norm(tangent) == pytest.approx(np.linalg.norm(projected), rel=ROUNDING)
    for mode, factor in enumerate(model.factors):
        np.testing.assert_allclose(factor.T @ tangent[mode + 1], 0.0, atol=ROUNDING)


@pytest.mark.parametrize(("shape", "rank"), SMALL)
def test_gauss_newton_step_solves_the_dense_least_squares_problem(planted: Any, shape: Any, rank: Any) -> None:
    problem = planted(shape, rank, seen=0.9)
    model = near(problem.truth, rank)
    at, basis = chart(model), tangent_basis(model)
    data = np.where(problem.mask, problem.data, 0.0)
    gradient, fit = riemannian.tangent_gradient(data, problem.mask, at)
    tangent = riemannian.solve_normal_equations(data, problem.mask, at, gradient, 1e-12, 1000)
    seen, residual = problem.mask.ravel(), (data - tucker_to_dense(*model)).ravel()
    assert fit == pytest.approx(np.sum(residual[seen] ** 2), rel=ROUNDING)
    solution = np.linalg.lstsq(basis[seen], residual[seen], rcond=None)[0]
    # Conjugate gradients to 1e-12 of the gradient; the smallest eigenvalue of the operator is above .01 here.
    assert np.linalg.svd(basis[seen], compute_uv=False)[-1] ** 2 > 0.01
    np.testing.assert_allclose(dense_tangent(at, tangent).ravel(), basis @ solution, atol=1e-9)


def test_normal_equations_stop_at_the_accuracy_and_at_the_largest_number(planted: Any) -> None:
    problem = planted((8, 9, 10), (2, 2, 2), seen=0.4)
    model = near(problem.truth, (2, 2, 2))
    at, basis = chart(model), tangent_basis(model)
    data, seen = np.where(problem.mask, problem.data, 0.0), problem.mask.ravel()
    gradient, _ = riemannian.tangent_gradient(data, problem.mask, at)

    def left(tangent: riemannian.Tangent) -> float:
        wanted = basis.T @ np.where(seen, (data - tucker_to_dense(*model)).ravel(), 0.0)
        image = basis.T @ np.where(seen, dense_tangent(at, tangent).ravel(), 0.0)
        return float(np.linalg.norm(wanted - image) / np.linalg.norm(wanted))

    remaining = [
        left(riemannian.solve_normal_equations(data, problem.mask, at, gradient, accuracy, 500))
        for accuracy in (0.1, 1e-3, 1e-6)
    ]
    for accuracy, of in zip((0.1, 1e-3, 1e-6), remaining, strict=True):
        assert accuracy / 100 < of <= accuracy * 1.001  # not much beyond what was asked for
    steps = [left(riemannian.solve_normal_equations(data, problem.mask, at, gradient, 0.0, n)) for n in (1, 3)]
    assert steps[1] < steps[0] < 1.0


def test_normal_equations_are_solved_in_as_many_steps_as_there_are_unknowns(planted: Any) -> None:
    # What tells conjugate gradients from steepest descent, which has gained two digits by then.
    problem = planted((4, 5, 6), (2, 2, 2), seen=0.8)
    model = near(problem.truth, (2, 2, 2))
    at, basis = chart(model), tangent_basis(model)
    data, seen = np.where(problem.mask, problem.data, 0.0), problem.mask.ravel()
    gradient, _ = riemannian.tangent_gradient(data, problem.mask, at)
    tangent = riemannian.solve_normal_equations(data, problem.mask, at, gradient, 0.0, basis.shape[1])
    exact = basis @ np.linalg.lstsq(basis[seen], (data - tucker_to_dense(*model)).ravel()[seen], rcond=None)[0]
    # In exact arithmetic the solution; rounding costs some digits of it.
    assert np.linalg.norm(dense_tangent(at, tangent).ravel() - exact) < 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize(("shape", "rank"), SMALL)
def test_retraction_is_of_second_order(planted: Any, shape: Any, rank: Any) -> None:
    truth = planted(shape, rank).truth
    model = near(truth, rank)
    at = chart(model)
    rng = np.random.default_rng(2)
    parts = riemannian.to_tangent(at, rng.standard_normal(rank), [rng.standard_normal(f.shape) for f in model.factors])
    xi, x = dense_tangent(at, parts), tucker_to_dense(*model)
    errors = []
    for t in (1e-2, 1e-3):
        core, factors = riemannian.retract(at, parts, t)
        for factor in factors:
            np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=ROUNDING)
        errors.append(np.linalg.norm(tucker_to_dense(core, factors) - (x + t * xi)))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)  # t^2, up to the third order at t = .01
    core, factors = riemannian.retract(at, parts, 0.0)
    np.testing.assert_allclose(tucker_to_dense(core, factors), x, atol=ROUNDING)


def test_chart_leaves_out_directions_in_which_the_core_is_zero(planted: Any) -> None:
    truth = planted((6, 7, 8), (2, 2, 2)).truth
    model = hosvd(truth, (3, 3, 3))  # one direction too many in every mode
    at = chart(model)
    for root, mode in zip(at.roots, range(3), strict=True):
        unfolded = unfold(at.core, mode)
        # A pseudo-inverse root of H: its square times H is a projection of rank two.
        projection = root @ root @ unfolded @ unfolded.T
        assert np.linalg.matrix_rank(projection, tol=1e-6) == 2
        np.testing.assert_allclose(projection @ projection, projection, atol=1e-8)


# ------------------------------------------------------------------------------------------------------------------
# Independent optimisers.


def test_full_data_converge_to_the_best_approximation_of_tensorly(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), noise=0.3)
    options = GaussNewtonOptions(tolerance=1e-12)
    result = riemannian_gauss_newton(problem.data, None, hosvd(problem.data, problem.rank), options=options)
    core, factors = tucker(problem.data, problem.rank, tol=1e-15, n_iter_max=2000)  # HOOI
    # HOOI is linear and ends at changes of 1e-15 of the error, 1e-8 of the model at a quadratic minimum.
    np.testing.assert_allclose(result.value, tucker_to_dense(core, factors), atol=1e-6)
    assert result.status is Status.CONVERGED


@pytest.mark.parametrize(("shape", "rank"), [((5, 6, 7), (2, 2, 2)), ((9, 8), (2, 2))])
def test_masked_fit_is_the_minimum_that_scipy_finds(planted: Any, shape: Any, rank: Any) -> None:
    problem = planted(shape, rank, seen=0.8, noise=0.1)
    start = near(problem.truth, rank)
    result = riemannian_gauss_newton(problem.data, problem.mask, start, options=GaussNewtonOptions(tolerance=1e-12))
    sizes = [math.prod(rank), *(n * r for n, r in zip(shape, rank, strict=True))]

    def model(x: np.ndarray) -> np.ndarray:
        core, *factors = np.split(x, np.cumsum(sizes)[:-1])
        return tucker_to_dense(
            core.reshape(rank), [f.reshape(n, r) for f, n, r in zip(factors, shape, rank, strict=True)]
        )

    flat = np.concatenate([np.ravel(start.core), *(np.ravel(factor) for factor in start.factors)])
    scipy_result = scipy.optimize.least_squares(
        lambda x: (problem.data - model(x))[problem.mask], flat, xtol=1e-15, ftol=1e-15, gtol=1e-12
    )
    value = model(scipy_result.x)
    # SciPy's Jacobian is by finite differences of 1e-8: its minimum is good to about that.
    np.testing.assert_allclose(result.value, value, atol=1e-6)
    ours = np.sum((problem.data - result.value)[problem.mask] ** 2) / 2
    assert ours == pytest.approx(scipy_result.cost, rel=1e-9)
    assert result.history[-1].residual * np.linalg.norm(problem.data[problem.mask]) == pytest.approx(
        math.sqrt(2 * ours), rel=1e-8
    )


# ------------------------------------------------------------------------------------------------------------------
# Planted truth.


@pytest.mark.parametrize(
    ("shape", "rank"),
    [((20, 21, 22), (3, 2, 3)), ((10, 11, 12, 13), (2, 2, 2, 2)), ((60, 50), (3, 3)), ((6, 5, 6, 7, 6), (2,) * 5)],
)
def test_gauss_newton_recovers_masked_tensors_quadratically(xp: Any, planted: Any, shape: Any, rank: Any) -> None:
    problem = planted(shape, rank, seen=0.5)
    start = near(problem.truth, rank, 0.3)
    model = TuckerTensor((xp.put(start.core), [xp.put(factor) for factor in start.factors]))
    result = riemannian_gauss_newton(xp.put(problem.data), xp.put(problem.mask), model)
    assert result.status is Status.CONVERGED
    assert result.iterations <= 8
    # Conjugate gradients are stopped at .01 of the gradient at most, so the last step of 1e-7 leaves 1e-9, a few times
    # that where the operator is ill-conditioned.
    assert problem.error(xp.take(result.value)) < 1e-8
    changes = [record.change for record in result.history]
    assert all(later < 0.1 * earlier for earlier, later in itertools.pairwise(changes[2:]))
    assert result.sparse.positions.shape == (0,)


def test_gauss_newton_needs_no_small_condition_of_the_core(planted: Any) -> None:
    rng = np.random.default_rng(3)
    factors = [np.linalg.qr(rng.standard_normal((n, 3)))[0] for n in (20, 21, 22)]
    core = rng.standard_normal((3, 3, 3))
    for mode in range(3):
        core = np.moveaxis(np.moveaxis(core, mode, -1) * [1.0, 0.05, 0.002], -1, mode)
    truth = 100 * tucker_to_dense(core, factors)
    mask = rng.random(truth.shape) < 0.6
    smallest = [np.linalg.svd(unfold(truth, mode), compute_uv=False)[2] for mode in range(3)]
    assert min(smallest) < 1e-4 * np.linalg.norm(truth)
    result = riemannian_gauss_newton(
        truth, mask, near(truth, (3, 3, 3), 1e-5), options=GaussNewtonOptions(tolerance=1e-12)
    )
    assert np.max(abs(result.value - truth)) < 1e-10 * np.max(abs(truth))  # a hundred times the tolerance


def test_trimming_leaves_out_the_outliers_and_nothing_else(xp: Any, planted: Any) -> None:
    problem = planted((20, 21, 22), (3, 2, 3), seen=0.5, outliers=0.1, size=(1.0, 3.0))
    start = near(problem.truth, problem.rank, 0.2)
    model = TuckerTensor((xp.put(start.core), [xp.put(factor) for factor in start.factors]))
    result = riemannian_gauss_newton(
        xp.put(problem.data), xp.put(problem.mask), model, options=GaussNewtonOptions(trim=5.0)
    )
    assert problem.error(xp.take(result.value)) < 1e-8
    outliers = xp.take(result.outliers)
    np.testing.assert_array_equal(outliers != 0, problem.support)
    difference = np.where(problem.support, problem.data - problem.truth, 0.0)
    np.testing.assert_allclose(outliers, difference, atol=1e-7)  # E is the whole deviation, not a shrunken one
    assert result.history[-1].outliers == np.count_nonzero(problem.support)


def test_trimming_of_noisy_data_attains_the_fit_on_the_true_support(planted: Any) -> None:
    problem = planted((20, 21, 22), (3, 2, 3), seen=0.5, outliers=0.1, size=(2.0, 4.0), noise=0.1)
    start = near(problem.truth, problem.rank, 0.2)
    trimmed = riemannian_gauss_newton(problem.data, problem.mask, start, options=GaussNewtonOptions(trim=5.0))
    oracle = riemannian_gauss_newton(problem.data, problem.mask & ~problem.support, start)
    # Beyond five standard deviations there is one inlier in two million, so both fit the same entries.
    np.testing.assert_array_equal(trimmed.outliers != 0, problem.support)
    np.testing.assert_allclose(trimmed.value, oracle.value, atol=1e-5)  # both within the tolerance of 1e-7
    # And the oracle's error is what least squares promises: sigma^2 dof / n per seen entry, times the tensor.
    freedom = math.prod(problem.rank) + sum(r * (n - r) for n, r in zip(problem.truth.shape, problem.rank, strict=True))
    count = np.count_nonzero(problem.mask & ~problem.support)
    # A chi-square of 150 degrees of freedom varies by 12 %, the squared error by five of those at most; its root half.
    assert problem.error(oracle.value) == pytest.approx(0.1 * math.sqrt(freedom / count), rel=0.3)


def test_without_trimming_outliers_do_harm(planted: Any) -> None:
    problem = planted((20, 21, 22), (3, 2, 3), seen=0.5, outliers=0.1, size=(1.0, 3.0))
    start = near(problem.truth, problem.rank, 0.2)
    assert problem.error(riemannian_gauss_newton(problem.data, problem.mask, start).value) > 0.03


def test_nonnegative_projects_the_value_only(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7)
    start = near(problem.truth, problem.rank)
    free = riemannian_gauss_newton(problem.data, problem.mask, start)
    projected = riemannian_gauss_newton(problem.data, problem.mask, start, nonnegative=True)
    np.testing.assert_array_equal(projected.value, np.maximum(free.value, 0.0))
    np.testing.assert_array_equal(projected.tucker.core, free.tucker.core)


# ------------------------------------------------------------------------------------------------------------------
# Invariances.


@given(axes=st.permutations(range(3)), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_gauss_newton_follows_a_permutation_of_the_axes(planted: Any, axes: list[int], seed: int) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, noise=0.1, outliers=0.05, seed=seed)
    start = near(problem.truth, problem.rank)
    options = GaussNewtonOptions(trim=5.0)
    plain = riemannian_gauss_newton(problem.data, problem.mask, start, options=options)
    permuted = riemannian_gauss_newton(
        np.transpose(problem.data, axes),
        np.transpose(problem.mask, axes),
        TuckerTensor((np.ascontiguousarray(np.transpose(start.core, axes)), [start.factors[n] for n in axes])),
        options=options,
    )
    # Small tensors: the subgrid is everything, so the thresholds are equal and the two runs differ by rounding.
    assert permuted.iterations == plain.iterations
    np.testing.assert_allclose(permuted.value, np.transpose(plain.value, axes), atol=1e-8)


@pytest.mark.parametrize("scale", [1e6, 1e-12, 1e12])
def test_gauss_newton_follows_the_scale_of_the_data(planted: Any, scale: float) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, noise=0.1, outliers=0.05)
    start = near(problem.truth, problem.rank)
    options = GaussNewtonOptions(trim=5.0)
    plain = riemannian_gauss_newton(problem.data, problem.mask, start, options=options)
    scaled = riemannian_gauss_newton(
        scale * problem.data, problem.mask, TuckerTensor((scale * start.core, start.factors)), options=options
    )
    assert scaled.iterations == plain.iterations
    np.testing.assert_allclose(scaled.value / scale, plain.value, atol=1e-10)  # rounding of the data, well conditioned
    np.testing.assert_allclose(scaled.outliers / scale, plain.outliers, atol=1e-10)


def test_gauss_newton_does_not_depend_on_the_bases_of_the_start(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, noise=0.1)
    start = near(problem.truth, problem.rank)
    rng = np.random.default_rng(4)
    mixes = [rng.standard_normal((r, r)) for r in problem.rank]  # any basis, not orthonormal
    mixed = TuckerTensor(
        (
            tucker_to_dense(start.core, [np.linalg.inv(mix) for mix in mixes]),
            [factor @ mix for factor, mix in zip(start.factors, mixes, strict=True)],
        )
    )
    plain, other = (riemannian_gauss_newton(problem.data, problem.mask, model) for model in (start, mixed))
    assert other.iterations == plain.iterations
    np.testing.assert_allclose(other.value, plain.value, atol=1e-9)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf])
def test_gauss_newton_ignores_what_stands_under_the_mask(planted: Any, garbage: float) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, outliers=0.05)
    start = near(problem.truth, problem.rank)
    options = GaussNewtonOptions(trim=5.0)
    data = np.where(problem.mask, problem.data, garbage)
    nan = riemannian_gauss_newton(problem.data, problem.mask, start, options=options)
    other = riemannian_gauss_newton(data, problem.mask, start, options=options)
    np.testing.assert_array_equal(other.value, nan.value)
    np.testing.assert_array_equal(other.outliers, nan.outliers)


# ------------------------------------------------------------------------------------------------------------------
# Resuming, records, how a run ends.


@pytest.mark.parametrize("trim", [None, 5.0])
@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("by", ["iterations", "callback"])
def test_resumed_equals_straight_bit_for_bit(planted: Any, trim: float | None, stop: int, by: str) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, noise=0.1, outliers=0.05)
    start = near(problem.truth, problem.rank, 0.3)

    def run(initial: Any, count: int, **more: Any) -> Any:
        options = GaussNewtonOptions(trim=trim, max_iterations=count, tolerance=0.0)
        return riemannian_gauss_newton(problem.data, problem.mask, initial, options=options, **more)

    straight = run(start, 6)
    if by == "iterations":
        first = run(start, stop)
        assert first.status is Status.MAX_ITERATIONS
    else:
        first = run(start, 6, callback=lambda record, state: record.iteration == stop)
        assert first.status is Status.STOPPED
    second = run(first.state, 6 - stop, history=first.history)
    assert second.iterations == straight.iterations
    np.testing.assert_array_equal(second.value, straight.value)
    np.testing.assert_array_equal(second.outliers, straight.outliers)
    for name in ("iteration", "stage", "change", "residual", "outliers", "threshold"):
        assert [getattr(r, name) for r in second.history] == [getattr(r, name) for r in straight.history]


def test_history_is_recomputed_from_observed_entries(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, noise=0.1, outliers=0.05)
    models: list[np.ndarray] = []

    def callback(record: IterationRecord, state: GaussNewtonState) -> None:
        models.append(tucker_to_dense(state.core, state.factors))

    start = near(problem.truth, problem.rank, 0.3)
    result = riemannian_gauss_newton(
        problem.data, problem.mask, start, options=GaussNewtonOptions(trim=5.0), callback=callback
    )
    seen = problem.mask
    for before, after, record in zip([tucker_to_dense(*start), *models], models, result.history, strict=False):
        residual = (problem.data - before)[seen]
        flagged = abs(residual) > record.threshold  # E takes the whole residual there
        expected = np.linalg.norm(residual[~flagged]) / np.linalg.norm(problem.data[seen])
        assert record.residual == pytest.approx(expected, rel=1e-6)  # float32 while the model is far
        assert record.outliers == np.count_nonzero(flagged)
        assert record.stage == "polish"
        # The length of the tangent step, over the model: that of the move to first order.
        moved = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert record.change == pytest.approx(moved, rel=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_a_start_far_away_ends_with_a_sentence_and_never_much_worse(planted: Any, seed: int) -> None:
    problem = planted((12, 13), (2, 2), seen=0.5, seed=seed)  # few samples: full steps would often go astray
    start = hosvd(np.random.default_rng(seed).standard_normal(problem.truth.shape), problem.rank)
    result = riemannian_gauss_newton(problem.data, problem.mask, start, options=GaussNewtonOptions(max_iterations=30))
    assert result.status in (Status.CONVERGED, Status.MAX_ITERATIONS, Status.STALLED)
    residuals = [record.residual for record in result.history]
    # Backtracking lets the residual grow by 2 % a step at most.
    assert all(later <= 1.021 * earlier for earlier, later in itertools.pairwise(residuals))


def test_a_small_step_is_not_taken_for_the_end_while_the_threshold_falls(planted: Any) -> None:
    # Outliers of 7 to 8 standard deviations pass the first threshold, of twice five, and the model hardly moves.
    problem = planted((20, 21, 22), (2, 2, 2), seen=0.5, outliers=0.01, size=(0.07, 0.08), noise=0.01)
    oracle = riemannian_gauss_newton(problem.data, problem.mask, hosvd(problem.truth, problem.rank))
    result = riemannian_gauss_newton(
        problem.data, problem.mask, oracle.tucker, options=GaussNewtonOptions(trim=5.0, tolerance=0.01)
    )
    assert result.history[0].change < 0.01
    count = np.count_nonzero(problem.support)
    # Their own noise takes a few of them over either threshold.
    assert result.history[0].outliers < 0.1 * count
    assert result.history[-1].outliers > 0.9 * count


def test_runs_are_deterministic(planted: Any) -> None:
    problem = planted((20, 21, 22), (3, 2, 3), seen=0.5, outliers=0.1)
    start = near(problem.truth, problem.rank, 0.2)
    first, second = (
        riemannian_gauss_newton(problem.data, problem.mask, start, options=GaussNewtonOptions(trim=5.0))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.value, second.value)


def test_the_start_is_not_written(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7)
    start = near(problem.truth, problem.rank)
    copies = [start.core.copy(), *(factor.copy() for factor in start.factors)]
    riemannian_gauss_newton(problem.data, problem.mask, start)
    for array, copy in zip((start.core, *start.factors), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_keep_the_precision_of_the_data(planted: Any, dtype: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, outliers=0.05)
    start = near(problem.truth, problem.rank)
    result = riemannian_gauss_newton(
        problem.data.astype(dtype), problem.mask, start, options=GaussNewtonOptions(trim=5.0)
    )
    assert {array.dtype for array in (result.value, result.outliers, result.tucker.core, *result.tucker.factors)} == {
        np.dtype(dtype)
    }
    # In double precision the run ends at its tolerance, in single at what rounding of the data leaves.
    assert problem.error(result.value) < (1e-8 if dtype is np.float64 else 1e-6)


# ------------------------------------------------------------------------------------------------------------------
# Errors.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trim": 0.0}, "expected a positive trim or None, got 0.0"),
        ({"trim": math.nan}, "expected a positive trim or None, got nan"),
        ({"inner_iterations": 0}, "expected at least one iteration, got inner_iterations=0, max_iterations=50"),
        ({"max_iterations": 0}, "expected at least one iteration, got inner_iterations=30, max_iterations=0"),
        ({"tolerance": -1.0}, "expected a tolerance of at least 0, got -1.0"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussNewtonOptions(**changes)


def test_a_start_of_another_shape_is_refused(planted: Any) -> None:
    start = hosvd(np.ones((4, 5, 6)), (1, 1, 1))
    with pytest.raises(ValueError, match=r"start has shape \(4, 5, 6\), data has shape \(4, 5, 7\)"):
        riemannian_gauss_newton(np.ones((4, 5, 7)), None, start)


def test_a_start_with_another_number_of_modes_is_refused() -> None:
    start = hosvd(np.ones((4, 5, 6)), (1, 1, 1))
    with pytest.raises(ValueError, match="rank has 3 entries, data has 2 axes"):
        riemannian_gauss_newton(np.ones((4, 5)), None, start)
