"""Completion methods on the problems of ``problems.py``: fixed work for the clock, and the error it bought."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.measure import fix_threads
from benchmarks.problems import NAMES, Problem, make_problem

SMALL = [name for name in NAMES if name != "d"]
Solve = Callable[[Problem], np.ndarray]


def complete(problem: Problem) -> np.ndarray:
    from tensorcell.solvers import complete_tucker

    return np.asarray(complete_tucker(problem.data, problem.mask, problem.rank, tolerance=0.0, max_iterations=3).value)


def admm(problem: Problem) -> np.ndarray:
    from tensorcell.solvers import AdmmOptions, robust_tucker_admm

    options = AdmmOptions(tolerance=0.0, max_iterations=20)
    return np.asarray(robust_tucker_admm(problem.data, problem.mask, problem.rank, options=options).value)


def em(problem: Problem) -> np.ndarray:
    from tensorcell.solvers import em_tucker

    return np.asarray(em_tucker(problem.data, problem.mask, problem.rank, tolerance=0.0, max_iterations=20).value)


def gauss_newton(problem: Problem) -> np.ndarray:
    from tensorcell.solvers import GaussNewtonOptions, hosvd, riemannian_gauss_newton

    start = hosvd(problem.data / problem.mask.mean(), problem.rank)
    trim = 5.0 if problem.has_outliers else None
    options = GaussNewtonOptions(trim=trim, tolerance=0.0, max_iterations=3)
    return np.asarray(riemannian_gauss_newton(problem.data, problem.mask, start, options=options).value)


def tensorly(problem: Problem) -> np.ndarray:
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import tucker

    mask = problem.mask.astype(problem.data.dtype)
    model = tucker(problem.data, problem.rank, mask=mask, init="random", tol=0, n_iter_max=20, random_state=0)
    return np.asarray(tucker_to_tensor(model))


METHODS: dict[str, Solve] = {
    "complete_tucker, 3 polishing steps": complete,
    "robust_tucker_admm, 20 sweeps": admm,
    "riemannian_gauss_newton, 3 steps": gauss_newton,
    "em_tucker, 20 iterations": em,
    "tensorly tucker, 20 iterations": tensorly,
}


class FixedWork:
    """The same number of iterations each time; ``track_error`` shows what speed costs in accuracy."""

    params = (list(METHODS), SMALL)
    param_names = ("method", "problem")
    number = 1
    timeout = 300

    def setup(self, method: str, problem: str) -> None:
        fix_threads(2)
        self.problem = make_problem(problem)
        METHODS[method](self.problem)  # warm

    def time_solve(self, method: str, problem: str) -> None:
        METHODS[method](self.problem)

    def track_error(self, method: str, problem: str) -> float:
        return self.problem.relative_error(METHODS[method](self.problem))

    def peakmem_setup(self, method: str, problem: str) -> None:
        """Baseline for the next one."""

    def peakmem_solve(self, method: str, problem: str) -> None:
        METHODS[method](self.problem)


class AsShipped:
    """The recommended call with nothing chosen but the rank."""

    params = SMALL
    param_names = ("problem",)
    number = 1
    timeout = 300

    def setup(self, problem: str) -> None:
        fix_threads(2)
        self.problem = make_problem(problem)
        self.solve()  # warm

    def solve(self) -> np.ndarray:
        from tensorcell.solvers import complete_tucker

        return np.asarray(complete_tucker(self.problem.data, self.problem.mask, self.problem.rank).value)

    def time_complete_tucker(self, problem: str) -> None:
        self.solve()

    def track_error(self, problem: str) -> float:
        return self.problem.relative_error(self.solve())
