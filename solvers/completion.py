"""The recommended combination in one call: ADMM finds the model roughly, Gauss-Newton on the inliers finishes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .admm import AdmmOptions, admm_result, admm_sweeps, long_init
from .arrays import Array, count
from .checks import check_state, checked_problem
from .problem import Problem
from .rank_limits import degrees_of_freedom
from .results import CompletionResult, IterationRecord, Status, tucker_tensor
from .riemannian import GaussNewtonOptions, GaussNewtonState, gauss_newton
from .threads import one_blas_thread

ROUGH = 0.06
"""The sweeps end when a sweep changes the model by less than this share, times the sampling ratio."""
ROUGH_NONNEGATIVE = 3e-3
"""With a non-negative model the sweeps end when a sweep changes it by less than this share."""
ROUGH_ITERATIONS = 100
"""Largest number of sweeps."""
LONG_ABOVE = 10
"""Steps are long where this many times as many entries were observed as the model has degrees of freedom: near twice
as many, short steps recover tensors that long ones lose."""
TRIM = 5.0
"""Entries further from the model than this multiple of the residual's robust standard deviation are outliers."""


@one_blas_thread()
def complete_tucker(
    data: Array,
    mask: Array | None,
    rank: int | Sequence[int],
    *,
    robust: bool = True,
    tolerance: float = 1e-7,
    max_iterations: int = 50,
    nonnegative: bool = False,
    callback: Callable[[IterationRecord, Any], bool | None] | None = None,
    seed: int = 0,
    initial_state: GaussNewtonState | None = None,
) -> CompletionResult:
    """Complete a tensor of low multilinear rank; the rank is the only parameter that must be chosen.

    ``Y = X + E + noise`` on observed entries, ``X`` of multilinear rank ``r``, ``E`` sparse. Three steps: sweeps of
    :func:`robust_tucker_admm` (Huber fidelity) until the model changes by less than 6 % times the sampling ratio (a
    sweep moves it by about that share of its error), or by 0.3 % with ``nonnegative``, which acts here only; removal of
    the soft threshold's bias by a hard one, entries more than 5 robust standard deviations away being outliers; and
    :func:`riemannian_gauss_newton` on the others, with the threshold following the residual down. The sweeps, and the
    inner steps of Gauss-Newton, run in float32 whatever the data's precision; the last gradients, and so the result,
    keep it. Without ``nonnegative``, and where at least ten times as many entries were observed as the model has
    degrees of freedom, the steps of the sweeps are longer by the inverse of the sampling ratio while that serves.

    Parameters
    ----------
    data : array ``(I_1, ..., I_k)``
        Float32 or float64 (other real types become float64), any unit; anything, NaN too, where the mask is False.
    mask : bool array of the same shape, or None
        True = observed; None: every entry.
    rank : int or k ints
        Multilinear rank; an int stands for all modes.
    robust : bool
        Look for outliers; False fits all observed entries by least squares.
    tolerance : float
        Relative change of the model at which the run ends; float32 data end near 1e-6.
    max_iterations : int
        Largest number of Gauss-Newton steps.
    nonnegative : bool
        ``X >= 0``: in the sweeps as a constraint, in ``value`` by projection.
    callback : callable, optional
        ``callback(record, state)`` after every iteration of either stage; returning True stops.
    seed : int
        Not used, since this method is deterministic; methods with random starts take one.
    initial_state : GaussNewtonState, optional
        State of an earlier result, from which the Gauss-Newton steps go on without sweeps.

    Returns
    -------
    CompletionResult
        ``value`` the full tensor, ``outliers`` the sparse part, ``tucker`` the factors.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    Notes
    -----
    A matrix with a single wrong entry is closer to low rank than such a tensor of more modes. With two modes the sweeps
    therefore start from the equality constraint, which takes twice as many sweeps but recognises the entry. If nearly
    all entries are exactly zero, or a too large rank fits them exactly, some may be flagged wrongly; ``robust=False``
    avoids that.

    Memory beyond data and mask: one byte a voxel, four more with float64 data (and four with ``nonnegative``), and
    ``value`` when it is asked for. An index of a mode that was never observed stays zero in ``value``: a low-rank
    model cannot predict it (``tensorcell.recover`` fills planes by a model along z).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 2)) for n in (20, 21, 22)))
    >>> mask = rng.random(tensor.shape) < 0.5
    >>> data = np.where(rng.random(tensor.shape) < 0.05, 5.0, tensor)
    >>> result = complete_tucker(data, mask, 2)
    >>> bool(abs(result.value - tensor).max() < 1e-8)
    True
    """
    del seed
    data, mask, rank = checked_problem(data, mask, rank)
    check_state(initial_state, rank)
    history: tuple[IterationRecord, ...] = ()
    start: Any = initial_state
    clipped = 0.0
    problem = Problem(data, mask)
    if start is None:
        matrix = sum(size > 1 for size in data.shape) <= 2
        observed = count(mask)
        enough = ROUGH_NONNEGATIVE if nonnegative else ROUGH * observed / math.prod(data.shape)
        rough = AdmmOptions(
            fidelity="equality" if robust and matrix else "huber",
            threshold=None if robust else float("inf"),
            tolerance=max(enough, tolerance),
            max_iterations=ROUGH_ITERATIONS,
        )
        long = rough.fidelity == "huber" and not nonnegative and long_steps_hold(observed, rank, data.shape)
        first = long_init(problem.single, rank, rough) if long else None
        start, status, history = admm_sweeps(problem.single, rank, rough, nonnegative, callback, first)
        if status in (Status.STOPPED, Status.DIVERGED):
            return admm_result(problem, rough, nonnegative, start, status, history)
        clipped = start.threshold if robust and long else 0.0
        start = tucker_tensor(start.core, start.factors, start.core.dtype)
    polish = GaussNewtonOptions(trim=TRIM if robust else None, tolerance=tolerance, max_iterations=max_iterations)
    return gauss_newton(problem, start, polish, callback, history, nonnegative, clipped)


def long_steps_hold(observed: int, rank: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether some entries are missing, and those observed still many times the degrees of freedom of the model."""
    return LONG_ABOVE * degrees_of_freedom(rank, shape) <= observed < math.prod(shape)
