"""The CUDA sweep: the kernel itself run on the host, and the whole sweep against its twin.

With CuPy and a GPU the same tests run there too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from host_cuda import HostLaunch, missing_gpu

from tensorcell.solvers import admm, cuda, kernels_cuda, kernels_numba
from tensorcell.solvers.arrays import to_host
from tensorcell.solvers.cuda import Launch
from tensorcell.solvers.rules import Rule
from tensorcell.solvers.sweeps import direction, sweep, sweep_arrays

CASES = list(itertools.product((np.float32, np.float64), Rule, (False, True)))
INSTANCES = [
    (real, rule, flag) for real in ("float", "double") for rule in map(int, Rule) for flag in ("false", "true")
]


@pytest.fixture(scope="session")
def host_launch(tmp_path_factory: pytest.TempPathFactory) -> HostLaunch:
    """The kernel on the host, all instances compiled together."""
    launch = HostLaunch(tmp_path_factory.mktemp("host"))
    instances = []
    for real, rule, flag in INSTANCES:
        arrays = (f"{real}*", f"{real}*", "unsigned char*", f"{real}*", "double*")
        instances.append((f"pointwise<{real}, {rule}, {flag}>", (*arrays, "long long", real, real, real)))
    launch.compile(kernels_cuda.PROGRAM, instances)
    return launch


@dataclass(frozen=True)
class Backend:
    """Where the kernel runs."""

    launch: Launch
    device: Callable[[Any], Any]
    """Copies a NumPy array to where the kernel runs."""


@pytest.fixture(params=["host", "gpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """The host's stand-in, and a GPU or a skip with its reason."""
    if request.param == "host":
        return Backend(request.getfixturevalue("host_launch"), np.array)
    if missing_gpu() is not None:
        pytest.skip(str(missing_gpu()))
    import cupy

    return Backend(cuda.launch, cupy.asarray)


@dataclass(frozen=True)
class Problem:
    """Flat arrays of one size, with NaN wherever the rule must not look."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    dual: np.ndarray
    tau: float
    gamma: float


def flat_problem(dtype: Any, rule: Rule, nonnegative: bool, size: int, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    x, y, dual = (rng.standard_normal(size).astype(dtype) for _ in range(3))
    w = rng.random(size) < 0.6
    y[::7] = x[::7]  # exact zeros too
    y[~w] = np.nan
    if rule == Rule.CURVATURE:
        y[:] = np.nan
    uses_dual = rule != Rule.CURVATURE and nonnegative
    if not uses_dual:
        dual[~w if rule == Rule.EQUALITY else slice(None)] = np.nan
    return Problem(x, y, w, dual, 0.7, 1.3)  # float32: 1 - gamma differs from (1 - gamma)


def expected(problem: Problem, rule: Rule, nonnegative: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direction, new dual and sums by the NumPy twin."""
    with np.errstate(invalid="ignore"):
        d, new, terms = direction(
            rule, nonnegative, problem.y, problem.w, problem.dual, problem.x, problem.tau, problem.gamma
        )
    return d, problem.dual if new is None else new, np.array([np.sum(term, dtype=np.float64) for term in terms])


def assert_sums_equal(sums: np.ndarray, wanted: np.ndarray, dtype: Any) -> None:
    # Terms are not negative and at most four of them are added in the data's dtype: three roundings. Counts are exact.
    np.testing.assert_allclose(sums[:3], wanted[:3], rtol=3 * np.finfo(dtype).eps)
    assert sums[3] == wanted[3]


def run_pointwise(
    backend: Backend, problem: Problem, rule: Rule, nonnegative: bool, shifts: tuple[int, ...] = (0, 0, 0, 0)
) -> list[Any]:
    """The kernel on copies that start ``shifts`` numbers after a 16-byte boundary, with guards at both ends."""
    arrays = (problem.x, problem.y, problem.w, problem.dual)
    inside = [slice(16 + shift, 16 + shift + problem.x.size) for shift in shifts]
    whole = [np.full(problem.x.size + 40, 99, dtype=array.dtype) for array in arrays]
    for array, part, content in zip(whole, inside, arrays, strict=True):
        array[part] = content
    moved = [backend.device(array) for array in whole]
    sums = backend.device(np.zeros((kernels_cuda.BLOCKS, 4)))
    x, y, w, dual = (array[part] for array, part in zip(moved, inside, strict=True))
    kernels_cuda.pointwise(
        int(rule), nonnegative, x, y, w, dual, sums, problem.tau, problem.gamma, launch=backend.launch
    )
    results = [to_host(array) for array in moved]
    for result, before, part in zip(results, whole, inside, strict=True):
        np.testing.assert_array_equal(result[: part.start], before[: part.start])
        np.testing.assert_array_equal(result[part.stop :], before[part.stop :])
    x, y, w, dual = (result[part] for result, part in zip(results, inside, strict=True))
    np.testing.assert_array_equal(y, problem.y)
    np.testing.assert_array_equal(w, problem.w)
    return [x, dual, to_host(sums)]


@pytest.mark.parametrize(("dtype", "rule", "nonnegative"), CASES)
def test_pointwise_equals_direction_bit_for_bit(backend: Backend, dtype: Any, rule: Rule, nonnegative: bool) -> None:
    for size, shifts in itertools.product((1, 2, 3, 4, 5, 7, 255, 1023, 1025, 2563), ((0, 0, 0, 0), (1, 1, 1, 1))):
        problem = flat_problem(dtype, rule, nonnegative, size, seed=size)
        d, new, wanted = expected(problem, rule, nonnegative)
        x, dual, sums = run_pointwise(backend, problem, rule, nonnegative, shifts)
        # No tolerance: neither side fuses products, and both do the same operations in the same order.
        np.testing.assert_array_equal(x, d)
        np.testing.assert_array_equal(dual, new)
        assert_sums_equal(sums.sum(axis=0), wanted, dtype)


@pytest.mark.parametrize(("dtype", "rule", "nonnegative"), CASES)
def test_pointwise_grid_stride_covers_more_packets_than_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, dtype: Any, rule: Rule, nonnegative: bool
) -> None:
    monkeypatch.setattr(kernels_cuda, "BLOCKS", 3)
    problem = flat_problem(dtype, rule, nonnegative, 4 * 256 * 7 + 3)
    d, new, wanted = expected(problem, rule, nonnegative)
    for shifts in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)):
        x, dual, sums = run_pointwise(backend, problem, rule, nonnegative, shifts)
        np.testing.assert_array_equal(x, d)
        np.testing.assert_array_equal(dual, new)
        assert_sums_equal(sums.sum(axis=0), wanted, dtype)
        if rule != Rule.CURVATURE:
            assert np.all(sums[:, 2] > 0)  # every block had its share


def test_pointwise_passes_nan_and_infinity_of_the_model_on(backend: Backend) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 3.0])
    y = np.array([0.0, 0.0, 0.0, 5.0, 3.0])
    problem = Problem(x, y, np.ones(5, dtype=bool), np.zeros(5), 1.0, 1.0)
    d, _, sums = run_pointwise(backend, problem, Rule.HUBER, False)
    np.testing.assert_array_equal(d, [np.nan, -1.0, 1.0, 1.0, 0.0])
    assert np.isnan(sums.sum(axis=0)[0])  # so that the loop sees that it diverged


def test_pointwise_passes_nan_of_the_model_on_where_nothing_was_observed(backend: Backend) -> None:
    problem = Problem(np.array([np.nan, -2.0]), np.zeros(2), np.zeros(2, dtype=bool), np.array([1.0, 0.5]), 1.0, 1.0)
    d, dual, _ = run_pointwise(backend, problem, Rule.HUBER, True)
    np.testing.assert_array_equal(d, [np.nan, 3.5])  # l - c - l_new = 0.5 + 1.5 + 1.5
    np.testing.assert_array_equal(dual, [np.nan, -1.5])


def test_pointwise_keeps_everything_below_an_infinite_threshold(backend: Backend) -> None:
    problem = flat_problem(np.float32, Rule.HUBER, False, 100)
    infinite = Problem(problem.x, problem.y, problem.w, problem.dual, float("inf"), 1.0)
    d, _, sums = run_pointwise(backend, infinite, Rule.HUBER, False)
    residual, _, squares = run_pointwise(backend, infinite, Rule.RESIDUAL, False)
    np.testing.assert_array_equal(d, residual)
    np.testing.assert_array_equal(sums, squares)
    assert sums.sum(axis=0)[3] == 0


def sweep_problem(dtype: Any, shape: tuple[int, int, int], seed: int = 0) -> dict[str, Any]:
    """Arguments of a sweep, by name; the model has other ranks than the matrices that contract."""
    rng = np.random.default_rng(seed)
    planes, rows, columns = shape
    sizes = {
        "y": shape, "dual": shape, "z": (planes, 4, 5), "fa": (rows, 4), "fb": (columns, 5),
        "a": (planes, 2, 3), "ua": (rows, 2), "ub": (columns, 3),
    }  # fmt: skip
    arrays: dict[str, Any] = {name: rng.standard_normal(size).astype(dtype) for name, size in sizes.items()}
    arrays["w"] = rng.random(shape) < 0.6
    arrays["y"][~arrays["w"]] = np.nan
    return {**arrays, "tau": 1.1, "gamma": 1.6}


def on(backend: Backend, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: backend.device(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()
    }


@pytest.mark.parametrize(("dtype", "rule", "nonnegative"), CASES)
@pytest.mark.parametrize(
    ("shape", "chunk_elements"),
    [
        ((1, 7, 9), 1),  # one plane, larger than the chunk
        ((5, 8, 6), 1 << 20),  # all at once
        ((11, 5, 7), 5 * 110),  # chunks of four planes and a rest
        ((7, 3, 5), 3 * 70),  # chunks of three planes: the second starts off the 16-byte boundary
    ],
)
def test_sweep_cuda_equals_sweep_arrays(
    backend: Backend, dtype: Any, rule: Rule, nonnegative: bool, shape: tuple[int, int, int], chunk_elements: int
) -> None:
    arguments = sweep_problem(dtype, shape)
    given = on(backend, arguments)
    with np.errstate(invalid="ignore"):
        wanted = sweep_arrays(rule, nonnegative, **arguments)
    result = kernels_cuda.sweep_cuda(
        int(rule), nonnegative, **given, chunk_elements=chunk_elements, launch=backend.launch
    )
    # Products of at most 9 terms of order 1, in another order; entries near the threshold move with the rounding of X.
    tolerance = 100 * np.finfo(dtype).eps
    scale = max(float(np.abs(m).max()) for m in wanted[:3])
    for ours, theirs in zip(result[:3], wanted[:3], strict=True):
        np.testing.assert_allclose(to_host(ours), theirs, rtol=0, atol=tolerance * (1 + scale))
    assert [str(m.dtype) for m in result] == [np.dtype(dtype).name] + ["float64"] * 3
    np.testing.assert_allclose(to_host(result[3]), wanted[3], rtol=tolerance)
    np.testing.assert_allclose(to_host(given["dual"]), arguments["dual"], rtol=0, atol=tolerance * 10)
    for name in ("y", "w", "z", "fa", "fb", "a", "ua", "ub"):
        np.testing.assert_array_equal(to_host(given[name]), arguments[name])


def test_sweep_cuda_repeats_itself_bit_for_bit(backend: Backend) -> None:
    arguments = sweep_problem(np.float32, (9, 31, 33))
    runs = [
        kernels_cuda.sweep_cuda(int(Rule.EQUALITY), True, **on(backend, arguments), launch=backend.launch)
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(to_host(first), to_host(second))


def test_sweep_cuda_takes_views_off_the_16_byte_boundary(backend: Backend) -> None:
    arguments = sweep_problem(np.float32, (6, 5, 7))
    whole = on(backend, arguments)
    plain = kernels_cuda.sweep_cuda(int(Rule.EQUALITY), False, **whole, launch=backend.launch)
    shifted = {}
    for name, array in on(backend, arguments).items():
        if name in ("y", "w", "dual"):
            longer = backend.device(np.zeros(array.size + 1, dtype=str(array.dtype)))
            longer[1:] = array.reshape(-1)
            array = longer[1:].reshape(array.shape)
        shifted[name] = array
    moved = kernels_cuda.sweep_cuda(int(Rule.EQUALITY), False, **shifted, launch=backend.launch)
    for ours, theirs in zip(moved[:3], plain[:3], strict=True):
        np.testing.assert_array_equal(to_host(ours), to_host(theirs))
    np.testing.assert_array_equal(to_host(shifted["dual"]), to_host(whole["dual"]))
    assert_sums_equal(to_host(moved[3]), to_host(plain[3]), np.float32)


def test_sweep_cuda_serves_sweep_and_admm(host_launch: HostLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tensor = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 2)) for n in (13, 14, 15)))
    mask = rng.random(tensor.shape) < 0.6
    data = np.where(rng.random(tensor.shape) < 0.05, 5.0, tensor)
    data[~mask] = np.nan
    options = admm.AdmmOptions(max_iterations=20)
    by_numba = admm.robust_tucker_admm(data, mask, 2, options=options)
    cuda = partial(kernels_cuda.sweep_cuda, chunk_elements=3000, launch=host_launch)
    monkeypatch.setattr(kernels_numba, "sweep_numba", cuda)
    by_cuda = admm.robust_tucker_admm(data, mask, 2, options=options)
    # Twenty sweeps with the same arithmetic in another order: rounding grows by less than a factor of ten each ten.
    np.testing.assert_allclose(by_cuda.value, by_numba.value, rtol=0, atol=1e-11)
    assert by_cuda.history[-1].outliers == by_numba.history[-1].outliers


def test_sweep_on_gpu_arrays_uses_the_kernel(backend: Backend) -> None:
    if backend.launch is not cuda.launch:
        pytest.skip("sweep chooses the kernel for CuPy arrays only")
    rng = np.random.default_rng(0)
    shape, rank = (6, 7, 8), (2, 3, 2)
    data, mask = rng.standard_normal(shape), rng.random(shape) < 0.5
    core = rng.standard_normal(rank)
    factors = [rng.standard_normal((n, r)) for n, r in zip(shape, rank, strict=True)]
    wanted = sweep(data, mask, core, factors, rule=Rule.HUBER, threshold=0.5)
    moved = [backend.device(array) for array in (data, mask, core, *factors)]
    result = sweep(moved[0], moved[1], moved[2], moved[3:], rule=Rule.HUBER, threshold=0.5)
    np.testing.assert_allclose(to_host(result.core), wanted.core, atol=1e-11)  # sums of 336 products of order 1
    for ours, theirs in zip(result.factors, wanted.factors, strict=True):
        np.testing.assert_allclose(to_host(ours), theirs, atol=1e-11)
    assert result.read().outliers == wanted.read().outliers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.zeros((2, 3, 4), dtype=np.int32)}, "expected a data of dtype float32 or float64, got int32"),
        ({"w": np.zeros((2, 3, 4), dtype=np.uint8)}, "expected a mask of dtype bool, got uint8"),
        ({"dual": np.zeros((2, 3, 4), dtype=np.float32)}, "expected a dual of dtype float64, got float32"),
        ({"dual": np.zeros((2, 3, 5))}, r"dual has shape \(2, 3, 5\), data has shape \(2, 3, 4\)"),
        ({"w": np.zeros((2, 4, 3), dtype=bool).transpose(0, 2, 1)}, "expected a mask in C order, got strides"),
    ],
)
def test_sweep_cuda_refuses_what_bare_pointers_would_misread(changes: dict[str, Any], message: str) -> None:
    arguments = sweep_problem(np.float64, (2, 3, 4)) | changes
    with pytest.raises(ValueError, match=message):
        kernels_cuda.sweep_cuda(int(Rule.EQUALITY), False, **arguments)


@pytest.mark.parametrize("planes", [1, 3, 4, 5, 18, 1000])
@pytest.mark.parametrize("chunk_elements", [1, 100, 1234, 10**9])
def test_planes_a_chunk_stays_within_bounds(planes: int, chunk_elements: int) -> None:
    step = kernels_cuda.planes_a_chunk(planes, 30, chunk_elements)
    assert 1 <= step <= planes
    assert step == 1 or step * 30 <= chunk_elements
    assert step % 4 == 0 or step < 4 or step == planes
