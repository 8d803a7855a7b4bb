"""The streamed pass and the occasional ones, against dense formulas written from the definitions."""

from __future__ import annotations

import itertools
import os
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorcell
from tensorcell.solvers import hosvd, passes, sweeps
from tensorcell.solvers.rules import Rule

# k = 2, 3, 4, 5 with all sizes different, a mode of size one, and ranks that differ from mode to mode.
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((7, 9), (3, 3)),
    ((5, 7, 6), (2, 3, 4)),
    ((4, 1, 6), (2, 1, 2)),
    ((3, 4, 5, 6), (2, 2, 3, 2)),
    ((2, 3, 4, 3, 5), (2, 1, 2, 2, 3)),
]

RULES = [  # the relaxation acts on duals only, which some rules do not have
    pytest.param(rule, nonnegative, relaxation, id=f"{rule.name}-{'nonnegative' * nonnegative}-{relaxation}")
    for rule, nonnegative, relaxation in itertools.product(Rule, (False, True), (1.0, 1.6))
    if (rule is Rule.EQUALITY or relaxation == 1.6) and not (rule is Rule.CURVATURE and nonnegative)
]

# Sums of at most a few thousand products of order one, taken in another order.
ROUNDING = 1e-11

THRESHOLD = 0.7


class Case(NamedTuple):
    """Arguments of a pass on the host."""

    data: np.ndarray
    mask: np.ndarray
    dual: np.ndarray
    core: np.ndarray
    factors: list[np.ndarray]


def case(shape: tuple[int, ...], rank: tuple[int, ...], *, dtype: Any = np.float64, seed: int = 0) -> Case:
    """Random data, mask, dual and model (the pass is linear algebra: factors need not be orthonormal)."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.6
    data = np.where(mask, 2 * rng.standard_normal(shape), np.nan).astype(dtype)
    factors = [rng.standard_normal(sizes) for sizes in zip(shape, rank, strict=True)]
    return Case(data, mask, rng.standard_normal(shape).astype(dtype), rng.standard_normal(rank), factors)


def own(xp: Any, array: np.ndarray) -> Any:
    """A copy that the pass may write to, being the solver's own, on the read-only backend too."""
    return array.copy() if xp.name == "read-only" else xp.put(array.copy())


def dense(core: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
    """``X = sum over the core`` in index notation."""
    inner, outer = string.ascii_lowercase[: core.ndim], string.ascii_uppercase[: core.ndim]
    pairs = ",".join(a + b for a, b in zip(outer, inner, strict=True))
    return np.einsum(f"{inner},{pairs}->{outer}", core, *factors, optimize=True)


def contractions(d: np.ndarray, core: np.ndarray, factors: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """``C = D x U'`` and ``M_n = D_(n) (G x_{m != n} U_m)_(n)'`` in index notation."""
    modes = range(d.ndim)
    inner, outer = string.ascii_lowercase[: d.ndim], string.ascii_uppercase[: d.ndim]
    pairs = [a + b for a, b in zip(outer, inner, strict=True)]
    small = np.einsum(f"{outer},{','.join(pairs)}->{inner}", d, *factors, optimize=True)
    parts = []
    for n in modes:
        others = ",".join(pairs[m] for m in modes if m != n)
        rest = [factors[m] for m in modes if m != n]
        parts.append(np.einsum(f"{outer},{inner},{others}->{pairs[n]}", d, core, *rest, optimize=True))
    return small, parts


def expected_direction(
    c: Case, x: np.ndarray, rule: Rule, nonnegative: bool, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``D``, the new dual, ``E`` and the misfit ``Y - X - E``, with E and the projection Z written out."""
    y, seen, old = np.where(c.mask, c.data, 0.0), c.mask, c.dual.astype(float)
    if rule is Rule.CURVATURE:
        return np.where(seen, x, 0.0), old, np.zeros_like(x), np.zeros_like(x)
    r = y - x - (old if rule is Rule.EQUALITY else 0.0)
    shrunk = np.sign(r) * np.maximum(abs(r) - THRESHOLD, 0.0)
    e = np.where(seen, np.zeros_like(r) if rule is Rule.RESIDUAL else shrunk, 0.0)
    d, new = np.where(seen, y - x - e, 0.0), old
    if rule is Rule.EQUALITY:  # dual ascent on X + E = Y; the target of the fit is Y - E - L_new
        new = np.where(seen, old + gamma * (x + e - y), new)
        d = np.where(seen, y - e - new - x, d)
    if nonnegative:  # dual ascent on X = Z, Z >= 0, where nothing was observed; the target is Z - L_new
        z = np.maximum(x + old, 0.0)
        new = np.where(seen, new, old + gamma * (x - z))
        d = np.where(seen, d, z - new - x)
    return d, new, e, np.where(seen, y - x - e, 0.0)


@pytest.mark.parametrize(("rule", "nonnegative", "relaxation"), RULES)
@pytest.mark.parametrize(("shape", "rank"), SHAPES)
def test_sweep_equals_the_dense_formulas(
    xp: Any, shape: Any, rank: Any, rule: Rule, nonnegative: bool, relaxation: float
) -> None:
    c = case(shape, rank)
    x = dense(c.core, c.factors)
    d, new, e, misfit = expected_direction(c, x, rule, nonnegative, relaxation)
    dual = own(xp, c.dual)
    result = sweeps.sweep(
        xp.put(c.data), xp.put(c.mask), xp.put(c.core), [xp.put(factor) for factor in c.factors],
        rule=rule, dual=dual, threshold=THRESHOLD, relaxation=relaxation, nonnegative=nonnegative,
    )  # fmt: skip
    small, parts = contractions(d, c.core, c.factors)
    np.testing.assert_allclose(xp.take(result.core), small, atol=ROUNDING)
    for found, part in zip(result.factors, parts, strict=True):
        np.testing.assert_allclose(xp.take(found), part, atol=ROUNDING)
    np.testing.assert_allclose(xp.take(dual), new, atol=ROUNDING)
    assert result.read().fit == pytest.approx(np.sum(misfit**2), rel=ROUNDING)
    assert result.read().sparse == pytest.approx(np.sum(abs(e)), rel=ROUNDING)
    assert result.read().outliers == np.count_nonzero(e)
    if rule is not Rule.CURVATURE:
        assert result.read().absolute == pytest.approx(np.sum(abs(c.data - x)[c.mask]), rel=ROUNDING)


@pytest.mark.parametrize(("shape", "rank"), SHAPES)
def test_sweep_applies_another_model_and_contracts_with_the_first(xp: Any, shape: Any, rank: Any) -> None:
    c = case(shape, rank)
    rng = np.random.default_rng(1)
    other_core = rng.standard_normal(tuple(2 * r for r in rank))  # twice the rank, as a tangent vector has
    other_factors = [rng.standard_normal((n, 2 * r)) for n, r in zip(shape, rank, strict=True)]
    result = sweeps.sweep(
        xp.put(c.data), xp.put(c.mask), xp.put(c.core), [xp.put(factor) for factor in c.factors],
        rule=Rule.CURVATURE, model=(xp.put(other_core), [xp.put(factor) for factor in other_factors]),
    )  # fmt: skip
    small, parts = contractions(np.where(c.mask, dense(other_core, other_factors), 0.0), c.core, c.factors)
    for found, part in zip((result.core, *result.factors), (small, *parts), strict=True):
        np.testing.assert_allclose(xp.take(found), part, atol=ROUNDING)


def test_sweep_attains_the_huber_loss(xp: Any) -> None:
    c = case((5, 7, 6), (2, 3, 4))
    result = sweeps.sweep(
        xp.put(c.data), xp.put(c.mask), xp.put(c.core), [xp.put(factor) for factor in c.factors],
        rule=Rule.HUBER, threshold=THRESHOLD,
    )  # fmt: skip
    residual = (c.data - dense(c.core, c.factors))[c.mask]
    # min_E 1/2 (r - e)^2 + tau |e| is Huber's function of r.
    expected = np.sum(scipy.special.huber(THRESHOLD, residual))
    assert result.read().fit / 2 + THRESHOLD * result.read().sparse == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_sweep_of_an_infinite_threshold_is_least_squares(xp: Any, nonnegative: bool) -> None:
    c = case((5, 7, 6), (2, 3, 4))
    data, mask, core, *factors = (xp.put(array) for array in (c.data, c.mask, c.core, *c.factors))
    results = [
        sweeps.sweep(
            data, mask, core, factors, rule=rule, threshold=np.inf, dual=own(xp, c.dual), nonnegative=nonnegative
        )
        for rule in (Rule.HUBER, Rule.RESIDUAL)
    ]  # fmt: skip
    for a, b in zip((results[0].core, *results[0].factors), (results[1].core, *results[1].factors), strict=True):
        np.testing.assert_array_equal(xp.take(a), xp.take(b))
    assert results[0].read() == results[1].read()
    assert results[0].read().outliers == 0


@pytest.mark.parametrize(("rule", "nonnegative"), [(Rule.EQUALITY, False), (Rule.HUBER, True)])
def test_sweep_refuses_a_rule_without_its_dual(xp: Any, rule: Rule, nonnegative: bool) -> None:
    c = case((5, 7, 6), (2, 3, 4))
    data, mask, core, *factors = (xp.put(array) for array in (c.data, c.mask, c.core, *c.factors))
    with pytest.raises(
        ValueError, match=f"expected a dual for rule {rule.name} with nonnegative={nonnegative}, got None"
    ):
        sweeps.sweep(data, mask, core, factors, rule=rule, nonnegative=nonnegative, threshold=THRESHOLD)
    np.testing.assert_array_equal(xp.take(data), c.data)  # which must never serve as one


GARBAGE = [np.nan, np.inf, -np.inf, 1e30, np.finfo(float).max]


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("twin", [False, True])
def test_sweep_ignores_what_stands_under_the_mask(rule: Rule, twin: bool) -> None:
    c = case((5, 7, 6), (2, 3, 4))
    results = []
    for garbage in GARBAGE:
        dual = c.dual.copy()
        result = sweeps.sweep(
            np.where(c.mask, c.data, garbage), c.mask, c.core, c.factors, rule=rule, dual=dual, twin=twin,
            threshold=THRESHOLD, relaxation=1.6, nonnegative=rule is not Rule.CURVATURE,
        )  # fmt: skip
        results.append([result.core, *result.factors, dual, np.array(result[2:])])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


# Odd sizes; one plane only; more planes than threads; planes larger than a block (402 x 331 > 2^17), so that the last
# block of rows is short; rows longer than a block.
ODD = [
    ((1, 13, 11), (1, 3, 3)),
    ((9, 13, 11), (2, 3, 5)),
    ((2, 402, 331), (2, 2, 3)),
    ((2, 3, 140001), (2, 2, 2)),
    ((401, 332), (3, 3)),
]


@pytest.mark.parametrize(("rule", "nonnegative", "relaxation"), RULES)
@pytest.mark.parametrize(("shape", "rank"), ODD)
def test_kernel_equals_its_twin(shape: Any, rank: Any, rule: Rule, nonnegative: bool, relaxation: float) -> None:
    c = case(shape, rank)
    duals = c.dual.copy(), c.dual.copy()
    kernel, twin = (
        sweeps.sweep(
            c.data, c.mask, c.core, c.factors, rule=rule, dual=dual, threshold=THRESHOLD, relaxation=relaxation,
            nonnegative=nonnegative, twin=is_twin,
        )
        for is_twin, dual in enumerate(duals)
    )  # fmt: skip
    scale = np.sqrt(c.data.size)  # sums of that many random numbers of order ten
    for a, b in zip((kernel.core, *kernel.factors, duals[0]), (twin.core, *twin.factors, duals[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=scale * ROUNDING)
    np.testing.assert_allclose(kernel[2:], twin[2:], rtol=ROUNDING)


@pytest.mark.parametrize("twin", [False, True])
def test_sweep_in_single_precision_is_accurate(twin: bool) -> None:
    c = case((9, 40, 37), (2, 3, 5))
    single = c.data.astype(np.float32)
    exact = sweeps.sweep(
        single.astype(float), c.mask, c.core, c.factors, rule=Rule.EQUALITY, dual=c.dual.copy(), threshold=THRESHOLD
    )
    dual = c.dual.astype(np.float32)
    found = sweeps.sweep(
        single, c.mask, c.core, c.factors, rule=Rule.EQUALITY, dual=dual, threshold=THRESHOLD, twin=twin
    )
    for a, b in zip((found.core, *found.factors), (exact.core, *exact.factors), strict=True):
        assert a.dtype == np.float64
        # Each entry sums some thousand products with relative errors of 6e-8, which partly cancel.
        assert np.linalg.norm(a - b) < 1e-6 * np.linalg.norm(b)
    assert dual.dtype == np.float32
    assert found.read().fit == pytest.approx(exact.read().fit, rel=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("planes", [1, 2, 7])
def test_kernel_shares_planes_among_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, planes: int
) -> None:
    c = case((planes, 13, 11), (1, 3, 3))
    with ThreadPoolExecutor(threads) as pool:
        monkeypatch.setattr("tensorcell.solvers.threads.thread_count", lambda: threads)
        monkeypatch.setattr("tensorcell.solvers.threads._pool", lambda count: pool)
        runs = [
            sweeps.sweep(c.data, c.mask, c.core, c.factors, rule=Rule.HUBER, threshold=THRESHOLD, twin=twin)
            for twin in (False, False, True)
        ]
    for a, b, twin in zip(*((run.core, *run.factors, np.array(run[2:])) for run in runs), strict=True):
        np.testing.assert_array_equal(a, b)  # run to run
        np.testing.assert_allclose(a, twin, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("chunk", [1, 300, 10**6])
def test_twin_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    c = case((9, 13, 11), (2, 3, 5))
    results = []
    for elements in (chunk, 143):
        monkeypatch.setattr(sweeps, "chunk_elements", lambda namespace, elements=elements: elements)
        dual = c.dual.copy()
        result = sweeps.sweep(
            c.data, c.mask, c.core, c.factors, rule=Rule.EQUALITY, dual=dual, threshold=THRESHOLD, relaxation=1.6,
            nonnegative=True, twin=True,
        )  # fmt: skip
        results.append((result.core, *result.factors, np.array(result[2:]), dual))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING)


def test_kernel_serves_several_threads_at_once() -> None:
    cases = [case((9, 13, 11), (2, 3, 5), seed=seed) for seed in range(6)]

    def work(c: Case) -> list[np.ndarray]:
        dual = c.dual.copy()
        for _ in range(20):
            result = sweeps.sweep(c.data, c.mask, c.core, c.factors, rule=Rule.EQUALITY, dual=dual, threshold=THRESHOLD)
        return [result.core, *result.factors, dual]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(work, cases))
    for c, parts in zip(cases, together, strict=True):
        for a, b in zip(parts, work(c), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_kernel_works_in_a_forked_process() -> None:
    # multiprocessing forks by default on Linux: threads do not survive that, and a pool of them would wait for ever.
    script = """
import os, signal
import numpy as np
from tensorcell.solvers import AdmmOptions, robust_tucker_admm
def run():
    return robust_tucker_admm(np.ones((4, 5, 6)), None, 1, options=AdmmOptions(max_iterations=2)).value.sum()
total = run()
child = os.fork()
if child == 0:
    signal.alarm(10)
    os._exit(0 if run() == total else 1)
print(os.waitpid(child, 0)[1])
"""
    place = Path(tensorcell.__path__[0]).parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.strip() == "0", done.stderr


@given(seed=st.integers(0, 10**6), mode=st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_sweep_follows_a_permutation_of_the_axes(seed: int, mode: int) -> None:
    c = case((4, 5, 6), (2, 3, 2), seed=seed)
    axes = [(1, 2, 0), (2, 0, 1), (0, 2, 1)][mode]
    plain, permuted = c.dual.copy(), np.ascontiguousarray(np.transpose(c.dual, axes))
    first = sweeps.sweep(
        c.data, c.mask, c.core, c.factors, rule=Rule.EQUALITY, dual=plain, threshold=THRESHOLD, nonnegative=True
    )
    second = sweeps.sweep(
        *(np.ascontiguousarray(np.transpose(array, axes)) for array in (c.data, c.mask, c.core)),
        [c.factors[axis] for axis in axes], rule=Rule.EQUALITY, dual=permuted, threshold=THRESHOLD, nonnegative=True,
    )  # fmt: skip
    np.testing.assert_allclose(second.core, np.transpose(first.core, axes), atol=ROUNDING)
    for axis, found in zip(axes, second.factors, strict=True):
        np.testing.assert_allclose(found, first.factors[axis], atol=ROUNDING)
    np.testing.assert_allclose(permuted, np.transpose(plain, axes), atol=ROUNDING)


@pytest.mark.parametrize(("shape", "rank"), SHAPES)
def test_observed_norm_and_residuals_follow_their_definition(xp: Any, shape: Any, rank: Any) -> None:
    c = case(shape, rank)
    assert passes.observed_norm(xp.put(c.data), xp.put(c.mask)) == pytest.approx(np.linalg.norm(c.data[c.mask]))
    x = dense(c.core, c.factors)
    found = [
        xp.take(part) for _, part in passes.residuals(xp.put(c.data), xp.put(c.core), [xp.put(f) for f in c.factors])
    ]
    residual = np.concatenate(found).reshape(shape)
    np.testing.assert_allclose(residual[c.mask], (c.data - x)[c.mask], atol=ROUNDING)


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
@pytest.mark.parametrize(("shape", "rank"), SHAPES)
def test_keep_inliers_and_sparse_part_follow_their_definition(
    xp: Any, monkeypatch: pytest.MonkeyPatch, shape: Any, rank: Any, chunk: int
) -> None:
    monkeypatch.setattr(passes, "chunk_elements", lambda namespace: chunk)
    c = case(shape, rank)
    data, mask, core, *factors = (xp.put(array) for array in (c.data, c.mask, c.core, *c.factors))
    residual = np.where(c.mask, c.data - dense(c.core, c.factors), 0.0)

    kept = own(xp, c.mask)
    flagged = passes.keep_inliers(data, mask, core, factors, THRESHOLD, kept)
    np.testing.assert_array_equal(xp.take(kept), c.mask & (abs(residual) <= THRESHOLD))
    assert flagged == np.count_nonzero(abs(residual) > THRESHOLD)

    for dual in (None, c.dual):
        r = residual - (0 if dual is None else np.where(c.mask, dual, 0.0))
        for soft in (False, True):
            part = passes.sparse_part(
                data, mask, core, factors, THRESHOLD, dual=None if dual is None else xp.put(dual), soft=soft
            )
            positions, values = xp.take(part.positions), xp.take(part.values)
            found = np.zeros(r.size)
            found[positions] = values
            shrunk = np.sign(r) * (abs(r) - THRESHOLD) if soft else r
            np.testing.assert_allclose(found.reshape(shape), np.where(abs(r) > THRESHOLD, shrunk, 0), atol=ROUNDING)
            assert np.all(np.diff(positions) > 0)
            assert values.dtype == c.data.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_above_what_arithmetic_leaves_and_below_all_else(planted: Any, dtype: Any) -> None:
    truth = planted((20, 21, 22), (3, 2, 3)).truth  # root mean square 1
    data = truth.astype(dtype)
    level = passes.rounding(data, float(np.linalg.norm(data)))
    largest = max(float(np.max(abs(residual))) for _, residual in passes.residuals(data, *hosvd(truth, (3, 2, 3))))
    assert 0 < largest < level
    assert level < 1e4 * np.finfo(dtype).eps  # far below anything that a microscope can tell
    assert passes.rounding(8 * data, 8 * float(np.linalg.norm(data))) == pytest.approx(8 * level)


def test_sparse_part_of_an_infinite_threshold_is_empty(xp: Any) -> None:
    c = case((5, 7, 6), (2, 3, 4), dtype=np.float32)
    data, mask, core, *factors = (xp.put(array) for array in (c.data, c.mask, c.core, *c.factors))
    positions, values = passes.sparse_part(data, mask, core, factors, np.inf)
    assert xp.take(positions).shape == xp.take(values).shape == (0,)
    assert xp.take(values).dtype == np.float32
