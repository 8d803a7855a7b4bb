"""Time to a given error of ours and every installed peer, on the same problems, in one run.

    python benchmarks/compare_completion.py [--problems "a,b,b',c"] [--methods ...] [--repeats 1] [--csv FILE]

Prints the machine, then one table in Markdown. The error is ``||X - T|| / ||T||`` against the planted truth,
over the whole tensor. How the time to an error is found without the search touching the clock:

- methods that count iterations (TensorLy, the NumPy baseline): the error after every iteration comes from an
  untimed run; then a run from the start that makes exactly the iterations needed is timed;
- TensorLy's ``robust_pca``, whose iterations cannot be followed: runs of 100, 150, 200, 300, ... iterations;
- methods with a tolerance (ours, pyTensorlab): ever smaller tolerances, the first that meets the error counts.

Times are those of whole calls, starts included; bringing the data into a peer's own format is not counted.
Each method is warmed up on a small problem first (imports, compilation), which is reported apart. A method that
does not get there, because it stalls or a run takes more than ``--cap`` seconds, is "not reached", with its last
error.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

if __name__ == "__main__":  # run as a script: find `benchmarks`, and `tensorcell` where it is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.measure import Timing, available_cores, fix_threads, machine, timed, version
from benchmarks.problems import NAMES, Problem, make_problem, warm_up_problem

TARGETS = (1e-4, 1e-6)
TOLERANCES = tuple(10.0**-k for k in range(1, 12))
STALL_WINDOW = 60
"""Iterations within which an error must fall by 1 %, else the method has stalled."""
PATIENCE = 4
"""Settings in a row that do not lower the error by 10 % before a method is given up."""
ROW_CAPS = 2
"""Caps of a run that all runs of a row may take together."""

Setting = float | None
"""Iterations or tolerance to run with, whichever the method has; None: as shipped."""


@dataclass(frozen=True)
class Answer:
    """What one run found: the full tensor, and the number of iterations where the method tells."""

    estimate: np.ndarray
    iterations: int | None


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes
    ----------
    name : str
    package : str or None
        Distribution that must be installed.
    prepare : callable
        ``prepare(problem)`` brings it into the method's format (not timed) and returns ``solve(setting)``.
    settings : callable
        ``settings(problem, target)`` yields the settings to try until the error is met, cheapest first.
    robust : bool
        Whether it knows outliers; the others are shown on such problems as shipped only.
    has_defaults : bool
        Whether there is a run "as shipped" to show.
    """

    name: str
    package: str | None
    prepare: Callable[[Problem], Callable[[Setting], Answer]]
    settings: Callable[[Problem, float], Iterable[float]]
    robust: bool = False
    has_defaults: bool = True


@dataclass(frozen=True)
class Reached:
    """Best run that met a target."""

    timing: Timing
    iterations: int | None
    error: float


@dataclass(frozen=True)
class Row:
    """All that is known of one method on one problem."""

    problem: str
    method: str
    warm_up: float
    targets: dict[float, Reached | None]
    shipped: Reached | None
    last_error: float | None
    capped: bool


# ----------------------------------------------------------------------------------------------------
# the search


def iterations_needed(
    errors: Callable[[Problem], Iterator[float]],
) -> Callable[[Problem, float], Iterator[float]]:
    """The one number of iterations that meets the target, from an untimed run."""
    known: dict[str, list[float]] = {}

    def settings(problem: Problem, target: float) -> Iterator[float]:
        if problem.name not in known:
            known[problem.name] = follow(errors(problem), min(TARGETS))
        history = known[problem.name]
        yield next((n for n, error in enumerate(history, start=1) if error <= target), len(history))

    return settings


def follow(errors: Iterator[float], target: float) -> list[float]:
    """Errors of the iterations up to the target, or until they stall."""
    history: list[float] = []
    for error in errors:
        history.append(error)
        best_before = min(history[:-STALL_WINDOW], default=np.inf)
        if error <= target or min(history) > 0.99 * best_before:
            break
    return history


class TooLong(Exception):
    """A run went over the cap."""


@contextlib.contextmanager
def alarm_after(seconds: float) -> Iterator[None]:
    """Raise :class:`TooLong` in the main thread after so many seconds (where the system has alarms)."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def best_of(solve: Callable[[Setting], Answer], setting: Setting, problem: Problem, repeats: int) -> Reached:
    """Shortest of several equal runs."""
    runs = []
    for _ in range(repeats):
        gc.collect()
        answer, timing = timed(lambda: solve(setting))
        runs.append((timing, answer))
    timing, answer = min(runs, key=lambda run: run[0].wall)
    return Reached(timing, answer.iterations, problem.relative_error(answer.estimate))


def measure(method: Method, problem: Problem, *, repeats: int, cap: float) -> Row:
    """Fill one row."""
    deadline = time.monotonic() + ROW_CAPS * cap * repeats
    small = warm_up_problem(problem)
    _, warm_up = timed(lambda: method.prepare(small)(None))
    solve = method.prepare(problem)
    targets: dict[float, Reached | None] = dict.fromkeys(TARGETS)
    shipped, last_error, capped = None, None, False
    wanted = TARGETS if method.robust or not problem.has_outliers else ()
    try:
        with alarm_after(cap):
            shipped = best_of(solve, None, problem, 1) if method.has_defaults else None
        last_error = None if shipped is None else shipped.error
        tried: set[float] = set()
        stale = 0
        for target in wanted:
            for setting in method.settings(problem, target):
                if setting in tried or stale == PATIENCE:
                    continue
                with alarm_after(min(cap * repeats, deadline - time.monotonic())):
                    run = best_of(solve, setting, problem, repeats)
                stale = stale + 1 if last_error and run.error > 0.9 * last_error else 0
                last_error = run.error
                if run.error <= target:
                    for met in (goal for goal in TARGETS if run.error <= goal and targets[goal] is None):
                        targets[met] = run
                    break
                tried.add(setting)  # the settings of the next target go on from here
            if targets[target] is None:
                break
    except TooLong:
        capped = True
    return Row(problem.name, method.name, warm_up.wall, targets, shipped, last_error, capped)


# ----------------------------------------------------------------------------------------------------
# peers


def tensorly_tucker(**options: Any) -> Method:
    """TensorLy's masked Tucker, made to go on (``tol=0``); as shipped it stops by itself."""

    def call(problem: Problem, **more: Any) -> Any:
        from tensorly.decomposition import tucker

        return tucker(problem.data, problem.rank, mask=problem.mask.astype(problem.data.dtype), random_state=0, **more)

    def dense(model: Any) -> np.ndarray:
        from tensorly import tucker_to_tensor

        return np.asarray(tucker_to_tensor(model))

    def prepare(problem: Problem) -> Callable[[Setting], Answer]:
        def solve(setting: Setting) -> Answer:
            limits = {} if setting is None else {"tol": 0, "n_iter_max": int(setting)}
            return Answer(dense(call(problem, **options, **limits)), None if setting is None else int(setting))

        return solve

    def errors(problem: Problem) -> Iterator[float]:
        # A model given as `init` goes on exactly where it stood: core and factors are all the loop's state.
        model = call(problem, tol=0, n_iter_max=1, **options)
        while True:
            yield problem.relative_error(dense(model))
            model = call(problem, tol=0, n_iter_max=1, init=model)

    name = ", ".join(f"{key}={value}" for key, value in options.items())
    return Method(f"tensorly tucker ({name})", "tensorly", prepare, iterations_needed(errors))


def tensorly_robust_pca(label: str, counts: tuple[float, ...], **options: Any) -> Method:
    """TensorLy's robust tensor PCA, as shipped or with so many iterations."""

    def prepare(problem: Problem) -> Callable[[Setting], Answer]:
        from tensorly.decomposition import robust_pca

        mask = problem.mask.astype(problem.data.dtype)

        def solve(setting: Setting) -> Answer:
            count = 100 if setting is None else int(setting)
            low_rank, _ = robust_pca(problem.data, mask=mask, verbose=0, n_iter_max=count, **options)
            return Answer(low_rank, count)

        return solve

    return Method(
        f"tensorly robust_pca ({label})",
        "tensorly",
        prepare,
        lambda *_: counts,
        robust=True,
        has_defaults=not counts,
    )


def pytensorlab_nls() -> Method:
    """pyTensorlab's least squares on the observed entries, from the HOSVD of the zero-filled data."""

    def prepare(problem: Problem) -> Callable[[Setting], Answer]:
        import pytensorlab
        from pytensorlab.algorithms.lmlra import LMLRANlsOptions

        incomplete = pytensorlab.IncompleteTensor(
            problem.data[problem.mask], flat_indices=np.flatnonzero(problem.mask), shape=problem.data.shape
        )

        def solve(setting: Setting) -> Answer:
            options: dict[str, Any] = {}
            if setting is not None:  # the cost is 1/2 of the sum of squares
                cost = 0.5 * (setting * float(np.linalg.norm(problem.data))) ** 2
                options = {"tol_relfval": 0.0, "tol_relstep": 0.0, "tol_subspace": 0.0, "tol_absfval": cost}
            core, factors = zero_filled_hosvd(problem)
            start = pytensorlab.TuckerTensor(factors, core / problem.mask.mean())
            model, log = pytensorlab.lmlra_nls(incomplete, start, LMLRANlsOptions(display=0, **options))
            return Answer(np.array(model), int(log.niterations))

        return solve

    def settings(_: Problem, target: float) -> Iterator[float]:
        yield from (target * factor for factor in (2.0, 1.0, 0.5, 0.25, 0.1))

    return Method("pyTensorlab lmlra_nls", "pyTensorlab", prepare, settings)


def plain_em() -> Method:
    """EM-HOOI in plain NumPy: fill with the model, one sweep of higher-order orthogonal iteration, again."""

    def steps(problem: Problem) -> Iterator[np.ndarray]:
        core, factors = zero_filled_hosvd(problem)
        model = expand(core / problem.mask.mean(), factors)
        while True:
            filled = np.where(problem.mask, problem.data, model)
            for axis in range(filled.ndim):
                rest = filled
                for other in range(filled.ndim):
                    if other != axis:
                        rest = along(rest, factors[other].T, other)
                unfolded = np.moveaxis(rest, axis, 0).reshape(filled.shape[axis], -1)
                factors[axis] = np.linalg.svd(unfolded, full_matrices=False)[0][:, : problem.rank[axis]]
            core = along(rest, factors[-1].T, filled.ndim - 1)
            model = expand(core, factors)
            yield model

    def prepare(problem: Problem) -> Callable[[Setting], Answer]:
        def solve(setting: Setting) -> Answer:
            count = 1 if setting is None else int(setting)
            estimate, _ = next((model, n) for n, model in enumerate(steps(problem), start=1) if n == count)
            return Answer(estimate, count)

        return solve

    def errors(problem: Problem) -> Iterator[float]:
        return map(problem.relative_error, steps(problem))

    return Method("EM-HOOI, plain NumPy", None, prepare, iterations_needed(errors), has_defaults=False)


def along(tensor: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Mode product."""
    return np.moveaxis(np.tensordot(tensor, matrix, axes=(axis, 1)), -1, axis)


def expand(core: np.ndarray, factors: Iterable[np.ndarray]) -> np.ndarray:
    """Tucker model to full tensor."""
    for axis, factor in enumerate(factors):
        core = along(core, factor, axis)
    return core


def zero_filled_hosvd(problem: Problem) -> tuple[np.ndarray, list[np.ndarray]]:
    """Core and factors of the truncated HOSVD of the data with zeros where nothing was seen."""
    factors = []
    for axis, rank in enumerate(problem.rank):
        unfolded = np.moveaxis(problem.data, axis, 0).reshape(problem.data.shape[axis], -1)
        factors.append(np.linalg.eigh(unfolded @ unfolded.T)[1][:, : -rank - 1 : -1])
    return expand(problem.data, [factor.T for factor in factors]), factors


# ----------------------------------------------------------------------------------------------------
# ours


def ours_complete(*, robust: bool) -> Method:
    """The recommended combination."""

    def prepare(problem: Problem) -> Callable[[Setting], Answer]:
        from tensorcell.solvers import complete_tucker

        def solve(setting: Setting) -> Answer:
            options: dict[str, Any] = {} if setting is None else {"tolerance": setting}
            result = complete_tucker(problem.data, problem.mask, problem.rank, robust=robust, **options)
            return Answer(result.value, result.iterations)

        return solve

    name = "tensorcell complete_tucker" + ("" if robust else " (robust=False)")
    return Method(name, "tensorcell", prepare, lambda *_: TOLERANCES, robust=robust)


def ours_admm() -> Method:
    """ADMM alone."""

    def prepare(problem: Problem) -> Callable[[Setting], Answer]:
        from tensorcell.solvers import AdmmOptions, robust_tucker_admm

        def solve(setting: Setting) -> Answer:
            options = AdmmOptions() if setting is None else AdmmOptions(tolerance=setting, max_iterations=1000)
            result = robust_tucker_admm(problem.data, problem.mask, problem.rank, options=options)
            return Answer(result.value, result.iterations)

        return solve

    return Method("tensorcell robust_tucker_admm", "tensorcell", prepare, lambda *_: TOLERANCES, robust=True)


METHODS: dict[str, Method] = {
    "tensorly-svd": tensorly_tucker(init="svd"),
    "tensorly-randomized": tensorly_tucker(init="svd", svd="randomized_svd"),
    "tensorly-random": tensorly_tucker(init="random"),
    "robust-pca": tensorly_robust_pca("defaults", ()),
    "robust-pca-tuned": tensorly_robust_pca("reg_E=.1 by hand", (100, 150, 200, 300, 400, 600, 800), reg_E=0.1),
    "pytensorlab": pytensorlab_nls(),
    "em": plain_em(),
    "complete": ours_complete(robust=True),
    "complete-plain": ours_complete(robust=False),
    "admm": ours_admm(),
}
TENSORLY = tuple(METHODS[key].name for key in ("tensorly-svd", "tensorly-randomized", "tensorly-random"))


# ----------------------------------------------------------------------------------------------------
# the table


def cells(row: Row, peers: list[Row]) -> dict[str, str]:
    """One row for readers; ``peers`` are TensorLy's rows on the same problem."""
    texts = {"problem": row.problem, "method": row.method}
    for target in TARGETS:
        run = row.targets[target]
        count = f" ({run.iterations})" if run and run.iterations else ""
        missed = "not reached (cap)" if row.capped else "not reached"
        shown = f"{run.timing.wall:.3f} / {run.timing.cpu:.3f}{count}" if run else missed
        texts[f"to {target:.0e}: wall / CPU s (iterations)"] = shown
    goal = min(TARGETS)
    mine, theirs = row.targets[goal], [run for peer in peers if (run := peer.targets[goal])]
    ratios = ""
    if mine and theirs:
        wall = mine.timing.wall / min(run.timing.wall for run in theirs)
        cpu = mine.timing.cpu / min(run.timing.cpu for run in theirs)
        ratios = f"{wall:.3f} / {cpu:.3f}"
    texts[f"to {goal:.0e}, of TensorLy's best: wall / CPU"] = ratios
    texts["final error"] = "" if row.last_error is None else f"{row.last_error:.1e}"
    shipped = row.shipped
    texts["as shipped: wall s, error"] = f"{shipped.timing.wall:.3f}, {shipped.error:.1e}" if shipped else ""
    texts["warm-up s"] = f"{row.warm_up:.2f}"
    return texts


def markdown(rows: list[Row]) -> str:
    """The table with aligned columns."""
    texts = [cells(row, [r for r in rows if r.problem == row.problem and r.method in TENSORLY]) for row in rows]
    lines = [list(texts[0]), *(list(text.values()) for text in texts)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def record(row: Row) -> dict[str, str | float | None]:
    """One row for programs."""
    values: dict[str, str | float | None] = {"problem": row.problem, "method": row.method}
    for label, run in [(f"{t:.0e}", row.targets[t]) for t in TARGETS] + [("shipped", row.shipped)]:
        values[f"{label} wall s"] = run.timing.wall if run else None
        values[f"{label} CPU s"] = run.timing.cpu if run else None
        values[f"{label} iterations"] = run.iterations if run else None
        values[f"{label} error"] = run.error if run else None
    return values | {"final error": row.last_error, "warm-up s": row.warm_up}


def bars(rows: list[Row]) -> Iterator[str]:
    """Our recommended call against what the project aims at, at the smaller error."""
    target = min(TARGETS)
    runs = {(row.problem, row.method): row.targets[target] for row in rows}
    mine = METHODS["complete"].name

    def ratios(over: Reached, under: Reached) -> str:
        wall, cpu = over.timing.wall / under.timing.wall, over.timing.cpu / under.timing.cpu
        return f"wall {wall:.1f}, CPU {cpu:.1f}"

    for problem in ("a", "c"):
        for peer in TENSORLY:
            theirs, ours = runs.get((problem, peer)), runs.get((problem, mine))
            if theirs and ours:
                yield f"({problem}) {peer} over {mine}, {target:.0e}: {ratios(theirs, ours)} (aim: 20 or more)"
    for problem in ("b", "b'"):
        ours, clean = runs.get((problem, mine)), runs.get(("a", mine))
        if ours and clean:
            yield f"({problem}) over (a), {mine}, {target:.0e}: {ratios(ours, clean)} (aim: 3 or less)"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default="a,b,b',c", help="names from problems.py (bprime is b')")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated, default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each setting; the shortest counts")
    parser.add_argument("--cap", type=float, default=120.0, help="seconds a run may take")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--csv", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    names = [name.replace("bprime", "b'") for name in arguments.problems.split(",")]
    for name, known in [(n, NAMES) for n in names] + [(m, METHODS) for m in arguments.methods.split(",")]:
        if name not in known:
            parser.error(f"unknown {name!r}, expected some of {', '.join(known)}")
    methods = [METHODS[key] for key in arguments.methods.split(",")]

    fix_threads(arguments.threads)
    print(machine())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.3:
        print(
            f"CAUTION: load average {load:.1f} before the start. Threaded BLAS loses far more than its share on a "
            "busy machine; compare CPU seconds with --threads 1, or wait."
        )
    missing = {method.package for method in methods if method.package and not importable(method.package)}
    print("Not installed, left out: " + (", ".join(sorted(missing)) or "none"), end="\n\n", flush=True)
    warnings.simplefilter("ignore")  # of the peers
    rows = []
    for name in names:
        problem = make_problem(name)
        for method in methods:
            if method.package in missing or (
                method.robust and "robust_pca" in method.name and not problem.has_outliers
            ):
                continue
            rows.append(measure(method, problem, repeats=arguments.repeats, cap=arguments.cap))
            print("; ".join(cells(rows[-1], []).values()), file=sys.stderr, flush=True)  # progress
    print(markdown(rows), end="\n\n")
    print("\n".join(bars(rows)))
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            records = [record(row) for row in rows]
            writer = csv.DictWriter(file, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)


def importable(package: str) -> bool:
    """Whether a distribution is there; ours may also lie beside this script, not installed."""
    if package != "tensorcell":
        return version(package) is not None
    try:
        from tensorcell.solvers import complete_tucker  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main()
