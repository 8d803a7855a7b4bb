"""Clocks, the machine's own limits, and the least work that a sweep can be done with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import threadpoolctl

BACKENDS = ("numpy", "cupy")
"""Where arrays lie: parameters of benchmarks."""

PACKAGES = ("tensorcell", "numpy", "scipy", "numba", "tensorly", "pyTensorlab", "pyttb")


@dataclass(frozen=True)
class Timing:
    """Wall seconds and CPU seconds of the whole process, all its threads together."""

    wall: float
    cpu: float


def timed(function: Callable[[], Any]) -> tuple[Any, Timing]:
    """Result of a call and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, Timing(time.perf_counter() - wall, time.process_time() - cpu)


def version(package: str) -> str | None:
    """Installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fix_threads(count: int) -> None:
    """Let BLAS and Numba use ``count`` threads, from now on (call before anything has run)."""
    import numba
    import scipy.linalg  # noqa: F401  (its BLAS must be loaded to be limited)

    threadpoolctl.threadpool_limits(count)
    numba.set_num_threads(min(count, available_cores(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def require(*modules: str) -> None:
    """Let asv skip a benchmark that needs a module which is not installed: NotImplementedError in ``setup`` does."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise NotImplementedError(f"{module} is not installed")


def on_backend(backend: str, *arrays: np.ndarray) -> list[Any]:
    """The arrays for one of ``BACKENDS``; where it cannot work, asv skips the benchmark."""
    from tensorcell.device import cuda_problem, on_device

    if backend == "numpy":
        return list(arrays)
    problem = cuda_problem()
    if problem:
        raise NotImplementedError(problem)
    return [on_device(array, "cuda") for array in arrays]


def finish(backend: str) -> None:
    """Wait until the device has done all that it was given, so that a clock sees it."""
    if backend == "cupy":
        import cupy

        cupy.cuda.Device().synchronize()


def machine() -> str:
    """One line on the machine, its BLAS and the versions of everything that is measured."""
    import scipy.linalg  # noqa: F401  (its BLAS must be loaded to be listed)

    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
            processor = next(named, processor)
    blas = {
        f"{pool['internal_api']} {pool['version']} ({pool['num_threads']} threads)"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    }
    versions = [f"{package} {version(package)}" for package in PACKAGES if version(package)]
    cores = f"{processor}, {available_cores()} cores"
    return "; ".join([cores, *sorted(blas), f"Python {platform.python_version()}", *versions])


Clock = Callable[[], float]
"""Seconds since some moment."""


def best_seconds(function: Callable[[], Any], repeats: int, clock: Clock = time.perf_counter) -> float:
    """Shortest time of several calls, by default on the wall: what the machine can do when nothing else runs."""
    seconds = []
    for _ in range(repeats):
        begin = clock()
        function()
        seconds.append(clock() - begin)
    return min(seconds)


def copy_bandwidth(
    *, megabytes: int = 256, repeats: int = 5, cores: int | None = None, clock: Clock = time.perf_counter
) -> float:
    """Bytes a second read plus written by a plain copy that no cache holds, all cores at work or as many as given."""
    source = np.ones(megabytes << 18, np.float32)
    target = np.zeros_like(source)
    cores = available_cores() if cores is None else cores
    pieces = list(zip(np.array_split(target, cores), np.array_split(source, cores), strict=True))
    with ThreadPoolExecutor(cores) as pool:  # NumPy releases the interpreter lock while it copies
        seconds = best_seconds(lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces)), repeats, clock)
    return 2 * source.nbytes / seconds


def cache_bandwidth(
    *, kilobytes: int = 256, repeats: int = 5, cores: int = 1, clock: Clock = time.perf_counter
) -> float:
    """Bytes a second read plus written by copies of an array that the second-level cache of each core holds."""
    source = np.ones(kilobytes << 8, np.float32)
    target, times = np.zeros_like(source), 400

    def copies(_: int) -> None:
        own = np.empty_like(target)
        for _ in range(times):
            np.copyto(own, source)

    with ThreadPoolExecutor(cores) as pool:
        seconds = best_seconds(lambda: list(pool.map(copies, range(cores))), repeats, clock)
    return 2 * source.nbytes * times * cores / seconds


def gemm_rate(dtype: Any, *, side: int = 1536, repeats: int = 5, clock: Clock = time.perf_counter) -> float:
    """Operations (multiplications and additions) a second in a large matrix product."""
    left, right = (np.random.default_rng(0).random((side, side), dtype) for _ in range(2))
    out = np.empty_like(left)
    return 2 * side**3 / best_seconds(lambda: np.matmul(left, right, out=out), repeats, clock)


def sgemm_rate(*, side: int = 1536, repeats: int = 5) -> float:
    """:func:`gemm_rate` in float32."""
    return gemm_rate(np.float32, side=side, repeats=repeats)


def sweep_bytes(shape: Sequence[int], *, dual: bool = True) -> int:
    """Memory traffic of one ADMM sweep in float32: data 4, mask 1, a dual 4 read and 4 written a voxel."""
    return (13 if dual else 5) * math.prod(shape)


def sweep_operations(shape: Sequence[int], rank: Sequence[int]) -> int:
    """Operations of one sweep over a tensor of three modes, with the modes in the cheapest order.

    The model ``G x1 U1 x2 U2 x3 U3`` is expanded along mode 1, 2, 3. The direction ``D`` is contracted along
    mode 3; from that come ``D_(1)`` (contracted along 2) and ``D_(2)`` (along 1, or with the model expanded
    along 1); for ``D_(3)`` it is contracted once more, along 2 then 1, or with the model expanded along 1 and
    2. A multiplication with an addition counts as 2: for three equal ranks ``6 r`` a voxel to leading order.

    >>> sweep_operations((1000, 1000, 1000), (5, 5, 5)) / 1000**3
    30.15...
    """
    orders = permutations(range(3))
    return min(_operations([shape[n] for n in order], [rank[n] for n in order]) for order in orders)


def _operations(shape: Sequence[int], rank: Sequence[int]) -> int:
    (i1, i2, i3), (r1, r2, r3), voxels = shape, rank, math.prod(shape)
    expand = i1 * r1 * r2 * r3 + i1 * i2 * r2 * r3 + voxels * r3
    contract_1_and_2 = voxels * r3 + i1 * i2 * r2 * r3 + i1 * i2 * r3 * min(r1, r2)
    contract_3 = min(voxels * r3, voxels * r2 + i1 * i3 * r1 * r2)
    core = i1 * r1 * r2 * r3
    procrustes = 2 * sum(shape) * r1 * r2 * r3  # products with the core for every mode, SVDs not counted
    return 2 * (expand + contract_1_and_2 + contract_3 + core + procrustes)


@dataclass(frozen=True)
class Floors:
    """Seconds below which one ADMM sweep in float32 cannot go on this machine."""

    memory: float
    """Bytes over copy bandwidth."""
    arithmetic: float
    """Operations over the rate of a large sgemm."""
    bandwidth: float
    """Bytes a second."""
    rate: float
    """Operations a second."""

    @property
    def larger(self) -> float:
        """The floor that counts."""
        return max(self.memory, self.arithmetic)

    def __str__(self) -> str:
        return (
            f"memory {self.memory * 1e3:.1f} ms ({self.bandwidth / 1e9:.1f} GB/s), "
            f"arithmetic {self.arithmetic * 1e3:.1f} ms ({self.rate / 1e9:.0f} Gflop/s)"
        )


def sweep_floors(shape: Sequence[int], rank: Sequence[int], *, dual: bool = True) -> Floors:
    """Measure bandwidth and sgemm rate, and turn them into the floors of one sweep."""
    bandwidth, rate = copy_bandwidth(), sgemm_rate()
    return Floors(
        memory=sweep_bytes(shape, dual=dual) / bandwidth,
        arithmetic=sweep_operations(shape, rank) / rate,
        bandwidth=bandwidth,
        rate=rate,
    )
