"""The recommended combination, its arguments, and inputs at the edge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorly.tucker_tensor import TuckerTensor

from tensorcell.solvers import (
    AdmmOptions,
    CompletionResult,
    GaussNewtonOptions,
    GaussNewtonState,
    Status,
    checks,
    complete_tucker,
    completion,
    em_tucker,
    hosvd,
    riemannian_gauss_newton,
    robust_tucker_admm,
)
from tensorcell.solvers.checks import checked_problem, checked_rank, effective_tolerance

Method = Callable[..., CompletionResult]


def huber(data: Any, mask: Any, rank: Any) -> CompletionResult:
    """ADMM with Huber's loss."""
    return robust_tucker_admm(data, mask, rank, options=AdmmOptions(fidelity="huber"))


def least_squares(data: Any, mask: Any, rank: Any) -> CompletionResult:
    """The combination without outliers."""
    return complete_tucker(data, mask, rank, robust=False)


def nonnegative(data: Any, mask: Any, rank: Any) -> CompletionResult:
    """The combination with the constraint."""
    return complete_tucker(data, mask, rank, nonnegative=True)


METHODS = [robust_tucker_admm, huber, complete_tucker, least_squares, nonnegative, em_tucker]

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)

# ------------------------------------------------------------------------------------------------------------------
# Planted truth: the problems of the benchmarks at a reduced size.


@pytest.mark.parametrize(
    ("outliers", "size"), [(0.0, (0.0, 0.0)), (0.1, (10.0, 10.0)), (0.1, (1.0, 3.0))], ids=["a", "b", "b'"]
)
@pytest.mark.parametrize(
    ("shape", "rank", "seen"),
    [
        ((30, 31, 32), (3, 2, 3), 0.3),
        ((12, 13, 14, 15), (2, 2, 3, 2), 0.4),
        ((80, 90), (3, 3), 0.6),
        ((6, 7, 6, 7, 6), (2, 2, 2, 2, 2), 0.5),
    ],
    ids=["3", "4", "2", "5"],
)
def test_complete_tucker_recovers_planted_tensors(
    planted: Any, shape: Any, rank: Any, seen: float, outliers: float, size: Any
) -> None:
    for seed in range(3):
        problem = planted(shape, rank, seen=seen, outliers=outliers, size=size, seed=seed)
        result = complete_tucker(problem.data, problem.mask, rank)
        assert problem.error(result.value) < 1e-8  # Gauss-Newton's last step is below 1e-7 and it gains two digits
        np.testing.assert_array_equal(result.outliers != 0, problem.support)
        assert result.status is Status.CONVERGED


@pytest.mark.parametrize("seed", [0, 2, 4, 5])
def test_complete_tucker_takes_no_entry_for_an_outlier_because_the_model_is_late(planted: Any, seed: int) -> None:
    # With few samples the typical residual falls faster than that of the worst fibres: a threshold that followed it
    # at once would cut these off for good. Exact data hold no outlier at all.
    problem = planted((30, 31, 32), (3, 2, 3), seen=0.2, seed=seed)
    result = complete_tucker(problem.data, problem.mask, problem.rank)
    assert problem.error(result.value) < 1e-8  # as above
    assert result.history[-1].outliers == 0
    assert result.sparse.positions.shape == (0,)


def test_complete_tucker_recovers_on_every_backend(xp: Any, planted: Any) -> None:
    problem = planted((20, 21, 22), (3, 2, 3), seen=0.4, outliers=0.1, size=(1.0, 3.0))
    data, mask = xp.put(problem.data), xp.put(problem.mask)
    result = complete_tucker(data, mask, problem.rank)
    assert problem.error(xp.take(result.value)) < 1e-8
    np.testing.assert_array_equal(xp.take(result.outliers) != 0, problem.support)
    np.testing.assert_array_equal(xp.take(data), problem.data)  # not written, NaN included
    np.testing.assert_array_equal(xp.take(mask), problem.mask)
    host = complete_tucker(problem.data, problem.mask, problem.rank)
    assert result.iterations == host.iterations
    np.testing.assert_allclose(xp.take(result.value), host.value, atol=1e-8)  # both at the truth


@pytest.mark.parametrize("seed", range(4))
def test_complete_tucker_recovers_positive_tensors_with_uneven_cores(planted: Any, seed: int) -> None:
    # Like intensities: one direction holds most of the energy, condition numbers of the core from 10 to 200.
    problem = planted((20, 21, 22), (3, 3, 3), seen=0.6, outliers=0.1, size=(1.0, 3.0), nonnegative=True, seed=seed)
    result = complete_tucker(problem.data, problem.mask, 3)
    assert problem.error(result.value) < 1e-7


@pytest.mark.parametrize("outliers", [0.0, 0.1])
@pytest.mark.parametrize(("shape", "rank", "seen"), [((30, 31, 32), (3, 2, 3), 0.3), ((80, 90), (3, 3), 0.6)])
def test_complete_tucker_of_noisy_data_attains_the_fit_on_the_true_support(
    planted: Any, shape: Any, rank: Any, seen: float, outliers: float
) -> None:
    problem = planted(shape, rank, seen=seen, outliers=outliers, size=(2.0, 4.0), noise=0.1)
    result = complete_tucker(problem.data, problem.mask, rank)
    oracle = riemannian_gauss_newton(problem.data, problem.mask & ~problem.support, hosvd(problem.truth, rank))
    # Beyond five standard deviations there is one inlier in two million: the same entries are fitted, to the tolerance.
    np.testing.assert_array_equal(result.outliers != 0, problem.support)
    np.testing.assert_allclose(result.value, oracle.value, atol=1e-4)
    freedom = math.prod(rank) + sum(r * (n - r) for n, r in zip(shape, rank, strict=True))
    promised = 0.1 * math.sqrt(freedom / np.count_nonzero(problem.mask & ~problem.support))
    # Least squares with some hundred degrees of freedom: a chi-square varies by 10 %, its root by 5 %; with random
    # masks the error over all entries is somewhat above that over the seen ones.
    assert 0.7 < problem.error(result.value) / promised < 1.6


def test_least_squares_flags_nothing_and_is_the_masked_optimum(planted: Any) -> None:
    problem = planted((15, 16, 17), (2, 3, 2), seen=0.6, noise=0.1, outliers=0.02, size=(1.0, 2.0))
    result = complete_tucker(problem.data, problem.mask, problem.rank, robust=False)
    optimum = riemannian_gauss_newton(problem.data, problem.mask, hosvd(problem.truth, problem.rank))
    np.testing.assert_allclose(result.value, optimum.value, atol=1e-5)
    assert result.sparse.positions.shape == (0,)
    assert all(record.outliers == 0 for record in result.history)


def test_full_data_are_denoised_to_the_best_approximation_of_tensorly(planted: Any) -> None:
    problem = planted((12, 13, 14), (2, 3, 2), noise=0.3)
    result = complete_tucker(problem.data, None, problem.rank, robust=False)
    core, factors = tensorly.decomposition.tucker(problem.data, problem.rank, tol=1e-15, n_iter_max=2000)
    np.testing.assert_allclose(result.value, tensorly.tucker_to_tensor((core, factors)), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------------
# The result.


def test_result_goes_straight_into_tensorly(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, outliers=0.1)
    result = complete_tucker(problem.data, problem.mask, problem.rank)
    assert isinstance(result.tucker, TuckerTensor)
    assert result.tucker.rank == result.rank == (2, 3, 2)
    np.testing.assert_allclose(tensorly.tucker_to_tensor(result.tucker), result.value, atol=1e-12)
    for factor in result.tucker.factors:
        np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-12)
    assert not np.any(result.outliers[~problem.mask])
    assert result.iterations == len(result.history)


def test_history_counts_through_both_stages(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, outliers=0.1)
    seen: list[Any] = []

    def callback(record: Any, state: Any) -> None:
        seen.append(record)

    result = complete_tucker(problem.data, problem.mask, problem.rank, callback=callback)
    assert list(result.history) == seen
    assert [record.iteration for record in seen] == list(range(1, len(seen) + 1))
    stages = [record.stage for record in seen]
    assert stages == ["admm"] * stages.count("admm") + ["polish"] * stages.count("polish")
    assert set(stages) == {"admm", "polish"}
    assert all(later.seconds >= earlier.seconds for earlier, later in itertools.pairwise(seen))


@pytest.mark.parametrize("constrained", [False, True])
def test_sweeps_end_as_soon_as_the_model_is_near(planted: Any, constrained: bool) -> None:
    # A sweep moves the model by about the sampling ratio times its error: 6 % of error are near enough for
    # Gauss-Newton, and each sweep beyond is lost. The constraint acts in the sweeps alone, which go on to .3 %.
    problem = planted((20, 21, 22), (2, 3, 2), seen=0.3, outliers=0.05, nonnegative=True)
    result = complete_tucker(problem.data, problem.mask, problem.rank, nonnegative=constrained)
    *before, last = [record.change for record in result.history if record.stage == "admm"]
    enough = 3e-3 if constrained else 0.06 * np.mean(problem.mask)
    assert last <= enough
    assert len(before) > 3
    assert all(change > enough for change in before)


@pytest.mark.parametrize(
    ("shape", "seen", "more", "long"),
    [
        ((20, 21, 22), 0.3, {}, True),
        ((20, 21, 22), 0.3, {"robust": False}, True),
        ((20, 21, 22), 0.3, {"nonnegative": True}, False),  # its dual would have to be of that length, too
        ((20, 21, 22), 0.12, {}, False),  # 9 times the 122 degrees of freedom
        ((20, 21, 22), 1.0, {}, False),
        ((80, 90), 0.6, {}, False),  # begins with the equality constraint, whose dual has a length of its own
    ],
)
def test_steps_are_long_where_samples_are_many(
    planted: Any, shape: Any, seen: float, more: dict[str, Any], long: bool
) -> None:
    problem = planted(shape, (2,) * len(shape), seen=seen)
    states: list[Any] = []
    complete_tucker(
        problem.data, problem.mask, problem.rank, callback=lambda record, state: bool(states.append(state)), **more
    )
    assert states[0].step == (pytest.approx(1 / np.mean(problem.mask)) if long else 1.0)


def test_short_steps_recover_near_the_limit_what_long_ones_lose(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = planted((20, 20, 20), (6, 6, 6), seen=0.125, seed=5)  # twice the degrees of freedom
    assert problem.error(complete_tucker(problem.data, problem.mask, problem.rank).value) < 1e-8
    monkeypatch.setattr(completion, "LONG_ABOVE", 0)
    assert problem.error(complete_tucker(problem.data, problem.mask, problem.rank).value) > 0.1


def test_first_polish_spares_what_the_sweeps_took_for_inliers(planted: Any) -> None:
    # Long sweeps end early: a threshold from the residual of the typical entry could lie below theirs.
    problem = planted((20, 21, 22), (2, 3, 2), seen=0.3, outliers=0.05, size=(1.0, 3.0), noise=0.05)
    result = complete_tucker(problem.data, problem.mask, problem.rank)
    sweeps, polish = ([r for r in result.history if r.stage == stage] for stage in ("admm", "polish"))
    assert polish[0].threshold >= sweeps[-1].threshold


@pytest.mark.parametrize("stage", ["admm", "polish"])
def test_callback_stops_either_stage(planted: Any, stage: str) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7, outliers=0.1)
    result = complete_tucker(
        problem.data, problem.mask, problem.rank, callback=lambda record, state: record.stage == stage
    )
    assert result.status is Status.STOPPED
    assert [record.stage for record in result.history].count(stage) == 1
    assert result.history[-1].stage == stage
    assert np.all(np.isfinite(result.value))


@pytest.mark.parametrize("robust", [True, False])
def test_resumed_polish_equals_straight_bit_for_bit(planted: Any, robust: bool) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.05, noise=0.1)
    straight = complete_tucker(problem.data, problem.mask, problem.rank, robust=robust)
    stopped = complete_tucker(problem.data, problem.mask, problem.rank, robust=robust, max_iterations=2)
    assert stopped.status is Status.MAX_ITERATIONS
    assert isinstance(stopped.state, GaussNewtonState)
    resumed = complete_tucker(
        problem.data, problem.mask, problem.rank, robust=robust, initial_state=stopped.state, max_iterations=48
    )
    np.testing.assert_array_equal(resumed.value, straight.value)
    np.testing.assert_array_equal(resumed.outliers, straight.outliers)


def test_nonnegative_value_is_nonnegative_and_right(planted: Any) -> None:
    problem = planted((15, 16, 17), (2, 2, 2), seen=0.5, noise=0.1, nonnegative=True)
    result = complete_tucker(problem.data, problem.mask, 2, nonnegative=True)
    free = complete_tucker(problem.data, problem.mask, 2)
    assert result.nonnegative
    assert np.min(result.value) == 0.0
    assert np.min(free.value) < 0.0
    assert problem.error(result.value) < problem.error(free.value)


# ------------------------------------------------------------------------------------------------------------------
# Precision, layout and the caller's arrays.


@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_single_precision_comes_back_single_and_accurate(planted: Any, outliers: float) -> None:
    problem = planted((20, 21, 22), (2, 3, 2), seen=0.5, outliers=outliers)
    result = complete_tucker(problem.data.astype(np.float32), problem.mask, problem.rank)
    arrays = (result.value, result.outliers, result.sparse.values, result.tucker.core, *result.tucker.factors)
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    # Data are rounded to 6e-8 of their size, and so are results.
    assert problem.error(result.value) < 1e-6
    np.testing.assert_array_equal(result.outliers != 0, problem.support)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "bool"])
@every_method
def test_whole_numbers_come_back_as_double(method: Method, dtype: str) -> None:
    data = np.einsum("i,j,k->ijk", *(np.arange(n) % 2 for n in (8, 9, 10))).astype(dtype)
    mask = np.random.default_rng(0).random(data.shape) < 0.8
    result = method(data, mask, 1)
    assert result.value.dtype == np.float64
    expected = method(data.astype(float), mask, 1)
    np.testing.assert_array_equal(result.value, expected.value)


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "transposed"])
@every_method
def test_memory_layout_does_not_matter(planted: Any, method: Method, layout: str) -> None:
    problem = planted((6, 7, 8), (1, 1, 1), seen=0.9, nonnegative=True)

    def arrange(array: np.ndarray) -> np.ndarray:
        if layout == "fortran":
            return np.asfortranarray(array)
        if layout == "strided":
            wide = np.zeros((6, 14, 8), array.dtype)
            wide[:, ::2] = array
            return wide[:, ::2]
        if layout == "reversed":
            return np.ascontiguousarray(array[::-1])[::-1]
        return np.transpose(np.ascontiguousarray(np.transpose(array, (2, 0, 1))), (1, 2, 0))

    plain, other = method(problem.data, problem.mask, 1), method(arrange(problem.data), arrange(problem.mask), 1)
    np.testing.assert_array_equal(other.value, plain.value)
    np.testing.assert_array_equal(other.outliers, plain.outliers)


@every_method
def test_no_mask_is_a_full_mask(planted: Any, method: Method) -> None:
    data = planted((9, 10, 11), (2, 2, 2), noise=0.1).data
    np.testing.assert_array_equal(method(data, None, 2).value, method(data, np.ones(data.shape, bool), 2).value)


@every_method
def test_one_number_as_rank_stands_for_all_modes(planted: Any, method: Method) -> None:
    problem = planted((9, 10, 11), (2, 2, 2), seen=0.9, nonnegative=True)
    expected = method(problem.data, problem.mask, (2, 2, 2)).value
    for rank in (2, [2, 2, 2], np.array([2, 2, 2]), np.int64(2)):
        np.testing.assert_array_equal(method(problem.data, problem.mask, rank).value, expected)


@every_method
def test_the_callers_arrays_are_not_written(xp: Any, planted: Any, method: Method) -> None:
    problem = planted((6, 7, 8), (1, 1, 1), seen=0.9, nonnegative=True)
    data, mask = xp.put(problem.data), xp.put(problem.mask)
    result = method(data, mask, 1)
    xp.take(result.value)
    np.testing.assert_array_equal(xp.take(data), problem.data)
    np.testing.assert_array_equal(xp.take(mask), problem.mask)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf])
def test_complete_tucker_ignores_what_stands_under_the_mask(planted: Any, garbage: float) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, outliers=0.1)
    nan = complete_tucker(problem.data, problem.mask, problem.rank)
    other = complete_tucker(np.where(problem.mask, problem.data, garbage), problem.mask, problem.rank)
    np.testing.assert_array_equal(other.value, nan.value)
    np.testing.assert_array_equal(other.outliers, nan.outliers)


@pytest.mark.parametrize("scale", [1e6, 1e-12, 1e12])
def test_complete_tucker_follows_the_scale_of_the_data(planted: Any, scale: float) -> None:
    problem = planted((13, 14, 15), (2, 3, 2), seen=0.6, outliers=0.1, noise=0.05)
    plain, scaled = (complete_tucker(factor * problem.data, problem.mask, problem.rank) for factor in (1.0, scale))
    assert scaled.iterations == plain.iterations
    assert scaled.status is plain.status
    np.testing.assert_allclose(scaled.value / scale, plain.value, rtol=0, atol=1e-8)  # a part of the tolerance
    np.testing.assert_allclose(scaled.outliers / scale, plain.outliers, rtol=0, atol=1e-8)


@given(axes=st.permutations(range(3)), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_complete_tucker_follows_a_permutation_of_the_axes(planted: Any, axes: list[int], seed: int) -> None:
    problem = planted((13, 14, 15), (2, 3, 2), seen=0.6, outliers=0.05, noise=0.05, seed=seed)
    plain = complete_tucker(problem.data, problem.mask, problem.rank)
    permuted = complete_tucker(
        np.transpose(problem.data, axes), np.transpose(problem.mask, axes), [problem.rank[axis] for axis in axes]
    )
    # Both at the same optimum, to some times the tolerance.
    np.testing.assert_allclose(permuted.value, np.transpose(plain.value, axes), atol=1e-5)


def test_runs_are_deterministic(planted: Any) -> None:
    problem = planted((30, 31, 32), (3, 3, 3), seen=0.5, outliers=0.1)
    first, second = (complete_tucker(problem.data, problem.mask, 3) for _ in range(2))
    np.testing.assert_array_equal(first.value, second.value)


# ------------------------------------------------------------------------------------------------------------------
# Degenerate inputs: finite results, no warnings (which are errors).

SHAPE = (9, 10, 11)
SEEN = np.random.default_rng(99).random(SHAPE) < 0.7


def assert_sound(result: CompletionResult, mask: np.ndarray) -> None:
    """Finite all through, and the sparse part lies on observed entries."""
    assert np.all(np.isfinite(result.value))
    assert np.all(np.isfinite(result.outliers))
    assert not np.any(result.outliers[~mask])
    assert all(math.isfinite(record.residual) for record in result.history)
    assert result.status is not Status.DIVERGED


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("value", [3.5, 0.0, 1e-12, 1e12])
@every_method
def test_constant_data_come_back(method: Method, value: float, rank: int) -> None:
    result = method(np.full(SHAPE, value), SEEN, rank)
    assert_sound(result, SEEN)
    np.testing.assert_allclose(result.value, value, rtol=1e-7)  # the tolerance


@every_method
def test_a_spectrum_without_gaps_is_sound(method: Method) -> None:
    identity = np.zeros((6, 6, 6))
    identity[range(6), range(6), range(6)] = 1.0
    full = np.ones(identity.shape, bool)
    assert_sound(method(identity, full, 3), full)
    exact = method(identity, full, 6)
    np.testing.assert_allclose(exact.value, identity, atol=1e-12)


@pytest.mark.parametrize("method", [least_squares, em_tucker], ids=lambda method: method.__name__)
def test_full_rank_of_full_data_is_the_data(method: Method) -> None:
    data = np.random.default_rng(0).standard_normal(SHAPE)
    np.testing.assert_allclose(method(data, None, SHAPE).value, data, atol=1e-10)


@every_method
def test_full_rank_of_masked_data_is_sound(planted: Any, method: Method) -> None:
    problem = planted(SHAPE, (2, 2, 2), seen=0.7)
    assert_sound(method(problem.data, problem.mask, SHAPE), problem.mask)


@pytest.mark.parametrize("shape", [(1, 12, 14), (12, 1, 14), (12, 14, 1), (1, 1, 14), (12, 1, 14, 1)])
def test_modes_of_size_one_are_carried_along(planted: Any, shape: Any) -> None:
    flat = [size for size in shape if size > 1]
    rank = tuple(min(2 if len(flat) > 1 else 1, size) for size in shape)
    problem = planted(shape, rank, seen=0.8)
    result = complete_tucker(problem.data, problem.mask, rank)
    assert_sound(result, problem.mask)
    if len(flat) > 1:
        assert problem.error(result.value) < 1e-6
    else:  # one number a fibre: what was seen comes back
        np.testing.assert_allclose(result.value[problem.mask], problem.truth[problem.mask], atol=1e-6)


@every_method
def test_the_smallest_tensors_come_back(method: Method) -> None:
    for shape in ((1, 1), (1, 1, 1)):
        np.testing.assert_allclose(method(np.full(shape, 3.0), None, 1).value, 3.0, atol=1e-12)


@pytest.mark.parametrize("mode", range(3))
@every_method
def test_an_index_never_observed_stays_zero(planted: Any, method: Method, mode: int) -> None:
    problem = planted(SHAPE, (2, 2, 2), seen=0.8)
    mask = problem.mask.copy()
    mask[(slice(None),) * mode + (4,)] = False
    result = method(problem.data + 1.0, mask, 3)  # the offset is one more component
    assert_sound(result, mask)
    if method is not em_tucker:  # which starts from the mean in the gaps and keeps it there
        # Rounding of the other entries, of order one.
        np.testing.assert_allclose(np.take(result.value, 4, axis=mode), 0.0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 2])
@every_method
def test_a_single_observed_entry_is_fitted(method: Method, rank: int) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[2, 3, 4] = True
    result = method(np.where(mask, 7.0, np.nan), mask, rank)
    assert_sound(result, mask)
    assert result.value[2, 3, 4] + result.outliers[2, 3, 4] == pytest.approx(7.0, abs=1e-6)


@every_method
def test_a_rank_that_is_too_large_is_sound(planted: Any, method: Method) -> None:
    problem = planted(SHAPE, (2, 2, 2), seen=0.8)
    result = method(problem.data, problem.mask, 4)
    assert_sound(result, problem.mask)
    fitted = (result.value if method is not nonnegative else problem.truth) + result.outliers
    # Every observed entry is explained, by the model or as an outlier (Huber leaves up to its threshold).
    if method not in (huber, nonnegative):
        np.testing.assert_allclose(fitted[problem.mask], problem.data[problem.mask], atol=1e-2)


@every_method
def test_mostly_zero_data_are_sound(method: Method) -> None:
    data = np.zeros(SHAPE)
    data[4, 5, 6], data[1, 2, 3] = 7.0, 3.0
    result = method(data, SEEN, 1)
    assert_sound(result, SEEN)


def test_residuals_most_of_which_are_exactly_zero_leave_a_usable_threshold() -> None:
    # Half of the volume is empty, with the model exactly zero there: a scale from the median of all is zero.
    rng = np.random.default_rng(3)
    data = np.zeros((20, 20, 20))
    data[:, :, 12:] = np.einsum("i,j,k->ijk", rng.random(20), rng.random(20), rng.random(8))
    mask = np.random.default_rng(4).random(data.shape) < 0.6
    corrupt = mask & (np.random.default_rng(5).random(data.shape) < 0.03)
    result = complete_tucker(np.where(corrupt, 3.0, data), mask, 1)
    assert_sound(result, mask)
    np.testing.assert_allclose(result.value, data, atol=1e-6)
    np.testing.assert_array_equal(result.outliers != 0, corrupt)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_offset_does_not_hide_the_signal(planted: Any, dtype: Any) -> None:
    problem = planted((15, 16, 17), (2, 2, 2), seen=0.6, outliers=0.05)
    data = (1e4 + problem.data).astype(dtype)
    result = complete_tucker(data, problem.mask, 3)  # the offset is one more component
    # Single precision has steps of .001 at 10000; double ends at the tolerance, relative to the offset.
    error = np.linalg.norm(result.value - 1e4 - problem.truth) / np.linalg.norm(problem.truth)
    assert error < (2e-3 if dtype is np.float32 else 1e-3)
    np.testing.assert_array_equal(result.outliers != 0, problem.support)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@every_method
def test_single_precision_of_any_unit(planted: Any, method: Method, scale: float) -> None:
    problem = planted((13, 14, 15), (2, 2, 2), seen=0.6, nonnegative=method is nonnegative)
    result = method((scale * problem.data).astype(np.float32), problem.mask, 2)
    assert_sound(result, problem.mask)
    assert result.value.dtype == np.float32
    bound = 1e-5 if method is not huber else 1e-3
    assert problem.error(result.value / np.float32(scale)) < bound


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
@every_method
def test_garbage_in_single_precision_raises_no_warning(planted: Any, method: Method, garbage: float) -> None:
    problem = planted(SHAPE, (2, 2, 2), seen=0.7)
    data = np.where(problem.mask, problem.data, np.finfo(np.float32).max if garbage == 1e30 else garbage)
    assert_sound(method(data.astype(np.float32), problem.mask, 2), problem.mask)


# ------------------------------------------------------------------------------------------------------------------
# Bad input.

DATA = np.ones((4, 5, 6))

BAD: list[tuple[Any, Any, Any, type[Exception], str]] = [
    (DATA[0, 0], None, 1, ValueError, r"expected data with at least two axes and no empty one, got shape \(6,\)"),
    (DATA[:0], None, 1, ValueError, r"expected data with at least two axes and no empty one, got shape \(0, 5, 6\)"),
    (DATA, DATA, 1, TypeError, r"expected a bool mask \(True = observed\), got dtype float64"),
    (DATA, DATA.astype("uint8"), 1, TypeError, r"expected a bool mask \(True = observed\), got dtype uint8"),
    (DATA, DATA[:3] > 0, 1, ValueError, r"mask has shape \(3, 5, 6\), data has shape \(4, 5, 6\)"),
    (DATA, DATA < 0, 1, ValueError, "expected at least one observed entry, got a mask without any True"),
    (np.nan * DATA, None, 1, ValueError, "expected finite values at observed entries, got NaN or infinity"),
    (-np.inf * DATA, None, 1, ValueError, "expected finite values at observed entries, got NaN or infinity"),
    (DATA * 1j, None, 1, TypeError, "expected real numbers, got dtype complex128"),
    (DATA.astype(object), None, 1, TypeError, "expected real numbers, got dtype object"),
    (DATA.tolist(), None, 1, TypeError, "expected NumPy or CuPy arrays, got list"),
    (DATA, (DATA > 0).tolist(), 1, TypeError, "expected NumPy or CuPy arrays, got list"),
    (DATA, None, (1, 1), ValueError, "rank has 2 entries, data has 3 axes"),
    (DATA, None, 0, ValueError, r"rank 0 does not fit mode 0 of size 4 \(expected 1 to 4\)"),
    (DATA, None, (1, 6, 1), ValueError, r"rank 6 does not fit mode 1 of size 5 \(expected 1 to 5\)"),
    (DATA, None, (1, 1, -2), ValueError, r"rank -2 does not fit mode 2 of size 6 \(expected 1 to 6\)"),
    (DATA, None, (1, 2, 3), ValueError, "rank 3 of mode 2 exceeds the product 2 of the other ranks"),
    (DATA, None, (1, 2.5, 2), TypeError, "expected whole numbers as rank, got 2.5 in mode 1"),
    (DATA, None, 2.5, TypeError, "expected whole numbers as rank, got 2.5"),
    (DATA, None, (1, math.nan, 2), TypeError, "expected whole numbers as rank, got nan in mode 1"),
    (DATA, None, (1, "2", 2), TypeError, "expected whole numbers as rank, got '2' in mode 1"),
]


@pytest.mark.parametrize(("data", "mask", "rank", "error", "message"), BAD, ids=[message for *_, message in BAD])
@pytest.mark.parametrize("method", [robust_tucker_admm, complete_tucker, em_tucker], ids=lambda m: m.__name__)
def test_bad_input_is_refused(
    method: Method, data: Any, mask: Any, rank: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        method(data, mask, rank)


def test_arrays_of_two_libraries_are_refused() -> None:
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="expected arrays of one library, got array_api_strict and numpy"):
        complete_tucker(DATA, strict.ones(DATA.shape, dtype=strict.bool), 1)


def test_checked_problem_copies_nothing_that_fits(xp: Any) -> None:
    data, mask = xp.put(DATA), xp.put(DATA > 0)
    checked, same, rank = checked_problem(data, mask, 2)
    assert checked is data
    assert same is mask
    assert rank == (2, 2, 2)


def test_checked_problem_puts_both_arrays_in_c_order() -> None:
    # Planes of other orders would be copies, and what a pass writes to the planes of a dual like the data be lost.
    data, mask, _ = checked_problem(np.asfortranarray(DATA), np.asfortranarray(DATA > 0), 1)
    assert data.flags.c_contiguous
    assert mask.flags.c_contiguous


@pytest.mark.parametrize("chunk", [1, 60, 10**6])
def test_checked_problem_looks_at_every_chunk(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(checks, "chunk_elements", lambda namespace: chunk)
    for index in np.ndindex(DATA.shape):
        data, mask = DATA.copy(), np.zeros(DATA.shape, bool)
        data[index], mask[index] = np.nan, True
        with pytest.raises(ValueError, match="expected finite values at observed entries"):
            checked_problem(data, mask, 1)
        checked_problem(DATA, mask, 1)  # a single entry is found


def test_checked_rank_takes_any_whole_numbers() -> None:
    for rank in (2, np.int64(2), (2, 2, 2), [2.0, 2, np.int32(2)], np.array([2, 2, 2])):
        found = checked_rank(rank, (4, 5, 6))
        assert found == (2, 2, 2)
        assert all(type(number) is int for number in found)


def test_effective_tolerance_follows_the_precision() -> None:
    assert effective_tolerance(1e-7, np.zeros(1)) == 1e-7
    assert effective_tolerance(0.0, np.zeros(1)) == 8 * np.finfo(np.float64).eps
    assert effective_tolerance(1e-7, np.zeros(1, np.float32)) == pytest.approx(8 * np.finfo(np.float32).eps)


def test_polish_options_are_those_asked_for(planted: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.6, noise=0.1)
    rough = complete_tucker(problem.data, problem.mask, problem.rank, tolerance=1e-2)
    fine = complete_tucker(problem.data, problem.mask, problem.rank, tolerance=1e-12)
    assert rough.history[-1].change <= 1e-2
    assert fine.history[-1].change <= 1e-12
    assert len(fine.history) > len(rough.history)
    one = complete_tucker(problem.data, problem.mask, problem.rank, tolerance=0.0, max_iterations=1)
    assert [record.stage for record in one.history].count("polish") == 1
    assert GaussNewtonOptions().max_iterations == 50


@pytest.mark.parametrize("method", [robust_tucker_admm, complete_tucker, em_tucker])
def test_a_state_of_another_rank_is_refused(planted: Any, method: Any) -> None:
    problem = planted((9, 10, 11), (2, 3, 2), seen=0.7)
    state = (
        method(problem.data, problem.mask, (2, 3, 2), max_iterations=2).state
        if method is not robust_tucker_admm
        else (robust_tucker_admm(problem.data, problem.mask, (2, 3, 2)).state)
    )
    with pytest.raises(ValueError, match=r"state has rank \(2, 3, 2\), expected \(2, 2, 2\)"):
        method(problem.data, problem.mask, 2, initial_state=state)
