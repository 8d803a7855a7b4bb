"""One ADMM sweep, also against what memory and arithmetic allow on the same machine."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.measure import BACKENDS, Floors, finish, fix_threads, on_backend, sweep_floors
from benchmarks.problems import SMALL, planted_problem, some, volume_shape

SHAPE = (64, 384, 384)  # data, mask and dual together exceed the caches of most machines
SMALLER = (32, 128, 128)
RANKS = ((5, 5, 5), (10, 20, 20) if SMALL else (20, 40, 40))
SWEEPS = 10


class UnderWay:
    """A run of ADMM that is already under way, so that no start is counted."""

    number = 1
    timeout = 300

    def begin(self, shape: Any, rank: Any, seen: float, dtype: str, fidelity: str, backend: str) -> None:
        from tensorcell.solvers import AdmmOptions, robust_tucker_admm

        fix_threads(2)
        problem = planted_problem("sweep", volume_shape(shape), rank, seen=seen, noise=0.1, dtype=np.dtype(dtype).type)
        self.data, self.mask = on_backend(backend, problem.data, problem.mask)
        self.rank, self.fidelity, self.backend = rank, fidelity, backend
        self.solver, self.options = robust_tucker_admm, AdmmOptions
        self.state = None
        self.state = self.run(2).state

    def run(self, sweeps: int, callback: Any = None) -> Any:
        options = self.options(fidelity=self.fidelity, tolerance=0.0, max_iterations=sweeps)  # type: ignore[arg-type]
        result = self.solver(
            self.data, self.mask, self.rank, options=options, initial_state=self.state, callback=callback
        )
        finish(self.backend)
        return result

    def seconds_per_sweep(self) -> float:
        ends: list[float] = []
        self.run(SWEEPS, lambda *_: ends.append(time.perf_counter()))
        return float(np.diff(ends).min())


class Sweep(UnderWay):
    """``SWEEPS`` sweeps, by everything that their time depends on."""

    params = (
        some((SHAPE, SMALLER)),
        some(RANKS),
        some([0.25, 1.0]),
        some(["float32", "float64"]),
        some(BACKENDS),
    )
    param_names = ("shape", "rank", "seen", "dtype", "backend")

    def setup(self, shape: Any, rank: Any, seen: float, dtype: str, backend: str) -> None:
        self.begin(shape, rank, seen, dtype, "equality", backend)

    def time_sweeps(self, *_: Any) -> None:
        self.run(SWEEPS)

    def peakmem_setup(self, *_: Any) -> None:
        """Baseline for the next one."""

    def peakmem_sweeps(self, *_: Any) -> None:
        self.run(SWEEPS)


@lru_cache(maxsize=1)
def floors(rank: tuple[int, int, int], fidelity: str) -> Floors:
    return sweep_floors(volume_shape(SHAPE), rank, dual=fidelity == "equality")


class SweepFloors(UnderWay):
    """A sweep in float32, a quarter seen, over its floors."""

    params = (some(RANKS), some(["equality", "huber"]))
    param_names = ("rank", "fidelity")

    def setup(self, rank: Any, fidelity: str) -> None:
        self.begin(SHAPE, rank, 0.25, "float32", fidelity, "numpy")

    def track_seconds_per_sweep(self, rank: Any, fidelity: str) -> float:
        return self.seconds_per_sweep()

    def track_ratio_to_memory_floor(self, rank: Any, fidelity: str) -> float:
        return self.seconds_per_sweep() / floors(rank, fidelity).memory

    def track_ratio_to_arithmetic_floor(self, rank: Any, fidelity: str) -> float:
        return self.seconds_per_sweep() / floors(rank, fidelity).arithmetic

    def track_ratio_to_larger_floor(self, rank: Any, fidelity: str) -> float:
        return self.seconds_per_sweep() / floors(rank, fidelity).larger

    track_seconds_per_sweep.unit = "s"  # type: ignore[attr-defined]
