"""Expectation-maximisation Tucker completion: the plain reference that the fast methods are measured against.

======== ==================================================== =========================
letter   meaning                                              shape
======== ==================================================== =========================
``Y, W`` data and mask                                        ``(I_1, ..., I_k)``
``X``    model of multilinear rank ``r``                      ``(I_1, ..., I_k)``
``T``    target ``W Y + (1 - W) X``, stored whole             ``(I_1, ..., I_k)``
======== ==================================================== =========================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .arrays import Array, as_double, namespace_of, scalar
from .checks import check_state, checked_problem, effective_tolerance
from .iteration import Measures, iterate
from .passes import observed_norm
from .results import CompletionResult, IterationRecord, SparsePart, tucker_tensor
from .subspaces import hosvd
from .tensors import tucker_distance, tucker_to_dense
from .threads import one_blas_thread


class EmState(NamedTuple):
    """All that is needed to go on."""

    core: Array
    factors: tuple[Array, ...]


@one_blas_thread()
def em_tucker(
    data: Array,
    mask: Array | None,
    rank: int | Sequence[int],
    *,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
    callback: Callable[[IterationRecord, EmState], bool | None] | None = None,
    initial_state: EmState | None = None,
) -> CompletionResult:
    """Complete a tensor by alternating between filling the gaps with the model and a truncated HOSVD.

    ``X <- HOSVD_r(W Y + (1 - W) X)``, from the HOSVD of the data with the mean in the gaps. No outliers, no
    acceleration, the whole tensor in memory a few times: a reference, not a tool.

    Parameters
    ----------
    data, mask, rank
        As in :func:`tensorcell.solvers.robust_tucker_admm`.
    tolerance : float
        Stop when the model changes by less than this fraction of its norm.
    max_iterations : int
        Largest number of iterations.
    callback, initial_state
        As in :func:`tensorcell.solvers.robust_tucker_admm`.

    Returns
    -------
    CompletionResult

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    Notes
    -----
    Cost an iteration: ``N sum_n I_n`` for N voxels. Walczak & Massart 2001, doi:10.1016/S0169-7439(01)00131-9.

    Examples
    --------
    >>> import numpy as np
    >>> tensor = np.einsum("i,j,k->ijk", *(np.arange(1.0, n) for n in (8, 9, 10)))
    >>> mask = np.random.default_rng(0).random(tensor.shape) < 0.7
    >>> bool(abs(em_tucker(tensor, mask, 1).value - tensor).max() < 1e-3)
    True
    """
    data, mask, rank = checked_problem(data, mask, rank)
    xp = namespace_of(data, mask)
    check_state(initial_state, rank)
    norm = observed_norm(data, mask)
    observed = as_double(xp.where(mask, data, xp.zeros((), dtype=data.dtype)))
    if initial_state is None:
        mean = xp.sum(observed) / xp.sum(xp.astype(mask, xp.float64))
        core, factors = hosvd(xp.where(mask, observed, mean), rank)
        initial_state = EmState(core, tuple(factors))

    def step(state: EmState) -> tuple[EmState, Measures]:
        model = tucker_to_dense(state.core, state.factors)
        misfit = xp.where(mask, observed - model, xp.zeros_like(model))
        core, factors = hosvd(model + misfit, rank)
        new = EmState(core, tuple(factors))
        change = scalar(tucker_distance(state.core, state.factors, new.core, new.factors))
        size = math.sqrt(scalar(xp.sum(core**2)))
        residual = math.sqrt(scalar(xp.sum(misfit**2)))
        return new, Measures(change / (size + 1e-300), residual / (norm + 1e-300), 0, 0.0)

    state, status, history = iterate(
        step,
        initial_state,
        stage="em",
        tolerance=effective_tolerance(tolerance, data),
        max_iterations=max_iterations,
        callback=callback,
    )
    nothing = SparsePart(xp.zeros((0,), dtype=xp.int64), xp.zeros((0,), dtype=data.dtype))
    return CompletionResult(
        tucker=tucker_tensor(state.core, state.factors, data.dtype),
        sparse=nothing,
        status=status,
        history=history,
        state=state,
    )
