"""One ADMM sweep in float32, also against what memory and arithmetic allow on the same machine."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.measure import Floors, fix_threads, sweep_floors
from benchmarks.problems import Problem, planted_problem

SHAPE = (64, 384, 384)  # data, mask and dual together exceed the caches of most machines
SWEEPS = 10


@lru_cache(maxsize=1)
def problem(rank: tuple[int, int, int]) -> Problem:
    return planted_problem("sweep", SHAPE, rank, seen=0.25, noise=0.1, dtype=np.float32)


@lru_cache(maxsize=1)
def floors(rank: tuple[int, int, int], fidelity: str) -> Floors:
    return sweep_floors(SHAPE, rank, dual=fidelity == "equality")


class Sweep:
    """``SWEEPS`` sweeps from a state that is already under way, so that no start is counted."""

    params = ([(5, 5, 5), (20, 40, 40)], ["equality", "huber"])
    param_names = ("rank", "fidelity")
    number = 1
    timeout = 300

    def setup(self, rank: tuple[int, int, int], fidelity: str) -> None:
        from tensorcell.solvers import AdmmOptions, robust_tucker_admm

        fix_threads(2)
        self.problem = problem(rank)
        self.solver, self.options = robust_tucker_admm, AdmmOptions
        self.state = None
        self.state = self.run(fidelity, 2).state

    def run(self, fidelity: Any, sweeps: int, callback: Any = None) -> Any:
        options = self.options(fidelity=fidelity, tolerance=0.0, max_iterations=sweeps)
        return self.solver(
            self.problem.data,
            self.problem.mask,
            self.problem.rank,
            options=options,
            initial_state=self.state,
            callback=callback,
        )

    def seconds_per_sweep(self, fidelity: str) -> float:
        ends: list[float] = []
        self.run(fidelity, SWEEPS, lambda *_: ends.append(time.perf_counter()))
        return float(np.diff(ends).min())

    def time_sweeps(self, rank: tuple[int, int, int], fidelity: str) -> None:
        self.run(fidelity, SWEEPS)

    def track_seconds_per_sweep(self, rank: tuple[int, int, int], fidelity: str) -> float:
        return self.seconds_per_sweep(fidelity)

    def track_ratio_to_memory_floor(self, rank: tuple[int, int, int], fidelity: str) -> float:
        return self.seconds_per_sweep(fidelity) / floors(rank, fidelity).memory

    def track_ratio_to_arithmetic_floor(self, rank: tuple[int, int, int], fidelity: str) -> float:
        return self.seconds_per_sweep(fidelity) / floors(rank, fidelity).arithmetic

    def track_ratio_to_larger_floor(self, rank: tuple[int, int, int], fidelity: str) -> float:
        return self.seconds_per_sweep(fidelity) / floors(rank, fidelity).larger

    track_seconds_per_sweep.unit = "s"  # type: ignore[attr-defined]

    def peakmem_setup(self, rank: tuple[int, int, int], fidelity: str) -> None:
        """Baseline for the next one."""

    def peakmem_sweeps(self, rank: tuple[int, int, int], fidelity: str) -> None:
        self.run(fidelity, SWEEPS)
