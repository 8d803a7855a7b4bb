"""ADMM against a dense implementation of its equations, closed forms, planted truth and itself resumed."""

from __future__ import annotations

import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tucker
from threadpoolctl import ThreadpoolController

from tensorcell.solvers import (
    AdmmOptions,
    AdmmState,
    IterationRecord,
    Status,
    admm,
    hosvd,
    robust_tucker_admm,
    tucker_to_dense,
    unfold,
)
from tensorcell.solvers.iteration import Measures
from tensorcell.solvers.problem import Problem

# ------------------------------------------------------------------------------------------------------------------
# The same iteration, written down densely: E, L, X, T and the unfoldings are all stored.


class Dense(NamedTuple):
    """State of the dense iteration; the model is kept as core and factors."""

    core: np.ndarray
    factors: list[np.ndarray]
    dual: np.ndarray
    tau: float
    previous: np.ndarray
    momentum: float
    change: float
    step: float = 1.0


def full(core: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
    """``G x_1 U_1 ... x_k U_k``, one mode after another."""
    for mode, factor in enumerate(factors):
        core = np.moveaxis(np.tensordot(factor, core, (1, mode)), 0, mode)
    return core


def dense_sweep(
    y: np.ndarray, w: np.ndarray, s: Dense, o: AdmmOptions, nonnegative: bool, iteration: int, start: float
) -> tuple[Dense, float, int]:
    """One sweep; also the relative residual and the number of outliers."""
    rank, modes = s.core.shape, range(y.ndim)
    core, factors, momentum = s.core, s.factors, 1.0
    model = full(core, factors)
    if o.acceleration:
        momentum = (1 + math.sqrt(1 + 4 * s.momentum**2)) / 2
        ahead = model + (s.momentum - 1) / momentum * (model - s.previous)
        factors = [np.linalg.svd(unfold(ahead, n), full_matrices=False)[0][:, : rank[n]] for n in modes]
        core = full(ahead, [u.T for u in factors])
    x = full(core, factors)
    gamma = o.relaxation if o.fidelity == "equality" else 1.0
    dual = s.dual.copy()
    scaled = np.where(w, dual, 0.0) if o.fidelity == "equality" else np.zeros_like(y)
    r = np.where(w, y - x - scaled, 0.0)
    e = np.sign(r) * np.maximum(abs(r) - s.tau, 0.0)  # RCT Eq. 11: the proximal map of lambda ||E||_1 / rho
    target = np.where(w, y - e, x)
    if o.fidelity == "equality":  # RCT Eq. 12, relaxed; in the target of the fit with the new dual
        dual = np.where(w, dual + gamma * (x + e - y), dual)
        target = np.where(w, y - e - dual, target)
    if nonnegative:
        z = np.maximum(x + dual, 0.0)
        dual = np.where(w, dual, dual + gamma * (x - z))
        target = np.where(w, target, z - dual)
    target = x + s.step * (target - x)
    new_factors = []
    for n in modes:  # RCT Eq. 23 with the Kronecker structure: M_n = T_(n) (G x_{m != n} U_m)_(n)'
        others = full(core, [np.eye(rank[m]) if m == n else factors[m] for m in modes])
        new_factors.append(scipy.linalg.polar(unfold(target, n) @ unfold(others, n).T)[0])
    new_core = full(target, [u.T for u in factors])  # in the old subspaces, then turned into the new ones
    new_core = full(new_core, [new.T @ old for new, old in zip(new_factors, factors, strict=True)]) / (1 + o.ridge)
    new_model = full(new_core, new_factors)
    change, step = float(np.linalg.norm(new_model - model)), s.step
    if change > s.change:
        momentum, step = 1.0, max(1.0, s.step / 2)
    residual = float(np.linalg.norm((y - x - e)[w]) / np.linalg.norm(y[w]))
    tau, relative = s.tau, change / float(np.linalg.norm(new_model))
    if o.adaptive and o.fidelity == "equality" and (iteration + 1) % 10 == 0:
        factor = 0.5 if residual > 10 * relative else 2.0 if relative > 10 * residual else 1.0
        tau = min(8 * start, max(start / 8, factor * tau))
        dual = dual * (tau / s.tau)
    if o.adaptive and o.fidelity == "huber" and o.threshold is None and (iteration + 1) % 10 == 0:
        residuals = np.sort(
            abs(y - new_model)[w]
        )  # the median and the upper quartile of |N(0, 1)| are .6745 and 1.1503
        robust = max(residuals[len(residuals) // 2] / 0.6745, residuals[3 * len(residuals) // 4] / 1.1503)
        tau = min(tau, max(2.5 * robust, tau / 2))
    return Dense(new_core, new_factors, dual, tau, model, momentum, change, step), residual, int(np.count_nonzero(e))


VARIANTS = [
    pytest.param({"fidelity": fidelity, **more}, nonnegative, id=f"{fidelity}-{name}-{'nonnegative' * nonnegative}")
    for fidelity, (name, more), nonnegative in itertools.product(
        ("equality", "huber"),
        {
            "plain": {"relaxation": 1.0, "adaptive": False, "acceleration": False},
            "relaxed": {"relaxation": 1.6, "adaptive": False, "acceleration": False, "ridge": 0.05},
            "accelerated": {"relaxation": 1.3, "adaptive": False, "acceleration": True},
            "adaptive": {"acceleration": False},
        }.items(),
        (False, True),
    )
]


@pytest.mark.parametrize(("changes", "nonnegative"), VARIANTS)
@pytest.mark.parametrize(("shape", "rank"), [((9, 11, 10), (2, 3, 2)), ((8, 9), (2, 2)), ((5, 6, 4, 5), (2, 2, 2, 2))])
def test_step_equals_the_dense_iteration(
    planted: Any, shape: Any, rank: Any, changes: dict[str, Any], nonnegative: bool
) -> None:
    problem = planted(shape, rank, seen=0.7, outliers=0.1, size=(1.0, 4.0), nonnegative=nonnegative, noise=0.05)
    y, w = np.where(problem.mask, problem.data, 0.0), problem.mask
    options = AdmmOptions(**changes)
    checked = Problem(y, w)
    state = admm.init(checked, rank, options, nonnegative)
    dual = np.zeros_like(y) if state.dual is None else state.dual.copy()
    tau, first = state.threshold, full(state.core, list(state.factors))
    dense = Dense(state.core, list(state.factors), dual, tau, first, 1.0, math.inf)
    for iteration in range(22):  # the threshold is adapted twice
        state, measures = admm.step(checked, state, options, nonnegative)
        dense, residual, outliers = dense_sweep(y, w, dense, options, nonnegative, iteration, tau)
        model = full(state.core, list(state.factors))
        # Rounding of 1e-15 a sweep, let grow by the iteration (it is not a contraction from the start).
        np.testing.assert_allclose(model, full(dense.core, dense.factors), atol=1e-10)
        if state.dual is not None:
            np.testing.assert_allclose(state.dual, dense.dual, atol=1e-10)
        assert state.threshold == pytest.approx(dense.tau, rel=1e-10)
        assert state.momentum == pytest.approx(dense.momentum)
        assert measures.residual == pytest.approx(residual, rel=1e-8)
        assert measures.change == pytest.approx(dense.change / np.linalg.norm(model), rel=1e-6)
        assert measures.outliers == outliers
        for factor in state.factors:
            np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-12)


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize(("shape", "rank"), [((9, 11, 10), (2, 3, 2)), ((8, 9), (2, 2)), ((5, 6, 4, 5), (2, 2, 2, 2))])
def test_long_step_equals_the_dense_iteration(planted: Any, shape: Any, rank: Any, times: int) -> None:
    problem = planted(shape, rank, seen=0.7, outliers=0.1, size=(1.0, 4.0), noise=0.05)
    y, w = np.where(problem.mask, problem.data, 0.0), problem.mask
    options, checked = AdmmOptions(fidelity="huber", acceleration=False), Problem(y, w)
    state = admm.long_init(checked, rank, options)
    assert state.step == pytest.approx(1 / np.mean(w))
    state = state._replace(step=times * state.step)
    steps = [state.step]
    first = full(state.core, list(state.factors))
    dense = Dense(
        state.core, list(state.factors), np.zeros_like(y), state.threshold, first, 1.0, math.inf, step=state.step
    )
    for iteration in range(12):
        state, measures = admm.step(checked, state, options, False)
        dense, residual, outliers = dense_sweep(y, w, dense, options, False, iteration, state.start)
        model = full(state.core, list(state.factors))
        np.testing.assert_allclose(model, full(dense.core, dense.factors), atol=1e-10)
        assert state.step == dense.step
        assert measures.residual == pytest.approx(residual, rel=1e-8)
        assert measures.outliers == outliers
        # What the same direction would have moved at length 1, so that a limit means the same whatever the step.
        assert measures.change * np.linalg.norm(model) * steps[-1] == pytest.approx(dense.change, rel=1e-6)
        steps.append(state.step)
    assert (min(steps) < steps[0]) or times == 1  # five times the inverse of the sampling ratio overshoots


def test_adapt_balances_the_residuals_within_its_limits(xp: Any) -> None:
    def after(iteration: int, primal: float, change: float, threshold: float = 4.0) -> tuple[float, np.ndarray]:
        core = xp.put(np.ones((1, 1)))
        dual = np.ones((2, 3)) if xp.name == "read-only" else xp.put(np.ones((2, 3)))
        factors = (core, core)
        state = AdmmState(core, factors, dual, threshold, 4.0, iteration, (core, factors), 1.0, 1.0)
        grid: Any = None  # read by the other fidelity only
        new = admm.adapt(state, Measures(change, primal, 0, 0.0), grid, AdmmOptions())
        return new.threshold, xp.take(new.dual)

    for iteration, primal, change, expected in (
        (10, 1.0, 0.09, 2.0),  # a large primal residual asks for a larger rho, that is a smaller tau
        (100, 0.09, 1.0, 8.0),
        (20, 1.0, 0.2, 4.0),  # balanced
        (11, 1.0, 0.0, 4.0),  # every ten sweeps
        (110, 1.0, 0.0, 4.0),  # of the first hundred
    ):
        threshold, dual = after(iteration, primal, change)
        assert threshold == expected
        np.testing.assert_array_equal(dual, expected / 4.0)  # the multiplier itself stays: L rho is constant
    assert after(10, 1.0, 0.0, threshold=0.5)[0] == 0.5  # an eighth of the start
    assert after(10, 0.0, 1.0, threshold=32.0)[0] == 32.0  # eight times the start


@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_threshold_of_data_that_are_mostly_zero_is_that_of_the_others(unit: float) -> None:
    data = np.zeros((9, 10, 11))
    data[4, 5, 6], data[1, 2, 3] = 7.0 * unit, 3.0 * unit
    state = admm.init(Problem(data, np.ones(data.shape, bool)), (1, 1, 1), AdmmOptions(), False)
    residual = data - full(state.core, list(state.factors))
    assert np.median(abs(residual)) == 0.0  # so that a robust standard deviation tells nothing
    assert state.threshold == pytest.approx(2.5 * np.sqrt(np.mean(residual**2)))


def test_variants_do_differ(planted: Any) -> None:
    # Otherwise the comparison above would prove nothing about the parts: each option moves the iterates.
    problem = planted((9, 11, 10), (2, 3, 2), seen=0.7, outliers=0.1, size=(1.0, 4.0), nonnegative=True, noise=0.05)
    models = []
    for variant in VARIANTS:
        changes, nonnegative = variant.values
        result = robust_tucker_admm(
            problem.data, problem.mask, problem.rank, nonnegative=bool(nonnegative),
            options=AdmmOptions(**changes, max_iterations=22, tolerance=0.0),  # type: ignore[arg-type]
        )  # fmt: skip
        models.append(tucker_to_dense(*result.tucker))
    for (i, a), (j, b) in itertools.combinations(enumerate(models), 2):
        # A Huber fit without a constraint has no dual, so nothing to relax: those differ by the ridge alone.
        assert np.max(abs(a - b)) > 1e-6, (VARIANTS[i].id, VARIANTS[j].id)


# ------------------------------------------------------------------------------------------------------------------
# Closed forms.


@pytest.mark.parametrize("fidelity", ["equality", "huber"])
def test_full_data_without_outliers_are_a_fixed_point(xp: Any, planted: Any, fidelity: Any) -> None:
    truth = planted((12, 13, 14), (2, 3, 2)).truth
    options = AdmmOptions(fidelity=fidelity, threshold=100.0)  # above every entry: nothing is an outlier
    result = robust_tucker_admm(xp.put(truth), None, (2, 3, 2), options=options)
    np.testing.assert_allclose(xp.take(result.value), truth, atol=1e-6)  # ten times the tolerance, entries to 10
    assert result.status is Status.CONVERGED
    assert result.sparse.positions.shape == (0,)


def test_full_data_with_noise_converge_to_the_best_approximation_of_tensorly(planted: Any) -> None:
    problem = planted((12, 13, 14), (2, 3, 2), noise=0.3)
    options = AdmmOptions(fidelity="huber", threshold=1e6, tolerance=1e-12, max_iterations=2000)
    result = robust_tucker_admm(problem.data, None, problem.rank, options=options)
    core, factors = tucker(problem.data, problem.rank, tol=1e-15, n_iter_max=2000)  # HOOI
    # Both end where the model moves by 1e-12; the best approximation is nearer than 1e-9 to both.
    np.testing.assert_allclose(result.value, tucker_to_dense(core, factors), atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 0.25, 1.0])
def test_ridge_divides_the_model_of_full_data(planted: Any, ridge: float) -> None:
    # min 1/2 ||Y - X||^2 + ridge/2 ||G||^2 with Y of that rank: X = Y / (1 + ridge).
    truth = planted((10, 11, 12), (2, 2, 2)).truth
    options = AdmmOptions(fidelity="huber", threshold=1e6, ridge=ridge, tolerance=1e-12)
    result = robust_tucker_admm(truth, None, 2, options=options)
    np.testing.assert_allclose(result.value, truth / (1 + ridge), atol=1e-9)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_huber_fit_of_masked_data_is_stationary(planted: Any, nonnegative: bool) -> None:
    # At the end psi = clip(Y - X, -tau, tau) on observed entries, minus the multiplier of X >= 0 on the others, obeys
    # psi x U' = ridge G, and contracted in all modes but n it lies in span(U_n).
    problem = planted((10, 11, 12), (2, 2, 2), seen=0.6, outliers=0.1, noise=0.1, nonnegative=nonnegative)
    options = AdmmOptions(
        fidelity="huber", threshold=0.3, ridge=0.01, tolerance=1e-11, max_iterations=2000, acceleration=False
    )
    result = robust_tucker_admm(problem.data, problem.mask, 2, options=options, nonnegative=nonnegative)
    core, factors = result.tucker
    model = tucker_to_dense(core, factors)
    psi = np.where(problem.mask, np.clip(problem.data - model, -0.3, 0.3), 0.0)
    if nonnegative:
        free, multiplier = model[~problem.mask], result.state.dual[~problem.mask]
        psi[~problem.mask] = -multiplier
        assert np.all(multiplier <= 0)
        assert np.min(multiplier) < -0.1  # the constraint does act
        # Feasible and complementary, as far as a multiplier that still moves lets them.
        assert np.min(free) > -1e-3
        assert np.max(abs(multiplier * free)) < 1e-3
    # The model moves by less than 1e-7 of its norm (36) in the last sweep.
    assert result.history[-1].change < 1e-7
    np.testing.assert_allclose(full(psi, [u.T for u in factors]), 0.01 * core, atol=1e-5)
    for n in range(3):
        contracted = unfold(full(psi, [np.eye(10 + n) if m == n else u.T for m, u in enumerate(factors)]), n)
        outside = contracted - factors[n] @ (factors[n].T @ contracted)
        assert np.max(abs(outside @ unfold(core, n).T)) < 1e-3  # times the core, norm 36


def test_equality_of_the_end_has_a_sparse_part_that_explains_the_data(planted: Any) -> None:
    problem = planted((15, 16, 17), (2, 2, 2), seen=0.6, outliers=0.1, size=(1.0, 3.0))
    result = robust_tucker_admm(problem.data, problem.mask, 2)
    misfit = (result.value + result.outliers - problem.data)[problem.mask]
    assert np.linalg.norm(misfit) < 1e-6 * np.linalg.norm(problem.data[problem.mask])  # primal residual at the end
    # The multiplier is a subgradient of ||E||_1: tau sign(E) (up to the sign convention) on the support, inside
    # [-tau, tau] elsewhere.
    dual, tau = result.state.dual, result.state.threshold
    assert np.max(abs(dual[problem.mask])) <= tau * (1 + 1e-6)
    on = result.outliers != 0
    np.testing.assert_allclose(dual[on], -tau * np.sign(result.outliers[on]), atol=1e-5 * tau)


# ------------------------------------------------------------------------------------------------------------------
# Planted truth.


@pytest.mark.parametrize("size", [(10.0, 10.0), (1.0, 3.0)], ids=["far", "near"])
@pytest.mark.parametrize(
    ("shape", "rank", "seen", "outliers"),
    [
        ((24, 25, 26), (3, 2, 3), 0.5, 0.0),
        ((24, 25, 26), (3, 2, 3), 0.5, 0.1),
        ((10, 11, 12, 13), (2, 2, 2, 2), 0.5, 0.1),
        ((80, 90), (3, 3), 0.6, 0.05),
        ((6, 5, 6, 7, 6), (2, 2, 2, 2, 2), 0.5, 0.05),
    ],
    ids=["3-clean", "3", "4", "2", "5"],
)
def test_admm_recovers_planted_tensors(
    xp: Any, planted: Any, shape: Any, rank: Any, seen: float, outliers: float, size: Any
) -> None:
    problem = planted(shape, rank, seen=seen, outliers=outliers, size=size)
    result = robust_tucker_admm(xp.put(problem.data), xp.put(problem.mask), rank)
    assert result.status is Status.CONVERGED
    # Convergence is linear with a rate below .9 here, so the error is at most ten times the last move of 1e-7.
    assert problem.error(xp.take(result.value)) < 2e-6
    np.testing.assert_array_equal(xp.take(result.outliers) != 0, problem.support)
    assert result.history[-1].outliers == np.count_nonzero(problem.support)


def test_huber_finds_outliers_among_noise(planted: Any) -> None:
    problem = planted((24, 25, 26), (3, 2, 3), seen=0.5, outliers=0.1, size=(2.0, 4.0), noise=0.1)
    result = robust_tucker_admm(problem.data, problem.mask, problem.rank, options=AdmmOptions(fidelity="huber"))
    naive = hosvd(np.where(problem.mask, problem.data, 0.0) / 0.5, problem.rank)
    assert problem.error(result.value) < 0.1 * problem.error(tucker_to_dense(*naive))
    # The threshold has found the noise: 2.5 times .1, enlarged by the outliers among the ordered residuals (the 3/4
    # quantile of all is the 5/6 quantile of the inliers: 1.38 / 1.15 = 1.2 times), and it flags the tail beyond it.
    threshold = result.state.threshold
    assert 0.25 < threshold < 1.3 * 0.25
    flagged = result.outliers != 0
    assert np.all(flagged[problem.support])  # at least 20 standard deviations
    inliers = problem.mask & ~problem.support
    tail, count = math.erfc(threshold / 0.1 / math.sqrt(2)), np.count_nonzero(inliers)
    assert abs(np.count_nonzero(flagged[inliers]) - count * tail) < 5 * math.sqrt(count * tail)  # Poisson


def test_nonnegative_helps_where_nothing_was_observed(planted: Any) -> None:
    for seed in range(3):
        problem = planted((15, 16, 17), (3, 3, 3), seen=0.25, nonnegative=True, noise=0.1, seed=seed)
        options = AdmmOptions(fidelity="huber", tolerance=1e-5)
        errors, lowest = [], []
        for nonnegative in (False, True):
            result = robust_tucker_admm(
                problem.data, problem.mask, problem.rank, options=options, nonnegative=nonnegative
            )
            # Projected in both cases: what is left is what the constraint does to the fit.
            value = np.maximum(result.value, 0.0)
            errors.append(np.linalg.norm((value - problem.truth)[~problem.mask]))
            lowest.append(np.min(tucker_to_dense(*result.tucker)[~problem.mask]))
        assert np.min(result.value) >= 0
        assert lowest[1] > 0.1 * lowest[0]  # nearly so before the projection
        assert errors[1] < 0.97 * errors[0]


# ------------------------------------------------------------------------------------------------------------------
# Invariances.


@given(axes=st.permutations(range(3)), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_admm_follows_a_permutation_of_the_axes(planted: Any, axes: list[int], seed: int) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1, noise=0.1, seed=seed)
    options = AdmmOptions(max_iterations=15, tolerance=0.0)
    plain = robust_tucker_admm(problem.data, problem.mask, problem.rank, options=options)
    permuted = robust_tucker_admm(
        np.transpose(problem.data, axes), np.transpose(problem.mask, axes), [problem.rank[axis] for axis in axes],
        options=options,
    )  # fmt: skip
    # Rounding of 1e-15 a sweep, which the first, still expanding sweeps enlarge.
    np.testing.assert_allclose(permuted.value, np.transpose(plain.value, axes), atol=1e-9)
    np.testing.assert_allclose(permuted.outliers, np.transpose(plain.outliers, axes), atol=1e-9)


@pytest.mark.parametrize("fidelity", ["equality", "huber"])
@pytest.mark.parametrize("scale", [1e6, 1e-12, 1e12])
def test_admm_follows_the_scale_of_the_data(planted: Any, fidelity: Any, scale: float) -> None:
    problem = planted((13, 14, 15), (2, 3, 2), seen=0.6, outliers=0.1)
    plain, scaled = (
        robust_tucker_admm(factor * problem.data, problem.mask, problem.rank, options=AdmmOptions(fidelity=fidelity))
        for factor in (1.0, scale)
    )
    assert plain.status is Status.CONVERGED
    assert scaled.iterations == plain.iterations
    assert scaled.status is plain.status
    # The scaling rounds the data; sweeps that contract keep the difference near 1e-15.
    np.testing.assert_allclose(scaled.value / scale, plain.value, rtol=0, atol=1e-11)
    np.testing.assert_allclose(scaled.outliers / scale, plain.outliers, rtol=0, atol=1e-11)
    assert scaled.state.threshold / scale == pytest.approx(plain.state.threshold, rel=1e-11)


@pytest.mark.parametrize("fidelity", ["equality", "huber"])
def test_admm_follows_a_power_of_two_bit_for_bit(planted: Any, fidelity: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1, nonnegative=True)
    options = AdmmOptions(fidelity=fidelity, max_iterations=30, tolerance=0.0)
    plain, scaled = (
        robust_tucker_admm(factor * problem.data, problem.mask, problem.rank, options=options, nonnegative=True)
        for factor in (1.0, 2.0**20)  # changes exponents only: no constant of the method has the unit of the data
    )
    np.testing.assert_array_equal(scaled.value / 2.0**20, plain.value)
    np.testing.assert_array_equal(scaled.state.dual / 2.0**20, plain.state.dual)


@pytest.mark.parametrize("fidelity", ["equality", "huber"])
@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf])
def test_admm_ignores_what_stands_under_the_mask(planted: Any, fidelity: Any, garbage: float) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1, nonnegative=True)
    options = AdmmOptions(fidelity=fidelity, max_iterations=12)
    data = np.where(problem.mask, problem.data, garbage)
    nan, other = (
        robust_tucker_admm(array, problem.mask, problem.rank, options=options, nonnegative=True)
        for array in (problem.data, data)
    )
    np.testing.assert_array_equal(other.value, nan.value)
    np.testing.assert_array_equal(other.outliers, nan.outliers)
    np.testing.assert_array_equal(other.state.dual, nan.state.dual)


@pytest.mark.parametrize("mode", range(3))
def test_admm_of_full_data_follows_a_rotation_along_a_mode(planted: Any, mode: int) -> None:
    # Least squares of full data knows no basis (outliers and masks do).
    problem = planted((9, 10, 11), (2, 3, 2), noise=0.2)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((9 + mode, 9 + mode)))[0]
    turned = np.moveaxis(np.tensordot(turn, problem.data, (1, mode)), 0, mode)
    options = AdmmOptions(fidelity="huber", threshold=1e6, tolerance=1e-12, max_iterations=1000)
    plain, other = (robust_tucker_admm(data, None, problem.rank, options=options) for data in (problem.data, turned))
    expected = np.moveaxis(np.tensordot(turn, plain.value, (1, mode)), 0, mode)
    np.testing.assert_allclose(other.value, expected, atol=1e-8)  # both within 1e-9 of the best approximation


# ------------------------------------------------------------------------------------------------------------------
# Resuming, callbacks, history.

RESUMED = [
    pytest.param({"fidelity": "equality"}, False, id="equality"),
    pytest.param({"fidelity": "equality", "acceleration": True}, True, id="equality-accelerated-nonnegative"),
    pytest.param({"fidelity": "huber"}, False, id="huber"),
    pytest.param({"fidelity": "huber"}, True, id="huber-nonnegative"),
]


@pytest.mark.parametrize(("changes", "nonnegative"), RESUMED)
@pytest.mark.parametrize("stop", [1, 10, 13])
@pytest.mark.parametrize("by", ["iterations", "callback"])
def test_resumed_equals_straight_bit_for_bit(
    planted: Any, changes: dict[str, Any], nonnegative: bool, stop: int, by: str
) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1, nonnegative=nonnegative)

    def run(count: int, **more: Any) -> Any:
        options = AdmmOptions(**changes, max_iterations=count, tolerance=0.0)
        return robust_tucker_admm(
            problem.data, problem.mask, problem.rank, options=options, nonnegative=nonnegative, **more
        )

    straight = run(25)
    if by == "iterations":
        first = run(stop)
        assert first.status is Status.MAX_ITERATIONS
    else:
        first = run(25, callback=lambda record, state: record.iteration == stop)
        assert first.status is Status.STOPPED
    kept = None if first.state.dual is None else first.state.dual.copy()
    second = run(25 - stop, initial_state=first.state)
    np.testing.assert_array_equal(second.value, straight.value)
    np.testing.assert_array_equal(second.outliers, straight.outliers)
    for a, b in zip(flat(second.state), flat(straight.state), strict=True):
        np.testing.assert_array_equal(a, b)
    joined = [*first.history, *second.history]
    for name in ("change", "residual", "outliers", "threshold"):
        assert [getattr(r, name) for r in joined] == [getattr(r, name) for r in straight.history]
    if kept is not None:  # the caller's state is not written
        np.testing.assert_array_equal(first.state.dual, kept)
        assert not np.array_equal(second.state.dual, kept)


def flat(state: AdmmState) -> list[Any]:
    """All arrays and numbers of a state."""
    arrays = [state.core, *state.factors, state.previous[0], *state.previous[1]]
    return [*arrays, 0.0 if state.dual is None else state.dual, *state[3:6], state.momentum, state.change, state.step]


# ------------------------------------------------------------------------------------------------------------------
# Long steps.


def long_sweeps(problem: Any, count: int, start: AdmmState | None = None, *, tolerance: float = 0.0) -> Any:
    """Huber sweeps from :func:`admm.long_init`, or from a state."""
    checked = Problem(problem.data, problem.mask)
    options = AdmmOptions(fidelity="huber", max_iterations=count, tolerance=tolerance)
    start = admm.long_init(checked, problem.rank, options) if start is None else start
    return admm.admm_sweeps(checked, problem.rank, options, False, None, start)


@pytest.mark.parametrize("stop", [1, 4, 10, 13])
def test_long_sweeps_resumed_equal_straight_bit_for_bit(planted: Any, stop: int) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.3, outliers=0.1)
    straight = long_sweeps(problem, 25)
    first = long_sweeps(problem, stop)
    options = AdmmOptions(fidelity="huber", max_iterations=25 - stop, tolerance=0.0)
    second = robust_tucker_admm(problem.data, problem.mask, problem.rank, options=options, initial_state=first[0])
    for a, b in zip(flat(second.state), flat(straight[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    joined = [*first[2], *second.history]
    assert [record.change for record in joined] == [record.change for record in straight[2]]
    short = robust_tucker_admm(
        problem.data, problem.mask, problem.rank, options=options, initial_state=first[0]._replace(step=1.0)
    )
    assert not np.array_equal(short.value, second.value)  # the length of the steps is a part of the state


def test_long_sweeps_follow_a_power_of_two_bit_for_bit(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.3, outliers=0.1, noise=0.05)
    plain = long_sweeps(problem, 25)
    scaled = long_sweeps(problem._replace(data=2.0**20 * problem.data), 25)
    np.testing.assert_array_equal(scaled[0].core / 2.0**20, plain[0].core)
    for a, b in zip(scaled[0].factors, plain[0].factors, strict=True):
        np.testing.assert_array_equal(a, b)
    assert scaled[0].step == plain[0].step
    assert [record.change for record in scaled[2]] == [record.change for record in plain[2]]


def test_a_step_is_halved_where_the_move_grows_and_never_below_one(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.3)
    checked, options = Problem(problem.data, problem.mask), AdmmOptions(fidelity="huber")
    state = admm.long_init(checked, problem.rank, options)
    for length, before, after in ((4.0, math.inf, 4.0), (4.0, 0.0, 2.0), (1.5, 0.0, 1.0), (1.0, 0.0, 1.0)):
        new, _ = admm.step(checked, state._replace(step=length, change=before), options, False)
        assert new.step == after


def test_halving_makes_steps_converge_that_are_too_long(planted: Any) -> None:
    problem = planted((20, 21, 22), (2, 3, 2), seen=0.3)
    checked, options = Problem(problem.data, problem.mask), AdmmOptions(fidelity="huber")
    state = admm.long_init(checked, problem.rank, options)
    halved = kept = state._replace(step=4 * state.step)
    for _ in range(60):
        halved, _ = admm.step(checked, halved, options, False)
        kept, _ = admm.step(checked, kept, options, False)
        kept = kept._replace(step=4 * state.step)
    assert problem.error(tucker_to_dense(halved.core, halved.factors)) < 1e-3
    assert not problem.error(tucker_to_dense(kept.core, kept.factors)) < 0.1  # as it would go without


def test_long_sweeps_save_sweeps(planted: Any) -> None:
    # A sweep of length 1 moves the model by the sampling ratio times its error, one of its inverse by the whole.
    problem = planted((20, 21, 22), (2, 3, 2), seen=0.3, outliers=0.05)
    options = AdmmOptions(fidelity="huber", tolerance=1e-3)
    usual = robust_tucker_admm(problem.data, problem.mask, problem.rank, options=options)
    long = long_sweeps(problem, 100, tolerance=1e-3)
    assert len(long[2]) < usual.iterations


def test_long_sweeps_are_three_at_least_and_end_at_the_tolerance(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6)
    _, status, history = long_sweeps(problem, 100, tolerance=1e-4)
    assert status is Status.CONVERGED
    changes = [record.change for record in history]
    assert len(changes) > 3
    assert changes[-1] <= 1e-4 < min(changes[2:-1])
    # Whatever the first moves are, since the start is short.
    assert len(long_sweeps(problem, 100, tolerance=1e9)[2]) == 3


def test_runs_are_deterministic(planted: Any) -> None:
    problem = planted((30, 31, 32), (3, 3, 3), seen=0.5, outliers=0.1)
    first, second = (robust_tucker_admm(problem.data, problem.mask, 3) for _ in range(2))
    np.testing.assert_array_equal(first.value, second.value)


def test_overlapping_runs_leave_the_threads_of_blas_as_they_were() -> None:
    # First in, first out: the second run must not take the first one's setting for the one to restore.
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    before = [library.num_threads for library in libraries]
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def set_threads(counts: list[int]) -> None:  # in a thread of its own, for who sets them owns them while it lives
        with ThreadPoolExecutor(1) as pool:
            list(pool.map(lambda library, count: library.set_num_threads(count), libraries, counts))

    def solve(entered: threading.Event, leave: threading.Event) -> None:
        def callback(record: IterationRecord, state: AdmmState) -> bool:
            entered.set()
            return leave.wait(60)  # a busy machine takes its time

        robust_tucker_admm(np.random.default_rng(0).random((4, 5, 6)), None, 1, callback=callback)

    try:
        set_threads([2] * len(libraries))
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(solve, first_in, second_in)
            first_in.wait(60)
            second = pool.submit(solve, second_in, first_out)
            first.result()
            first_out.set()
            second.result()
        assert {library.num_threads for library in libraries} == {2}
    finally:
        set_threads(before)


def test_history_residual_is_recomputed_from_observed_entries(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1, noise=0.1)
    y, w = problem.data, problem.mask
    models: list[np.ndarray] = []
    taus: list[float] = []

    def callback(record: IterationRecord, state: AdmmState) -> None:
        models.append(tucker_to_dense(state.core, state.factors))
        taus.append(state.threshold)

    options = AdmmOptions(fidelity="huber", acceleration=False, max_iterations=15, tolerance=0.0)
    result = robust_tucker_admm(y, w, problem.rank, options=options, callback=callback)
    assert [record.iteration for record in result.history] == list(range(1, 16))
    assert {record.stage for record in result.history} == {"admm"}
    for before, after, tau, record in zip(models, models[1:], taus, result.history[1:], strict=False):
        residual = np.clip((y - before)[w], -tau, tau)  # Y - X - E with E the soft threshold
        assert record.residual == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(y[w]), rel=1e-12)
        assert record.change == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(after), rel=1e-9)
        assert record.outliers == np.count_nonzero(abs((y - before)[w]) > tau)
        assert record.threshold == tau


def test_admm_stops_at_the_tolerance_and_not_before(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6)
    result = robust_tucker_admm(problem.data, problem.mask, problem.rank, options=AdmmOptions(tolerance=1e-4))
    changes = [record.change for record in result.history]
    assert changes[-1] <= 1e-4 < min(changes[:-1])


def test_a_step_that_is_not_finite_returns_the_last_finite_model(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1)
    good = robust_tucker_admm(problem.data, problem.mask, problem.rank, options=AdmmOptions(max_iterations=3))
    dual = np.where(problem.mask, np.nan, good.state.dual)
    result = robust_tucker_admm(problem.data, problem.mask, problem.rank, initial_state=good.state._replace(dual=dual))
    assert result.status is Status.DIVERGED
    assert result.iterations == 0
    np.testing.assert_array_equal(result.value, good.value)
    assert np.all(np.isfinite(result.outliers))


def test_a_state_of_another_shape_is_refused(planted: Any) -> None:
    small = robust_tucker_admm(planted((4, 5, 6), (1, 1, 1)).data, None, 1, options=AdmmOptions(max_iterations=1))
    with pytest.raises(ValueError, match=r"state has a dual of shape \(4, 5, 6\), data has shape \(4, 5, 7\)"):
        robust_tucker_admm(np.ones((4, 5, 7)), None, 1, initial_state=small.state)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_a_state_without_a_dual_never_lets_the_data_be_written(planted: Any, nonnegative: bool) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1)
    data = problem.data.copy()
    options = AdmmOptions(fidelity="huber", max_iterations=3)
    state = robust_tucker_admm(data, problem.mask, problem.rank, options=options).state
    assert state.dual is None  # Huber's loss needs none; the other problem does
    more = AdmmOptions(fidelity="huber" if nonnegative else "equality", max_iterations=3)
    with pytest.raises(ValueError, match="dual"):
        robust_tucker_admm(data, problem.mask, problem.rank, options=more, nonnegative=nonnegative, initial_state=state)
    np.testing.assert_array_equal(data, problem.data)


# ------------------------------------------------------------------------------------------------------------------
# Options.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fidelity": "l2"}, "expected fidelity 'equality' or 'huber', got 'l2'"),
        ({"threshold": 0.0}, "expected a positive threshold or None, got 0.0"),
        ({"threshold": math.nan}, "expected a positive threshold or None, got nan"),
        ({"ridge": -0.1}, "expected a ridge of at least 0, got -0.1"),
        ({"ridge": math.nan}, "expected a ridge of at least 0, got nan"),
        ({"relaxation": 0.0}, "expected a relaxation between 0 and 1.618, got 0.0"),
        ({"relaxation": 1.7}, "expected a relaxation between 0 and 1.618, got 1.7"),
        ({"tolerance": -1e-9}, "expected a tolerance of at least 0, got -1e-09"),
        ({"max_iterations": 0}, "expected at least one iteration, got 0"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdmmOptions(**changes)


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="penalty"):
        AdmmOptions(penalty=1.0)  # type: ignore[call-arg]


def test_options_accelerate_huber_with_a_small_core_unless_told() -> None:
    for fidelity, acceleration, core_size in itertools.product(("equality", "huber"), (None, True, False), (10, 10**6)):
        options = AdmmOptions(fidelity=fidelity, acceleration=acceleration)  # type: ignore[arg-type]
        default = fidelity == "huber" and core_size == 10
        assert options.accelerates(core_size, 10**6) is (default if acceleration is None else acceleration)
