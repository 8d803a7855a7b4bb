"""How many samples a solver needs: success probability over rank and sampling ratio, and the number where it is 1/2.

No theorem gives the constant of a bound (see :mod:`tensorcell.solvers.bounds`); simulation does. A planted tensor of
multilinear rank ``r`` is sampled, completed, and counted as recovered when the relative error of the whole tensor is
below ``success``. The number of samples where half of the trials succeed, divided by the degrees of freedom, is the
*oversampling* of a solver: 1 would be perfect.

============  ====================================================================  =============
symbol        meaning                                                               unit
============  ====================================================================  =============
``I_n, r_n``  side and rank of mode n                                               1
``N``         voxels, ``prod I_n``                                                  1
``m``         samples (observed entries)                                            1
``F``         degrees of freedom, ``prod r_n + sum r_n (I_n - r_n)``                1
``rho``       oversampling at probability 1/2, ``m_half / F``                       1
============  ====================================================================  =============

The table that ships with the package was computed by ``python -m tensorcell.solvers.transitions``, which also computes
it anew.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import pickle
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numba
import numpy as np
import numpy.typing as npt
import scipy
from scipy.optimize import isotonic_regression

from .checks import checked_rank
from .completion import complete_tucker
from .ranks import degrees_of_freedom
from .tensors import tucker_to_dense

Pattern = Literal["uniform", "planes", "lines"]
Rank = tuple[int, ...]
Shape = tuple[int, ...]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Method = Callable[..., Any]

FORMAT = "tensorcell phase transitions, 1"
TABLE = "phase_transition.h5"
OUTLIERS_FROM, OUTLIERS_TO = 1.0, 3.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finished cell, as a callback sees it.

    Attributes
    ----------
    rank : tuple of int
        Planted rank.
    samples : int
        Number of observed entries.
    successes, trials : int
        How many of the trials recovered the tensor.
    done, total : int
        Cells finished so far and cells to compute in this call.
    """

    rank: Rank
    samples: int
    successes: int
    trials: int
    done: int
    total: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PhaseTransition:
    """How often planted tensors were recovered.

    Attributes
    ----------
    shape : tuple of int
        Shape of the tensors.
    ranks : tuple of tuples of int
        Planted ranks, one row of the arrays each.
    ratios : float array ``(ranks, columns)``
        Observed entries / all entries, as asked for.
    pattern : {"uniform", "planes", "lines"}
        How entries were chosen.
    trials : int
        Tensors a cell.
    samples : int array ``(ranks, columns)``
        Observed entries, as they were (whole numbers of entries, planes or lines).
    successes : int array ``(ranks, columns)``
        Tensors recovered, 0 to ``trials``; -1 in cells that a callback's stop left out.
    """

    shape: Shape
    ranks: tuple[Rank, ...]
    ratios: Floats
    pattern: Pattern
    trials: int
    samples: Ints
    successes: Ints

    @property
    def probability(self) -> Floats:
        """Share of tensors recovered, ``(ranks, columns)``; NaN in cells that were not computed."""
        return np.where(self.successes < 0, np.nan, self.successes / self.trials)

    @property
    def degrees_of_freedom(self) -> Ints:
        """Degrees of freedom of each rank, ``(ranks,)``."""
        return np.array([degrees_of_freedom(rank, self.shape) for rank in self.ranks], dtype=np.int64)

    @property
    def threshold(self) -> Floats:
        """Samples at which half of the tensors are recovered, ``(ranks,)``; infinite where that was never reached.

        Monotone regression of the success probability on the samples, then linear interpolation in the logarithm of
        the samples. At the degrees of freedom the probability is taken as 0.
        """
        return np.array(
            [
                half_point(samples[found >= 0], found[found >= 0] / self.trials, free)
                for samples, found, free in zip(self.samples, self.successes, self.degrees_of_freedom, strict=True)
            ]
        )

    @property
    def oversampling(self) -> Floats:
        """``threshold / degrees_of_freedom``, ``(ranks,)``."""
        return self.threshold / self.degrees_of_freedom


class Job(NamedTuple):
    """All that a cell's trials depend on."""

    method: Method
    shape: Shape
    pattern: Pattern
    trials: int
    success: float
    noise: float
    outliers: float
    seed: int


def phase_transition(
    shape: Sequence[int],
    ranks: Sequence[int | Sequence[int]],
    ratios: npt.ArrayLike,
    *,
    method: Method | None = None,
    pattern: Pattern = "uniform",
    trials: int = 10,
    success: float = 1e-3,
    noise: float = 0.0,
    outliers: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
    path: str | os.PathLike[str] | None = None,
    callback: Callable[[Cell], bool | None] | None = None,
) -> PhaseTransition:
    """Success probability of a completion method over rank and sampling ratio.

    Each trial plants a Tucker tensor (Gaussian core, random orthonormal factors, root mean square 1), observes a part
    of it, and asks ``||X - X_true|| <= success ||X_true||`` of the whole tensor.

    Parameters
    ----------
    shape : k ints
        Shape of the tensors, k >= 2.
    ranks : sequence of ints or of k ints
        Multilinear ranks; an int stands for all modes.
    ratios : floats in (0, 1], ``(columns,)`` or ``(ranks, columns)``
        Observed entries / all entries; two-dimensional: each rank has ratios of its own.
    method : callable, optional
        ``method(data, mask, rank)`` with a result that has ``value``; :func:`complete_tucker` by default. More than one
        worker needs one that can be pickled (a function of a module, or ``functools.partial`` of one).
    pattern : {"uniform", "planes", "lines"}
        Which entries are observed: single ones at random; whole slices of mode 0, chosen at random; whole fibres of the
        last mode, chosen at random. The low-rank model alone says nothing about a slice without an entry, so with
        ``"planes"`` the probability is 0 below full sampling.
    trials : int
        Tensors a cell.
    success : float
        Largest relative error that counts as recovered; with ``noise``, choose it above what noise allows.
    noise : float
        Standard deviation of Gaussian noise, in root mean squares of the tensor.
    outliers : float
        Share of observed entries off by 1 to 3 root mean squares of the tensor, either sign.
    seed : int
        Each trial has a stream of its own, from the seed, the shape, the rank, the samples and its number: results do
        not depend on the workers, on the order or on which other cells there are.
    workers : int, optional
        Processes; all cores by default, 1 stays in this process. A script that asks for more must keep its own calls
        under ``if __name__ == "__main__":``. Every process has one thread.
    path : path, optional
        HDF5 file to resume from and to write to, after each cell, whole or not at all. Cells in it are not computed
        again. It may hold several shapes and patterns, but one choice of all other settings; it also records versions.
    callback : callable, optional
        ``callback(cell)`` after every computed cell; returning True stops.

    Returns
    -------
    PhaseTransition

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together, or if ``path`` holds other settings or something else.
    RuntimeError
        If the processes cannot be started.

    Notes
    -----
    Cost: that of ``trials`` completions a cell. Trials that fail take the most iterations.

    Examples
    --------
    >>> found = phase_transition((12, 12, 12), [1, 2], [0.02, 0.5], trials=2, workers=1)
    >>> found.probability.tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    shape = checked_shape(shape)
    given = [checked_rank(rank, shape) for rank in ranks]
    if not given:
        raise ValueError("expected at least one rank, got none")
    asked = checked_ratios(ratios, len(given))
    job = checked_job(method, shape, pattern, trials, success, noise, outliers, seed)
    samples = np.array([[whole_samples(shape, pattern, ratio) for ratio in row] for row in asked], dtype=np.int64)
    wanted = list(dict.fromkeys((rank, int(m)) for rank, row in zip(given, samples, strict=True) for m in row))
    store = None if path is None else Store(Path(path), job)
    found = {} if store is None else store.read()
    missing = [cell for cell in wanted if cell not in found]
    for done, (cell, recoveries) in enumerate(computed(job, missing, checked_workers(workers, missing)), 1):
        found[cell] = recoveries
        if store is not None:
            store.write(found)
        seen = Cell(rank=cell[0], samples=cell[1], successes=recoveries, trials=trials, done=done, total=len(missing))
        if callback is not None and callback(seen):
            break
    for rank, row in zip(given, samples, strict=True):
        for m in row:
            found.setdefault((rank, int(m)), -1)
    successes = np.array([[found[rank, int(m)] for m in row] for rank, row in zip(given, samples, strict=True)])
    return PhaseTransition(
        shape=shape,
        ranks=tuple(given),
        ratios=asked,
        pattern=pattern,
        trials=trials,
        samples=samples,
        successes=successes.astype(np.int64),
    )


def checked_shape(shape: Sequence[int]) -> Shape:
    """The shape as at least two whole positive numbers."""
    sizes = tuple(shape)
    if len(sizes) < 2 or any(isinstance(size, bool) or size != int(size) or size < 1 for size in sizes):
        raise ValueError(f"expected a shape of at least two whole positive sizes, got {sizes}")
    return tuple(map(int, sizes))


def checked_ratios(ratios: npt.ArrayLike, ranks: int) -> Floats:
    """Ratios in (0, 1], one row a rank."""
    asked = np.asarray(ratios, dtype=np.float64)
    if asked.ndim not in (1, 2) or asked.size == 0 or (asked.ndim == 2 and asked.shape[0] != ranks):
        raise ValueError(f"expected ratios of shape (columns,) or ({ranks}, columns), got shape {asked.shape}")
    if not ((asked > 0) & (asked <= 1)).all():
        raise ValueError(f"expected ratios above 0 and at most 1, got {asked.min():g} to {asked.max():g}")
    return np.broadcast_to(asked, (ranks, asked.shape[-1])).copy()


def checked_job(
    method: Method | None,
    shape: Shape,
    pattern: Pattern,
    trials: int,
    success: float,
    noise: float,
    outliers: float,
    seed: int,
) -> Job:
    """The settings after a check of each."""
    if pattern not in get_args(Pattern):
        raise ValueError(f"expected pattern {', '.join(map(repr, get_args(Pattern)))}, got {pattern!r}")
    if method is not None and not callable(method):
        raise TypeError(f"expected method as a function of data, mask and rank, got {method!r}")
    for name, number, least in (("trials", trials, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
            raise ValueError(f"expected {name} as a whole number of at least {least}, got {number!r}")
    if not (success > 0 and math.isfinite(success)):
        raise ValueError(f"expected success as a relative error above 0, got {success}")
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"expected noise as a standard deviation of at least 0, got {noise}")
    if not 0 <= outliers < 1:
        raise ValueError(f"expected outliers as a share from 0 to below 1, got {outliers}")
    chosen = complete_tucker if method is None else method
    return Job(chosen, shape, pattern, int(trials), float(success), float(noise), float(outliers), int(seed))


def checked_workers(workers: int | None, cells: Sequence[Any]) -> int:
    """Number of processes, no more than there are cells."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if isinstance(workers, bool) or not isinstance(workers, (int, np.integer)) or workers < 1:
        raise ValueError(f"expected workers as a whole number of at least 1, got {workers!r}")
    return max(1, min(int(workers), len(cells)))


def whole_samples(shape: Shape, pattern: Pattern, ratio: float) -> int:
    """Observed entries nearest to the ratio: whole entries, planes or lines, at least one."""
    unit = unit_size(shape, pattern)
    units = math.prod(shape) // unit
    return unit * min(units, max(1, round(ratio * units)))


def unit_size(shape: Shape, pattern: str) -> int:
    """Entries that a pattern observes together."""
    return {"uniform": 1, "planes": math.prod(shape[1:]), "lines": shape[-1]}[pattern]


def computed(job: Job, cells: Sequence[tuple[Rank, int]], workers: int) -> Iterator[tuple[tuple[Rank, int], int]]:
    """Cells with their successes, as they are finished."""
    if workers == 1:
        for cell in cells:
            yield cell, successes_of(job, *cell)
        return
    try:
        pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError):
        raise TypeError(
            f"expected a method that can be pickled for {workers} workers, got {method_name(job.method)} "
            "(workers=1 takes it)"
        ) from None
    # Spawn: a fork of a process that has threads (Numba, BLAS) may hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(successes_of, job, *cell): cell for cell in cells}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            f"the {workers} worker processes ended early; "
            'keep calls under if __name__ == "__main__":, or ask for workers=1'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def successes_of(job: Job, rank: Rank, samples: int) -> int:
    """Number of the trials of a cell in which the planted tensor is recovered."""
    with one_thread():
        return sum(recovered(job, rank, samples, trial) for trial in range(job.trials))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of Numba and BLAS: shares of a sum are added in the same order everywhere."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with one_blas_thread():
            yield
    finally:
        numba.set_num_threads(before)


def recovered(job: Job, rank: Rank, samples: int, trial: int) -> bool:
    """One trial."""
    truth, data, mask = planted(job, rank, samples, trial)
    found = job.method(data, mask, rank).value
    return bool(np.linalg.norm(found - truth) <= job.success * np.linalg.norm(truth))


def planted(job: Job, rank: Rank, samples: int, trial: int) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Truth, data and mask of one trial; data are zero where the mask is False."""
    place = get_args(Pattern).index(job.pattern)
    rng = np.random.default_rng([job.seed, place, *job.shape, *rank, samples, trial])
    factors = [np.linalg.qr(rng.standard_normal((size, r)))[0] for size, r in zip(job.shape, rank, strict=True)]
    truth: Floats = tucker_to_dense(rng.standard_normal(rank), factors)
    truth = truth * (math.sqrt(truth.size) / float(np.linalg.norm(truth)))
    mask = observed_entries(job.shape, job.pattern, samples, rng)
    data = np.where(mask, truth, 0.0)
    if job.noise > 0:
        data = data + job.noise * rng.standard_normal(job.shape) * mask
    if job.outliers > 0:
        places = rng.permutation(np.flatnonzero(mask))[: round(job.outliers * samples)]
        signs = rng.choice([-1.0, 1.0], places.size)
        data.flat[places] += signs * rng.uniform(OUTLIERS_FROM, OUTLIERS_TO, places.size)
    return truth, data, mask


def observed_entries(shape: Shape, pattern: Pattern, samples: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A mask (True = observed) of exactly that many entries, made of whole units of the pattern."""
    unit = unit_size(shape, pattern)
    units = math.prod(shape) // unit
    chosen = rng.permutation(units) < samples // unit
    return np.repeat(chosen, unit).reshape(shape)


def half_point(samples: npt.ArrayLike, probability: npt.ArrayLike, free: float) -> float:
    """Samples at probability 1/2; infinite where it is not reached.

    >>> half_point([200, 400], [0.0, 1.0], 100)  # the geometric mean of both
    282.842...
    """
    m, p = np.asarray(samples, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    keep = m > free
    order = np.argsort(m[keep], kind="stable")
    logs = np.log(np.concatenate([[free], m[keep][order]]))
    rising = np.concatenate([[0.0], isotonic_regression(p[keep][order]).x if keep.any() else []])
    above = np.flatnonzero(rising >= 0.5)
    if above.size == 0:
        return math.inf
    right = int(above[0])
    share = (0.5 - rising[right - 1]) / (rising[right] - rising[right - 1])
    return float(math.exp(logs[right - 1] + share * (logs[right] - logs[right - 1])))


class Store:
    """The cells of one shape and pattern in an HDF5 file.

    The file's attributes hold format, settings and versions; a group a shape and pattern holds ``rank`` (cells, k),
    ``samples`` (cells,) and ``successes`` (cells,).
    """

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        self.group = f"{'x'.join(map(str, job.shape))} {job.pattern}"
        self.attributes = {
            "shape": job.shape,
            "pattern": job.pattern,
        }
        self.settings = {
            "method": method_name(job.method),
            "trials": job.trials,
            "success": job.success,
            "noise": job.noise,
            "outliers": job.outliers,
            "seed": job.seed,
        }
        if not path.parent.is_dir():
            raise ValueError(f"expected path in a folder that exists, got {path}")
        if path.is_dir():
            raise ValueError(f"expected path as a file, got the folder {path}")

    def read(self) -> dict[tuple[Rank, int], int]:
        """Successes by rank and samples; refuses a file with other settings."""
        if not self.path.exists():
            return {}
        with opened(self.path) as file:
            there = json.loads(file.attrs["settings"])
            for name, value in self.settings.items():
                if there[name] != value:
                    raise ValueError(
                        f"{self.path} was computed with {name} {there[name]}, expected {value}: choose another file"
                    )
            if self.group not in file:
                return {}
            group = file[self.group]
            rows = zip(group["rank"][:].tolist(), group["samples"][:].tolist(), group["successes"][:], strict=True)
            return {(tuple(rank), samples): int(successes) for rank, samples, successes in rows}

    def write(self, found: dict[tuple[Rank, int], int]) -> None:
        """Write all cells of this shape and pattern, in an order that does not depend on the run."""
        import h5py

        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            # Written anew: HDF5 keeps the space of what is deleted.
            with h5py.File(part, "w") as file:
                file.attrs["format"] = FORMAT
                file.attrs["settings"] = json.dumps(self.settings)
                file.attrs["versions"] = json.dumps(versions())
                if self.path.exists():
                    with opened(self.path) as before:
                        for name in before:
                            if name != self.group:
                                before.copy(name, file)
                group = file.create_group(self.group)
                group.attrs.update(self.attributes)
                cells = sorted(found)
                group["rank"] = np.array([rank for rank, _ in cells], dtype=np.int64)
                group["samples"] = np.array([samples for _, samples in cells], dtype=np.int64)
                group["successes"] = np.array([found[cell] for cell in cells], dtype=np.int64)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file of ours, open for reading."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError:
        raise ValueError(
            f"expected an HDF5 file of phase transitions, got {path}, which cannot be read as one"
        ) from None
    with file:
        if "format" not in file.attrs or file.attrs["format"] != FORMAT:
            raise ValueError(f"expected an HDF5 file with format {FORMAT!r}, got {path} without it")
        yield file


def method_name(method: Method) -> str:
    """Module and name of a method, with the arguments that ``functools.partial`` fixed.

    >>> method_name(partial(complete_tucker, robust=False)).rpartition(".")[2]
    'complete_tucker(robust=False)'
    """
    if isinstance(method, partial):
        fixed = [*map(repr, method.args), *(f"{name}={value!r}" for name, value in sorted(method.keywords.items()))]
        return f"{method_name(method.func)}({', '.join(fixed)})"
    name = getattr(method, "__qualname__", type(method).__qualname__)
    return f"{getattr(method, '__module__', type(method).__module__)}.{name}"


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    own = sys.modules[__name__.partition(".")[0]]
    return {
        "tensorcell": str(getattr(own, "__version__", "unknown")),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
    }


class Planned(NamedTuple):
    """A part of the shipped table: one shape, and the same multiples of the degrees of freedom for some ranks."""

    shape: Shape
    ranks: tuple[int | Rank, ...]
    multiples: tuple[float, ...]
    pattern: Pattern = "uniform"

    def ratios(self) -> list[list[float]]:
        """Sampling ratios, ``(ranks, multiples)``; multiples above full sampling become that."""
        voxels = math.prod(self.shape)
        free = [degrees_of_freedom(checked_rank(rank, self.shape), self.shape) for rank in self.ranks]
        return [[min(1.0, multiple * f / voxels) for multiple in self.multiples] for f in free]


LOW, MIDDLE, HIGH = (2, 2.5, 3, 3.5, 4, 5, 6.5), (2, 2.5, 3, 3.5, 4, 5), (1.25, 1.5, 1.75, 2, 2.5)

PLAN = (
    Planned((30, 30, 30), (1, 2), LOW),
    Planned((30, 30, 30), (3, 5), (1.5, *MIDDLE)),
    Planned((30, 30, 30), (8, 12), (*HIGH, 2.25, 3)),
    Planned((50, 50, 50), (1, 2), LOW[1:]),
    Planned((50, 50, 50), (3, 5), MIDDLE),
    Planned((50, 50, 50), (8, 12), HIGH),
    Planned((60, 50, 20), ((5, 5, 5),), MIDDLE),
    Planned((60, 50, 20), ((12, 8, 4),), HIGH),
    Planned((12, 12, 12, 12), (1, 2), LOW),
    Planned((12, 12, 12, 12), (3,), (1.1, *HIGH, 2.25, 3)),
    Planned((12, 12, 12, 12), (5,), (1.1, *HIGH)),
    Planned((80, 80), (2, 8), MIDDLE),
    Planned((30, 30, 30), (2, 4), (6, 9, 13, 18, 25, 35), "lines"),
    Planned((30, 30, 30), (2,), (75, 148), "planes"),
)
"""What ships: between a hundredth and a half of the entries of small tensors, about eight minutes on one core."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Samples from which a solver recovers half of the random tensors of a shape and rank.

    Attributes
    ----------
    samples : float
        From the degrees of freedom to the number of voxels.
    extrapolated : bool
        Whether shape or rank lie outside of what was simulated.
    sentence : str
        The number and how it was obtained.
    """

    samples: float
    extrapolated: bool
    sentence: str


class Curve(NamedTuple):
    """Success over samples for one shape, rank and pattern of a table."""

    shape: Shape
    rank: Rank
    pattern: Pattern
    trials: int
    samples: tuple[int, ...]
    successes: tuple[int, ...]

    @property
    def oversampling(self) -> float:
        """Samples at probability 1/2 / degrees of freedom; infinite where not reached."""
        free = degrees_of_freedom(self.rank, self.shape)
        return half_point(self.samples, np.array(self.successes) / self.trials, free) / free

    @property
    def bracketed(self) -> bool:
        """Whether some cells lie below probability 1/2 and some above, so that the transition is known."""
        few = [2 * found < self.trials for found in self.successes]
        return any(few) and math.isfinite(self.oversampling)


def empirical_threshold(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    pattern: str = "uniform",
    table: str | os.PathLike[str] | None = None,
) -> Threshold:
    """Samples at which :func:`complete_tucker` recovers half of the random tensors, from simulated phase transitions.

    Parameters
    ----------
    shape : k ints
        Shape of the tensor.
    rank : int or k ints
        Multilinear rank; entries above the product of the others count as that product.
    pattern : {"uniform", "planes", "lines"}
        As in :func:`phase_transition`.
    table : path, optional
        File of :func:`phase_transition`; the one that ships with the package by default (no noise, no outliers,
        Gaussian cores).

    Returns
    -------
    Threshold

    Raises
    ------
    TypeError, ValueError
        A rank that does not fit, an unknown pattern, a table with too few transitions of that pattern.

    Notes
    -----
    Oversampling ``rho`` falls as the degrees of freedom become a larger share of the voxels, and ranks 2 and 3 need
    more than that says. For ``"uniform"`` the transitions of the table are fitted by least squares, ``log rho = a +
    b log(N / F) + c / r + d / r^2`` with the geometric mean ``r`` of the ranks. Each of the 18 transitions of the
    shipped table, predicted from the others, is off by 11 % (root mean square) and at most 27 %. For ``"lines"`` the
    number of lines is a multiple (1.4; two transitions only, 1.3 and 1.5) of what is least: lines that determine the
    other modes, and none of their slices empty. In no case is it less than the degrees of freedom or than what leaves
    no slice empty in half of the draws, nor more than the voxels, which is the answer for ``"planes"``.

    The threshold is that of random tensors and of one solver, without noise: real volumes are only nearly of low rank.
    Cost: none worth counting.

    Examples
    --------
    >>> found = empirical_threshold((50, 50, 50), 4)
    >>> 616 < found.samples < 6 * 616, found.extrapolated
    (True, False)
    """
    shape = checked_shape(shape)
    rank = clipped(rank, shape)
    if pattern not in get_args(Pattern):
        raise ValueError(f"expected pattern {', '.join(map(repr, get_args(Pattern)))}, got {pattern!r}")
    voxels, free = math.prod(shape), degrees_of_freedom(rank, shape)
    if pattern == "planes":
        return Threshold(
            samples=float(voxels),
            extrapolated=False,
            sentence=f"All {voxels:,} voxels: the low-rank model alone says nothing about a plane without a sample.",
        )
    every = shipped() if table is None else read_table(Path(table))
    curves = [curve for curve in every if curve.pattern == pattern and curve.bracketed]
    law, enough = {"uniform": (entry_law, 6), "lines": (fibre_law, 1)}[pattern]
    if len(curves) < enough:
        raise ValueError(
            f"expected a table with at least {enough} transitions of pattern {pattern!r}, got {len(curves)}"
        )
    wanted, error = law(curves, shape, rank)
    least = covering_units(shape, pattern) * unit_size(shape, pattern)
    samples = min(max(wanted, least, float(free)), float(voxels))
    outside = extrapolates(curves, shape, rank)
    units = f"{samples:,.0f} samples" + (f" ({samples / shape[-1]:,.0f} lines)" if pattern == "lines" else "")
    sentence = (
        f"Half of the random tensors of this shape and rank are recovered from about {units}, {samples / free:.1f} "
        f"times the {free:,} degrees of freedom: fitted to {len(curves)} simulated transitions with an error of about "
        f"{100 * error:.0f} %"
    )
    if outside:
        sentence += f", extrapolated beyond {outside}"
    return Threshold(samples=samples, extrapolated=bool(outside), sentence=sentence + ".")


def clipped(rank: int | Sequence[int], shape: Shape) -> Rank:
    """The rank, checked, after each entry was reduced to the product of the others."""
    given: Any = (rank,) * len(shape) if np.ndim(rank) == 0 else tuple(rank)  # type: ignore[arg-type]
    product = math.prod(given) if all(r == int(r) >= 1 for r in given) else 0
    return checked_rank([min(r, product // int(r)) for r in given] if product else given, shape)


def entry_law(curves: Sequence[Curve], shape: Shape, rank: Rank) -> tuple[float, float]:
    """Samples at probability 1/2 for single entries at random, and the relative error of left-out curves."""
    rows = np.array([coordinates(curve.shape, curve.rank) for curve in curves])
    values = np.log([curve.oversampling for curve in curves])
    pseudo = np.linalg.pinv(rows)
    coefficients = pseudo @ values
    # Errors of the fits that leave one curve out, from the diagonal of the hat matrix.
    left_out = (values - rows @ coefficients) / np.maximum(1 - np.einsum("ij,ji->i", rows, pseudo), 1e-3)
    at = np.array(coordinates(shape, rank))
    samples = degrees_of_freedom(rank, shape) * math.exp(float(at @ coefficients))
    return samples, math.expm1(float(np.sqrt(np.mean(left_out**2))))


def coordinates(shape: Shape, rank: Rank) -> tuple[float, float, float, float]:
    """What the logarithm of the oversampling is linear in: ``1, log(N / F), 1/r, 1/r^2``, r the geometric mean rank."""
    r = math.prod(rank) ** (1 / len(rank))
    return 1.0, math.log(math.prod(shape) / degrees_of_freedom(rank, shape)), 1 / r, 1 / r**2


def fibre_law(curves: Sequence[Curve], shape: Shape, rank: Rank) -> tuple[float, float]:
    """Samples at probability 1/2 for whole fibres of the last mode, and the relative spread of the curves."""

    def fewest(shape: Shape, rank: Rank) -> float:
        # A fibre gives r_k numbers once U_k is known, which r_k of them suffice for.
        others = degrees_of_freedom(rank, shape) - rank[-1] * (shape[-1] - rank[-1])
        return max(others / rank[-1], covering_units(shape, "lines"))

    excess = np.log(
        [c.oversampling * degrees_of_freedom(c.rank, c.shape) / (c.shape[-1] * fewest(c.shape, c.rank)) for c in curves]
    )
    factor = math.exp(float(np.mean(excess)))
    return factor * fewest(shape, rank) * shape[-1], math.expm1(float(np.ptp(excess)) / 2)


def covering_units(shape: Shape, pattern: str) -> float:
    """Units (entries or lines) at random with which no slice of any mode stays empty in half of the draws.

    The expected number of empty slices, a hypergeometric probability each, is then ``log 2`` (Poisson).

    >>> round(covering_units((30, 30, 30), "uniform"))
    143
    """
    sides = [side for side in (shape[:-1] if pattern == "lines" else shape) if side > 1]
    units = math.prod(sides)

    def empty(drawn: float) -> float:
        total = 0.0
        for side in sides:
            others = units - units // side
            if drawn < others:
                logs = math.lgamma(others + 1) - math.lgamma(others - drawn + 1)
                total += side * math.exp(logs + math.lgamma(units - drawn + 1) - math.lgamma(units + 1))
        return total

    low, high = 0.0, float(units)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if empty(middle) > math.log(2) else (low, middle)
    return high


def extrapolates(curves: Sequence[Curve], shape: Shape, rank: Rank) -> str:
    """Which limit of the simulated transitions the shape and rank exceed; empty where none."""
    alike = [curve for curve in curves if len(curve.shape) == len(shape)]
    if not alike:
        return f"the simulated numbers of modes, {sorted({len(curve.shape) for curve in curves})}"
    longest = max(max(curve.shape) for curve in alike)
    if max(shape) > longest:
        return f"the simulated sides of up to {longest}"
    sizes = [math.prod(curve.shape) for curve in alike]
    if not min(sizes) <= math.prod(shape) <= max(sizes):
        return f"the simulated sizes of {min(sizes):,} to {max(sizes):,} voxels"
    shares = [math.prod(curve.shape) / degrees_of_freedom(curve.rank, curve.shape) for curve in alike]
    share = math.prod(shape) / degrees_of_freedom(rank, shape)
    if not min(shares) <= share <= max(shares):
        return f"the simulated {min(shares):.0f} to {max(shares):.0f} voxels a degree of freedom"
    return ""


def read_table(path: Path) -> tuple[Curve, ...]:
    """All curves of a file, sorted by shape and pattern, then rank."""
    curves = []
    with opened(path) as file:
        trials = int(json.loads(file.attrs["settings"])["trials"])
        for group in file.values():
            shape = tuple(map(int, group.attrs["shape"]))
            ranks, samples, successes = (group[name][:] for name in ("rank", "samples", "successes"))
            for rank in sorted(set(map(tuple, ranks.tolist()))):
                rows = (ranks == rank).all(axis=1)
                curves.append(
                    Curve(
                        shape, rank, group.attrs["pattern"], trials,
                        tuple(samples[rows].tolist()), tuple(successes[rows].tolist()),
                    )
                )  # fmt: skip
    return tuple(curves)


@lru_cache(maxsize=1)
def shipped() -> tuple[Curve, ...]:
    """Curves of the table that ships with the package."""
    package = __package__ or "tensorcell.solvers"
    with resources.as_file(resources.files(package) / TABLE) as path:
        return read_table(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the shipped table, or the transition of one shape; exit status 0, 2 for bad input, 130 on Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        plan = planned(options)
        for part in plan:
            found = phase_transition(
                part.shape,
                part.ranks,
                part.ratios(),
                pattern=part.pattern,
                trials=options.trials,
                noise=options.noise,
                outliers=options.outliers,
                success=options.success,
                seed=options.seed,
                workers=options.workers,
                path=options.path,
                callback=None if options.quiet else partial(show_progress, part),
            )
            for rank, free, half, ratio in zip(
                found.ranks, found.degrees_of_freedom, found.threshold, found.oversampling, strict=True
            ):
                reached = (
                    f"half recovered from {half:,.0f} samples, {ratio:.2f} times"
                    if math.isfinite(half)
                    else ("never half recovered;")
                )
                sys.stdout.write(f"{titled(part, rank)}: {reached} {free:,} degrees of freedom\n")
    except (TypeError, ValueError) as error:
        sys.stderr.write(f"transitions: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"transitions: interrupted; finished cells are in {options.path}\n")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line; defaults of :func:`phase_transition` hold where nothing is given."""
    made = argparse.ArgumentParser(
        prog="python -m tensorcell.solvers.transitions",
        description="Compute the table of phase transitions that ships with the package, or that of one shape. "
        "Finished cells are kept: run it again to go on.",
    )
    made.add_argument(
        "--path", type=Path, default=Path(TABLE), help="HDF5 file to write and resume (default %(default)s)"
    )
    made.add_argument("--trials", type=int, default=10, help="tensors a cell (default %(default)s)")
    made.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    made.add_argument("--seed", type=int, default=0, help="seed (default %(default)s)")
    made.add_argument("--success", type=float, default=1e-3, help="relative error that counts (default %(default)s)")
    made.add_argument("--noise", type=float, default=0.0, help="noise in root mean squares (default %(default)s)")
    made.add_argument("--outliers", type=float, default=0.0, help="share of outliers (default %(default)s)")
    made.add_argument("--shape", help="only this shape, such as 30x30x30, with --ranks")
    made.add_argument("--ranks", help="ranks, such as 1,2,4x3x2")
    made.add_argument(
        "--multiples", default="1.5,2,2.5,3,3.5,4,5", help="samples / degrees of freedom (default %(default)s)"
    )
    made.add_argument(
        "--pattern", choices=get_args(Pattern), default="uniform", help="with --shape (default %(default)s)"
    )
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return made


def planned(options: argparse.Namespace) -> tuple[Planned, ...]:
    """What the options ask for."""
    if options.shape is None and options.ranks is None:
        return PLAN
    if options.shape is None or options.ranks is None:
        raise ValueError("expected --shape and --ranks together, got one of them")
    ranks = tuple(rank[0] if len(rank) == 1 else rank for rank in map(sizes_in, options.ranks.split(",")))
    try:
        multiples = tuple(map(float, options.multiples.split(",")))
    except ValueError:
        raise ValueError(f"expected --multiples as numbers with commas, got {options.multiples!r}") from None
    return (Planned(checked_shape(sizes_in(options.shape)), ranks, multiples, options.pattern),)


def sizes_in(text: str) -> tuple[int, ...]:
    """``"30x20x10"`` as ``(30, 20, 10)``."""
    try:
        return tuple(map(int, text.split("x")))
    except ValueError:
        raise ValueError(f"expected sizes such as 30x20x10, got {text!r}") from None


def show_progress(part: Planned, cell: Cell) -> None:
    """One line a cell on stderr."""
    sys.stderr.write(
        f"[{cell.done}/{cell.total}] {titled(part, cell.rank)}: {cell.samples:,} samples, "
        f"{cell.successes} of {cell.trials} recovered\n"
    )
    sys.stderr.flush()


def titled(part: Planned, rank: Rank) -> str:
    """Shape, pattern and rank in words."""
    return f"{'x'.join(map(str, part.shape))} {part.pattern}, rank {','.join(map(str, rank))}"


if __name__ == "__main__":
    # The module under its own name: workers cannot import what belongs to __main__.
    from tensorcell.solvers import transitions

    sys.exit(transitions.main())
