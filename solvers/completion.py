"""The recommended combination in one call: ADMM finds the model roughly, Gauss-Newton on the inliers finishes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .admm import AdmmOptions, robust_tucker_admm
from .arrays import Array
from .checks import check_state, checked_problem
from .kernels_numba import one_blas_thread
from .results import CompletionResult, IterationRecord, Status
from .riemannian import GaussNewtonOptions, GaussNewtonState, riemannian_gauss_newton

ROUGH = 3e-3
ROUGH_ITERATIONS = 100
TRIM = 5.0


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
    """Complete a tensor of low multilinear rank: no knob but the rank.

    ``Y = X + E + noise`` on observed entries, ``X`` of multilinear rank ``r``, ``E`` sparse. Three steps: sweeps of
    :func:`robust_tucker_admm` (Huber fidelity) until the model changes by less than 0.3 %; removal of the soft
    threshold's bias by a hard one, entries more than 5 robust standard deviations away being outliers; and
    :func:`riemannian_gauss_newton` on the others, with the threshold following the residual down.

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
        Kept for methods with random starts; this one is deterministic.
    initial_state : GaussNewtonState, optional
        State of an earlier result: skip the sweeps and go on polishing.

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
    A single wrong entry of a matrix looks more like a low-rank one than that of a tensor; two modes therefore start
    from the equality constraint, which takes twice the sweeps but does not mistake it. Entries of a tensor in which
    nearly all is exactly zero, or that a too large rank fits exactly, may be flagged wrongly: ``robust=False`` is for
    those.

    Memory beyond data and mask: one byte a voxel (a dual as large as the data with ``nonnegative``), and ``value`` when
    it is asked for. An index of a mode that was never observed stays zero in ``value``: no low-rank model says
    anything about it (``tensorcell.recover`` fills planes by a model along z).

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
    if start is None:
        rough = robust_tucker_admm(
            data,
            mask,
            rank,
            options=AdmmOptions(
                fidelity="equality" if robust and data.ndim == 2 else "huber",
                threshold=None if robust else float("inf"),
                tolerance=max(ROUGH, tolerance),
                max_iterations=ROUGH_ITERATIONS,
            ),
            nonnegative=nonnegative,
            callback=callback,
        )
        if rough.status in (Status.STOPPED, Status.DIVERGED):
            return rough
        start, history = rough.tucker, rough.history
    return riemannian_gauss_newton(
        data,
        mask,
        start,
        options=GaussNewtonOptions(trim=TRIM if robust else None, tolerance=tolerance, max_iterations=max_iterations),
        callback=callback,
        history=history,
        nonnegative=nonnegative,
    )
