"""How many samples a solver needs: its success probability over rank and sampling ratio, and where it is 1/2.

No theorem gives the constant of a bound (see :mod:`tensorcell.solvers.bounds`), but a simulation does. A planted tensor
of multilinear rank ``r`` is sampled, completed, and counted as recovered when the relative error of the whole tensor is
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
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import checked_rank
from .phase_store import Store, method_name
from .planted_problems import (
    Floats,
    Job,
    Method,
    Pattern,
    Rank,
    Shape,
    checked_job,
    checked_shape,
    planted,
    whole_samples,
)
from .rank_limits import degrees_of_freedom
from .threads import one_blas_thread
from .thresholds import half_point

Ints = npt.NDArray[np.int64]


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
        Observed entries over all entries, as asked for.
    pattern : {"uniform", "planes", "lines"}
        How entries were chosen.
    trials : int
        Number of tensors in each cell.
    samples : int array ``(ranks, columns)``
        Number of entries that were observed (whole numbers of entries, planes or lines).
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

        A monotone regression of the success probability on the samples is interpolated linearly in the logarithm of the
        samples. At the degrees of freedom the probability is taken as 0.
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
        Observed entries over all entries; if they are two-dimensional, each rank has ratios of its own.
    method : callable, optional
        ``method(data, mask, rank)`` with a result that has ``value``; :func:`complete_tucker` by default. More than one
        worker needs one that can be pickled (a function of a module, or ``functools.partial`` of one).
    pattern : {"uniform", "planes", "lines"}
        Which entries are observed: single entries, whole slices of mode 0, or whole fibres of the last mode, each
        chosen at random. The low-rank model alone says nothing about a slice without an entry, so with
        ``"planes"`` the probability is 0 below full sampling.
    trials : int
        Number of tensors in each cell.
    success : float
        Largest relative error that counts as recovered; with ``noise``, it must be above what the noise allows.
    noise : float
        Standard deviation of Gaussian noise, in root mean squares of the tensor.
    outliers : float
        Share of observed entries off by 1 to 3 root mean squares of the tensor, either sign.
    seed : int
        Each trial has a random stream of its own, which depends on the seed, the shape, the rank, the samples and the
        number of the trial, so that results depend neither on the workers, nor on the order, nor on other cells.
    workers : int, optional
        Number of processes; all cores by default, and 1 stays in this process. A script that asks for more must have
        its own calls under ``if __name__ == "__main__":``. Every process has one thread.
    path : path, optional
        HDF5 file to resume from. It is written after each cell, whole or not at all, and cells in it are not computed
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
    A cell costs as much as ``trials`` completions. Trials that fail take the most iterations.

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
        news = Cell(rank=cell[0], samples=cell[1], successes=recoveries, trials=trials, done=done, total=len(missing))
        if callback is not None and callback(news):
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


def checked_ratios(ratios: npt.ArrayLike, ranks: int) -> Floats:
    """Ratios in (0, 1], one row a rank."""
    asked = np.asarray(ratios, dtype=np.float64)
    if asked.ndim not in (1, 2) or asked.size == 0 or (asked.ndim == 2 and asked.shape[0] != ranks):
        raise ValueError(f"expected ratios of shape (columns,) or ({ranks}, columns), got shape {asked.shape}")
    if not ((asked > 0) & (asked <= 1)).all():
        raise ValueError(f"expected ratios above 0 and at most 1, got {asked.min():g} to {asked.max():g}")
    return np.broadcast_to(asked, (ranks, asked.shape[-1])).copy()


def checked_workers(workers: int | None, cells: Sequence[Any]) -> int:
    """Number of processes, no more than there are cells."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if isinstance(workers, bool) or not isinstance(workers, (int, np.integer)) or workers < 1:
        raise ValueError(f"expected workers as a whole number of at least 1, got {workers!r}")
    return max(1, min(int(workers), len(cells)))


def computed(job: Job, cells: Sequence[tuple[Rank, int]], workers: int) -> Iterator[tuple[tuple[Rank, int], int]]:
    """Cells with their successes, in the order in which they are finished."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

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
    """Hold Numba and BLAS to one thread, so that shares of a sum are added in the same order everywhere."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with one_blas_thread():
            yield
    finally:
        numba.set_num_threads(before)


def recovered(job: Job, rank: Rank, samples: int, trial: int) -> bool:
    """Whether one trial recovers the planted tensor."""
    truth, data, mask = planted(job, rank, samples, trial)
    found = job.method(data, mask, rank).value
    return bool(np.linalg.norm(found - truth) <= job.success * np.linalg.norm(truth))
