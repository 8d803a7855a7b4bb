"""One volume of the size people have: time of a sweep, time to the end, memory.

    python benchmarks/run_large.py [--shape 94,512,712] [--rank 30,60,60] [--seen .25] [--noise .1] [--outliers 0]

Planted Tucker tensor in float32 (problem ``d`` of ``problems.py``). Three fresh processes: the first writes the volume
and its mask into a temporary folder, the second times single ADMM sweeps beside the floors of this machine, the third
loads volume and mask as a user would and completes them. Printed are

- the sweep (equality fidelity: data, mask and dual) against its floors: bytes over the measured bandwidth of a copy,
  operations over the measured rate of a large matrix product;
- the time until the left-out error (relative error against the truth on unobserved entries) stays within 1 % of its
  final value; the clock counts the whole call but not the callback that evaluates the error;
- the peak resident memory above that after ``import tensorcell.solvers``, in volumes of float32: data, mask, and all
  the solver needs, before and after the completed volume (``result.value``) was asked for.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: find `benchmarks`, and `tensorcell` where it is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.measure import available_cores, fix_threads, machine, sweep_floors
from benchmarks.problems import planted_problem, warm_up_problem


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write_problem(folder: Path, arguments: argparse.Namespace) -> None:
    """First process: volume, mask and truth as files."""
    problem = planted_problem(
        "large",
        arguments.shape,
        arguments.rank,
        seen=arguments.seen,
        noise=arguments.noise,
        decay=arguments.decay,
        outlier_fraction=arguments.outliers,
        outlier_size=(1.0, 3.0),
        dtype=np.float32,
        seed=arguments.seed,
    )
    np.save(folder / "data.npy", problem.data)
    np.save(folder / "mask.npy", problem.mask)
    problem.truth.tofile(folder / "truth.raw")


def sweep_against_floors(folder: Path, arguments: argparse.Namespace) -> None:
    """Second process: seconds of single sweeps between the two measurements of the floors."""
    from tensorcell.solvers import AdmmOptions, robust_tucker_admm

    data, mask = np.load(folder / "data.npy"), np.load(folder / "mask.npy")
    warm_up(data)
    before = sweep_floors(arguments.shape, arguments.rank)
    ends: list[float] = []
    options = AdmmOptions(tolerance=0.0, max_iterations=arguments.sweeps + 1)
    robust_tucker_admm(
        data, mask, arguments.rank, options=options, callback=lambda *_: ends.append(time.perf_counter())
    )
    after = sweep_floors(arguments.shape, arguments.rank)
    floors = min(before, after, key=lambda floors: floors.larger)
    seconds = np.diff(ends)
    print(f"floors of a sweep: {floors}")
    print(
        f"sweep: best {seconds.min() * 1e3:.1f} ms, median {np.median(seconds) * 1e3:.1f} ms of {len(seconds)}; "
        f"{seconds.min() / floors.larger:.2f} and {np.median(seconds) / floors.larger:.2f} times the larger floor "
        "(aim: at most 2)"
    )


def warm_up(data: np.ndarray) -> float:
    """Compile everything on a small problem; seconds it took."""
    from tensorcell.solvers import AdmmOptions, complete_tucker, robust_tucker_admm

    start = time.perf_counter()
    small = warm_up_problem(
        planted_problem("small", (8,) * data.ndim, (1,) * data.ndim, seen=0.9, dtype=data.dtype.type)
    )
    complete_tucker(small.data, small.mask, small.rank)
    robust_tucker_admm(small.data, small.mask, small.rank, options=AdmmOptions(max_iterations=2))
    return time.perf_counter() - start


class LeftOutError:
    """Callback that notes solver time and error on unobserved entries, a plane at a time."""

    def __init__(self, truth: Path, mask: np.ndarray) -> None:
        self.truth, self.mask = truth, mask
        self.seconds: list[float] = []
        self.errors: list[float] = []
        self.stages: list[str] = []
        self.paused = 0.0
        self.start = time.perf_counter()

    def __call__(self, record: Any, state: Any) -> None:
        entered = time.perf_counter()
        self.seconds.append(entered - self.start - self.paused)
        self.errors.append(self.error(state.core, state.factors))
        self.stages.append(record.stage)
        self.paused += time.perf_counter() - entered

    def error(self, core: np.ndarray, factors: Sequence[np.ndarray]) -> float:
        first, second, third = (factor.astype(np.float32) for factor in factors)
        small = np.tensordot(first, core.astype(np.float32), axes=1)
        wrong = total = 0.0
        for plane, model in enumerate(small):
            truth = self.truth_plane(plane)
            unseen = ~self.mask[plane]
            wrong += float(np.sum(((second @ model @ third.T - truth) ** 2)[unseen], dtype=np.float64))
            total += float(np.sum((truth**2)[unseen], dtype=np.float64))
        return math.sqrt(wrong / total)

    def truth_plane(self, plane: int) -> np.ndarray:
        rows, columns = self.mask.shape[1:]
        offset = 4 * rows * columns * plane
        return np.fromfile(self.truth, np.float32, rows * columns, offset=offset).reshape(rows, columns)


def complete(folder: Path, arguments: argparse.Namespace) -> None:
    """Third process: load, complete, and report time, error and memory."""
    from tensorcell.solvers import complete_tucker, robust_tucker_admm

    imported = peak_bytes()
    data, mask = np.load(folder / "data.npy"), np.load(folder / "mask.npy")
    print(f"warm-up (compilation): {warm_up(data):.1f} s")
    loaded = peak_bytes()
    watch = LeftOutError(folder / "truth.raw", mask)
    if arguments.method == "admm":
        result = robust_tucker_admm(data, mask, arguments.rank, callback=watch)
    else:
        robust = arguments.method == "complete"
        result = complete_tucker(data, mask, arguments.rank, robust=robust, callback=watch)
    whole = time.perf_counter() - watch.start - watch.paused
    solved = peak_bytes()
    value = result.value
    filled = peak_bytes()
    assert value.shape == data.shape
    final = watch.errors[-1]
    settled = next(n for n in range(len(watch.errors)) if max(watch.errors[n:]) <= 1.01 * final)
    counts = ", ".join(f"{watch.stages.count(stage)} {stage}" for stage in dict.fromkeys(watch.stages))
    print(f"iterations: {counts}; whole call {whole:.1f} s; {result.status}")
    print("error on unobserved entries, by solver time:")
    for n in sorted({*range(0, len(watch.errors), max(1, len(watch.errors) // 12)), settled, len(watch.errors) - 1}):
        print(f"  {watch.seconds[n]:8.2f} s  {watch.stages[n]:>7} {n + 1:4d}  {watch.errors[n]:.5f}")
    print(f"within 1 % of the final left-out error {final:.5f}: after {watch.seconds[settled]:.1f} s (aim: under 60)")
    print(
        f"peak memory above the import ({imported / 2**20:.0f} MiB), in volumes of {data.nbytes / 2**20:.0f} MiB: "
        f"{(loaded - imported) / data.nbytes:.2f} with data and mask loaded and all compiled, "
        f"{(solved - imported) / data.nbytes:.2f} solved, {(filled - imported) / data.nbytes:.2f} with the "
        "completed volume (aim: under 3)"
    )


STAGES = {"write": write_problem, "sweep": sweep_against_floors, "complete": complete}


@contextmanager
def folder_for(arguments: argparse.Namespace) -> Iterator[Path]:
    """The folder given, or a new one that is removed."""
    if arguments.folder:
        yield arguments.folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Parse; start one process a stage, or be one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=numbers, default=(94, 512, 712))
    parser.add_argument("--rank", type=numbers, default=(30, 60, 60))
    parser.add_argument("--seen", type=float, default=0.25, help="fraction of the voxels that is observed")
    parser.add_argument("--noise", type=float, default=0.1, help="in standard deviations of the truth")
    parser.add_argument("--outliers", type=float, default=0.0, help="fraction of the observed voxels, off by 1 to 3")
    parser.add_argument("--decay", type=float, default=0.0, help="of the core's spectra: index ** -decay")
    parser.add_argument("--method", choices=("complete", "plain", "admm"), default="complete")
    parser.add_argument("--sweeps", type=int, default=10, help="sweeps timed one by one")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--folder", type=Path, help="where the files are, instead of a temporary folder")
    parser.add_argument("--inside", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if len(arguments.shape) != 3 or len(arguments.rank) != 3:
        parser.error("expected three sizes and three ranks")
    if arguments.inside:
        fix_threads(arguments.threads)
        STAGES[arguments.inside](arguments.folder, arguments)
        return
    print(machine())
    print(
        f"{arguments.shape}, rank {arguments.rank}, {arguments.seen:.0%} seen, {arguments.threads} threads", flush=True
    )
    with folder_for(arguments) as folder:
        for stage in arguments.stages.split(","):
            here = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--inside", stage]
            subprocess.run(here, check=True)


if __name__ == "__main__":
    main()
