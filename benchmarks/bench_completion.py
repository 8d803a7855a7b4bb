"""Completion methods on the problems of ``problems.py``: the error that fixed work bought, and the time to an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.compare_completion import METHODS as COMPARED
from benchmarks.compare_completion import importable
from benchmarks.measure import BACKENDS, fix_threads, on_backend
from benchmarks.problems import NAMES, Problem, sized_problem, some, warm_up_problem

FINITE = [name for name in NAMES if name != "d"]
"""Problems that are done within minutes."""
TARGETS = (1e-2, 1e-4, 1e-6)
"""Relative distances to the planted tensor, over all entries."""
ORDER = sorted(COMPARED, key=lambda name: COMPARED[name].package != "tensorcell")
"""Ours first."""

Settings = dict[tuple[str, str, float], float]
"""By method, problem and error: iterations or tolerance to run with."""

Solve = Callable[[Problem, Any, Any], Any]
"""``solve(problem, data, mask)``: the dense tensor, from the arrays of the problem on their backend."""


def complete(problem: Problem, data: Any, mask: Any) -> Any:
    from tensorcell.solvers import complete_tucker

    return complete_tucker(data, mask, problem.rank, tolerance=0.0, max_iterations=3).value


def admm(problem: Problem, data: Any, mask: Any) -> Any:
    from tensorcell.solvers import AdmmOptions, robust_tucker_admm

    options = AdmmOptions(tolerance=0.0, max_iterations=20)
    return robust_tucker_admm(data, mask, problem.rank, options=options).value


def em(problem: Problem, data: Any, mask: Any) -> Any:
    from tensorcell.solvers import em_tucker

    return em_tucker(data, mask, problem.rank, tolerance=0.0, max_iterations=20).value


def gauss_newton(problem: Problem, data: Any, mask: Any) -> Any:
    from tensorcell.solvers import GaussNewtonOptions, hosvd, riemannian_gauss_newton

    start = hosvd(data / float(problem.mask.mean()), problem.rank)
    options = GaussNewtonOptions(trim=5.0 if problem.has_outliers else None, tolerance=0.0, max_iterations=3)
    return riemannian_gauss_newton(data, mask, start, options=options).value


def tensorly(problem: Problem, data: Any, mask: Any) -> Any:
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import tucker

    seen = mask.astype(data.dtype)
    model = tucker(data, problem.rank, mask=seen, init="random", tol=0, n_iter_max=20, random_state=0)
    return tucker_to_tensor(model)


METHODS: dict[str, Solve] = {
    "complete_tucker, 3 polishing steps": complete,
    "robust_tucker_admm, 20 sweeps": admm,
    "riemannian_gauss_newton, 3 steps": gauss_newton,
    "em_tucker, 20 iterations": em,
    "tensorly tucker, 20 iterations": tensorly,
}


class FixedWork:
    """The same number of iterations each time; ``track_error`` shows what speed costs in accuracy."""

    params = (some(list(METHODS)), some(FINITE), some(BACKENDS))
    param_names = ("method", "problem", "backend")
    number = 1
    timeout = 300

    def setup(self, method: str, problem: str, backend: str) -> None:
        if "tensorly" in method and backend != "numpy":
            raise NotImplementedError("TensorLy's backend is a global switch, which is left alone")
        fix_threads(2)
        self.problem, self.method = sized_problem(problem), METHODS[method]
        self.arrays = on_backend(backend, self.problem.data, self.problem.mask)
        small = warm_up_problem(self.problem)
        self.method(small, *on_backend(backend, small.data, small.mask))

    def solve(self) -> np.ndarray:
        from tensorcell.solvers.arrays import to_host

        return to_host(self.method(self.problem, *self.arrays))  # waits for the device

    def time_solve(self, *_: Any) -> None:
        self.solve()

    def track_error(self, *_: Any) -> float:
        return self.problem.relative_error(self.solve())

    def peakmem_setup(self, *_: Any) -> None:
        """Baseline for the next one."""

    def peakmem_solve(self, *_: Any) -> None:
        self.solve()


class _ToError:
    """Seconds of the shortest run that comes as close as this to the planted tensor, from the start.

    How long to run is found beforehand, in ``setup_cache``, by the search of ``compare_completion.py``. What never gets
    there and what is not installed is skipped. asv knows a ``setup_cache`` by its line: each class has its own.
    """

    param_names = ("method", "problem", "target")
    number = 1
    repeat = 3
    warmup_time = 0
    timeout = 300

    def setup(self, found: Settings, method: str, problem: str, target: float) -> None:
        if not installed(method):
            raise NotImplementedError(f"{COMPARED[method].package} is not installed")
        if (method, problem, target) not in found:
            raise NotImplementedError(f"{method} does not come to {target:g} on ({problem})")
        fix_threads(2)
        self.problem, self.setting = sized_problem(problem), found[method, problem, target]
        COMPARED[method].prepare(warm_up_problem(self.problem))(None)
        self.solve = COMPARED[method].prepare(self.problem)

    def time_to_error(self, *_: Any) -> None:
        self.solve(self.setting)

    def track_error(self, *_: Any) -> float:
        return self.problem.relative_error(self.solve(self.setting).estimate)


class ToError(_ToError):
    """Where all entries that were seen are right."""

    params = (some([name for name in ORDER if "pca" not in name]), some(("a", "c")), some(TARGETS))

    def setup_cache(self) -> Settings:
        return all_settings(*self.params[:2])

    setup_cache.timeout = 3600  # type: ignore[attr-defined]


class ToErrorOutliers(_ToError):
    """Where a tenth of them is wrong, by methods that know of outliers."""

    params = (some([name for name in ORDER if COMPARED[name].robust]), some(("b", "b'")), some(TARGETS))

    def setup_cache(self) -> Settings:
        return all_settings(*self.params[:2])

    setup_cache.timeout = 3600  # type: ignore[attr-defined]


def installed(method: str) -> bool:
    """Whether there is the package that a method comes from, if it comes from one."""
    package = COMPARED[method].package
    return package is None or importable(package)


def all_settings(methods: Sequence[str], problems: Sequence[str]) -> Settings:
    """What to run each method with to come to each error that it comes to."""
    fix_threads(2)
    return {
        (method, problem, target): setting
        for method in filter(installed, methods)
        for problem in problems
        for target, setting in settings_that_meet(method, sized_problem(problem)).items()
    }


def settings_that_meet(name: str, problem: Problem) -> dict[float, float]:
    """For each of ``TARGETS`` that a method meets, the cheapest of its settings that does."""
    method = COMPARED[name]
    solve = method.prepare(problem)
    met: dict[float, float] = {}
    for target in TARGETS:
        for setting in method.settings(problem, target):
            if problem.relative_error(solve(setting).estimate) <= target:
                met[target] = setting
                break
        else:
            return met
    return met


class AsShipped:
    """The recommended call with nothing chosen but the rank."""

    params = (some(FINITE), some(["float64", "float32"]), some(BACKENDS))
    param_names = ("problem", "dtype", "backend")
    number = 1
    timeout = 300

    def setup(self, problem: str, dtype: str, backend: str) -> None:
        fix_threads(2)
        self.problem = sized_problem(problem)
        self.arrays = on_backend(backend, self.problem.data.astype(dtype), self.problem.mask)
        self.solve()  # warm

    def solve(self) -> np.ndarray:
        from tensorcell.solvers import complete_tucker
        from tensorcell.solvers.arrays import to_host

        return to_host(complete_tucker(*self.arrays, self.problem.rank).value)

    def time_complete_tucker(self, *_: Any) -> None:
        self.solve()

    def track_error(self, *_: Any) -> float:
        return self.problem.relative_error(self.solve())
