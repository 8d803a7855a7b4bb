"""Robust Tucker completion by the alternating direction method of multipliers.

Solves, over tensors of multilinear rank ``r``,

    minimise  1/2 ridge ||G||^2 + lambda ||E||_1   subject to  P_Omega(X + E) = P_Omega(Y),  X >= 0 where asked,

the model of "Recover Cell Tensor" (RCT) Eqs. 8 and 21, with the duals, the Kronecker structure and the core update
of its Appendix F put right. With ``fidelity="huber"`` the constraint is given up for ``1/2 ||P_Omega(Y - X - E)||^2``:
minimised over ``E`` this is Huber's loss, the twin for data with Gaussian noise.

======== ================================================================ =========================== ========
letter   meaning                                                          shape                       RCT
======== ================================================================ =========================== ========
``Y``    data                                                             ``(I_1, ..., I_k)``         Eq. 3
``W``    mask of Omega                                                    ``(I_1, ..., I_k)``         Eq. 3
``G``    core                                                             ``(r_1, ..., r_k)``         Eq. 9
``U_n``  factors, ``U_n' U_n = I``                                        ``(I_n, r_n)``              Eq. 10
``X``    ``G x_1 U_1 ... x_k U_k``; never stored                          ``(I_1, ..., I_k)``         Eq. 13
``E``    sparse outliers; never stored                                    ``(I_1, ..., I_k)``         Eq. 11
``L``    scaled dual (Lagrange multiplier over ``rho``)                   ``(I_1, ..., I_k)``         Eq. 12
``tau``  ``lambda / rho``, outlier threshold, in the data's unit          number                      Eq. 11
======== ================================================================ =========================== ========

Because ``lambda`` only sets the unit of the multipliers, the penalty ``rho`` enters through ``tau`` alone.

The problem is not convex: neither RCT's Theorem 3 nor any other guarantees the global minimum. The model update is one
majorised step (cells that were not observed take the current model), so this is an inexact ADMM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .arrays import Array, count, namespace_of, scalar
from .checks import check_state, checked_problem, effective_tolerance
from .iteration import Measures, iterate
from .passes import sparse_part
from .problem import Problem
from .proximal import procrustes
from .results import CompletionResult, IterationRecord, Status, tucker_tensor
from .rules import Rule
from .subspaces import ResidualGrid, masked_spectra, recompress
from .sweeps import Sweep, sweep
from .tensors import multi_mode_product, tucker_distance, unfold
from .threads import one_blas_thread

CORE_STEPS = 3
"""Gradient steps by which the core of the start is found."""
LEAST_SWEEPS = 3
"""Fewest sweeps with long steps: they follow a shorter start, whose change says little."""


@dataclass(frozen=True, kw_only=True)
class AdmmOptions:
    """Options of :func:`robust_tucker_admm`; the defaults need no tuning and follow the data's scale.

    Attributes
    ----------
    fidelity : {"equality", "huber"}
        ``"equality"``: every deviation from the model is an outlier (``X + E = Y``); ``"huber"``: deviations below the
        threshold are noise.
    threshold : float or None
        ``tau`` at the start, in the data's unit. None: 2.5 robust standard deviations of the observed residual of the
        spectral start.
    ridge : float
        Weight of ``1/2 ||G||^2`` relative to the penalty ``rho``: the core is divided by ``1 + ridge``.
    relaxation : float
        ``gamma`` between 0 and 1.618, step length of the dual.
    adaptive : bool
        Every ten of the first hundred sweeps, double or halve ``tau`` where the relative primal and dual residuals
        are more than a factor of ten apart (residual balancing, Boyd et al. 2011, doi:10.1561/2200000016, Section
        3.4.1), or, with ``"huber"`` and no threshold given, lower it with the robust scale of the residual.
    acceleration : bool or None
        Extrapolate the model along its last move (Nesterov weights, restarted whenever the move grows: O'Donoghue &
        Candes 2015, doi:10.1007/s10208-013-9150-3). None: with ``"huber"`` and a small core only, where it saves a
        quarter to a third of the sweeps; with ``"equality"`` it saves none.
    tolerance : float
        Stop when the model changes by less than this fraction of its norm in a sweep.
    max_iterations : int
        Largest number of sweeps.
    """

    fidelity: Literal["equality", "huber"] = "equality"
    threshold: float | None = None
    ridge: float = 0.0
    relaxation: float = 1.6
    adaptive: bool = True
    acceleration: bool | None = None
    tolerance: float = 1e-7
    max_iterations: int = 500

    def __post_init__(self) -> None:
        if self.fidelity not in ("equality", "huber"):
            raise ValueError(f"expected fidelity 'equality' or 'huber', got {self.fidelity!r}")
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"expected a positive threshold or None, got {self.threshold}")
        if not self.ridge >= 0:
            raise ValueError(f"expected a ridge of at least 0, got {self.ridge}")
        if not 0 < self.relaxation < 1.618:
            raise ValueError(f"expected a relaxation between 0 and 1.618, got {self.relaxation}")
        if not self.tolerance >= 0:
            raise ValueError(f"expected a tolerance of at least 0, got {self.tolerance}")
        if self.max_iterations < 1:
            raise ValueError(f"expected at least one iteration, got {self.max_iterations}")

    def accelerates(self, core_size: int, voxels: int) -> bool:
        """Whether the model is extrapolated: the core of twice the rank must be small beside a pass over the data."""
        if self.acceleration is None:
            return self.fidelity == "huber" and core_size < voxels / 50
        return self.acceleration


class AdmmState(NamedTuple):
    """All that is needed to go on. ``dual`` is shared between states and updated in place by the next step."""

    core: Array
    factors: tuple[Array, ...]
    dual: Array | None
    threshold: float
    start: float
    """Threshold of the first sweep."""
    iteration: int
    previous: tuple[Array, tuple[Array, ...]]
    """Core and factors of the step before, for extrapolation."""
    momentum: float
    """Nesterov's ``t``; 1 right after a restart."""
    change: float
    """Absolute length of the last move."""
    step: float = 1.0
    """Length of a step: 1 majorises and cannot fail, the inverse of the sampling ratio takes fewer sweeps."""


@one_blas_thread()
def robust_tucker_admm(
    data: Array,
    mask: Array | None,
    rank: int | Sequence[int],
    *,
    options: AdmmOptions | None = None,
    nonnegative: bool = False,
    callback: Callable[[IterationRecord, AdmmState], bool | None] | None = None,
    initial_state: AdmmState | None = None,
) -> CompletionResult:
    """Complete a tensor of low multilinear rank from some of its entries, a share of which may be wrong.

    Parameters
    ----------
    data : array ``(I_1, ..., I_k)``
        Float32 or float64 (other real types become float64), any unit; anything, NaN too, where the mask is False.
    mask : bool array of the same shape, or None
        True = observed; None: every entry.
    rank : int or k ints
        Multilinear rank.
    options : AdmmOptions, optional
    nonnegative : bool
        Ask for ``X >= 0``: entries that were not observed through the constraint's own scaled dual, ``value`` by a
        final projection.
    callback : callable, optional
        ``callback(record, state)`` after each sweep; returning True stops.
    initial_state : AdmmState, optional
        State of an earlier call, whose dual is copied. Going on equals not having stopped, bit for bit on NumPy.

    Returns
    -------
    CompletionResult
        ``value`` is ``X``, ``outliers`` is ``E``, both of the data's shape, dtype and namespace.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together; see :func:`tensorcell.solvers.checks.checked_problem`.

    Notes
    -----
    One sweep is one pass over the data (see :mod:`tensorcell.solvers.sweeps`), all from the old model::

        R = W (Y - X - L)          c = clip(R, -tau, tau)          E = R - c
        L <- (1 - gamma) L - gamma c                               D = W (L_old + c - L)
        U_n <- polar(U_n G_(n) G_(n)' + D_(n) (G x_m U_m)_(n)')    for every n
        G <- (G + D x_n U_n_old') x_n (U_n' U_n_old) / (1 + ridge)

    Memory beyond data and mask: the dual (as large as the data; none with ``fidelity="huber"`` unless
    ``nonnegative``) and a few planes.

    References
    ----------
    RCT, Algorithm 1. Boyd et al. 2011, doi:10.1561/2200000016. The relaxed dual step: Fortin & Glowinski 1983.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("i,j,k->ijk", *(rng.random(n) + 1 for n in (20, 21, 22)))
    >>> mask = rng.random(tensor.shape) < 0.5
    >>> data = np.where(rng.random(tensor.shape) < 0.05, 9.0, tensor)
    >>> result = robust_tucker_admm(data, mask, 1)
    >>> bool(abs(result.value - tensor).max() < 1e-4)
    True
    """
    options = AdmmOptions() if options is None else options
    data, mask, rank = checked_problem(data, mask, rank)
    check_state(initial_state, rank)
    problem = Problem(data, mask)
    if initial_state is not None:
        dual = checked_dual(initial_state.dual, data, needs_dual(options, nonnegative))
        initial_state = initial_state._replace(dual=dual)
    return admm_result(
        problem, options, nonnegative, *admm_sweeps(problem, rank, options, nonnegative, callback, initial_state)
    )


def admm_sweeps(
    problem: Problem,
    rank: Sequence[int],
    options: AdmmOptions,
    nonnegative: bool,
    callback: Callable[[IterationRecord, AdmmState], bool | None] | None,
    initial_state: AdmmState | None = None,
) -> tuple[AdmmState, Status, tuple[IterationRecord, ...]]:
    """The iterations of :func:`robust_tucker_admm` on a checked problem."""
    return iterate(
        lambda state: step(problem, state, options, nonnegative),
        init(problem, rank, options, nonnegative) if initial_state is None else initial_state,
        stage="admm",
        tolerance=effective_tolerance(options.tolerance, problem.data),
        max_iterations=options.max_iterations,
        callback=callback,
    )


def admm_result(
    problem: Problem,
    options: AdmmOptions,
    nonnegative: bool,
    state: AdmmState,
    status: Status,
    history: tuple[IterationRecord, ...],
) -> CompletionResult:
    """What the sweeps found; the sparse part costs a pass over the data."""
    data, mask = problem.data, problem.mask
    return CompletionResult(
        tucker=tucker_tensor(state.core, state.factors, data.dtype),
        sparse=sparse_part(
            data,
            mask,
            state.core,
            state.factors,
            state.threshold,
            dual=state.dual if options.fidelity == "equality" else None,
            soft=True,
        ),
        status=status,
        history=history,
        state=state,
        nonnegative=nonnegative,
    )


def spectral_start(
    data: Array, mask: Array, rank: Sequence[int], *, robust: bool, steps: int = CORE_STEPS
) -> tuple[Array, tuple[Array, ...]]:
    """Core and factors to start from: debiased spectra for the subspaces, a few clipped gradient steps for the core."""
    spectra = masked_spectra(data, mask, spreads=4.0 if robust else None)
    factors = tuple(
        supported(vectors[:, :r], observed_indices(mask, mode))
        for mode, (vectors, r) in enumerate(zip(spectra.vectors, rank, strict=True))
    )

    def swept(core: Array, limit: float) -> Sweep:
        return sweep(data, mask, core, factors, rule=Rule.HUBER, threshold=limit)

    spread = spectra.spread if robust else 0.0
    return start_core(swept, factors, spectra.centre, spread, spectra.ratio, steps), factors


def start_core(
    swept: Callable[[Array, float], Sweep],
    factors: Sequence[Array],
    centre: float,
    spread: float,
    ratio: float,
    steps: int = CORE_STEPS,
) -> Array:
    """The core to start from: a constant, and a few gradient steps with residuals clipped to four spreads, if any.

    ``swept(core, limit)`` is a Huber sweep with these factors, ``ratio`` the share of the entries that was observed.
    """
    xp = namespace_of(*factors)
    core = centre * outer([xp.sum(factor, axis=0) for factor in factors])
    limit = 4.0 * spread if spread > 0 else math.inf
    for _ in range(steps):
        core = core + swept(core, limit).core / ratio
    return core


def observed_indices(mask: Array, mode: int) -> Array:
    """Whether anything was observed at an index of a mode, bool ``(I_mode,)``."""
    return namespace_of(mask).any(mask, axis=tuple(other for other in range(mask.ndim) if other != mode))


def supported(factor: Array, observed: Array) -> Array:
    """The factor with zero rows where an index was never observed, since the data say nothing about it."""
    xp = namespace_of(factor, observed)
    if bool(xp.all(observed)):
        return factor
    basis, _ = xp.linalg.qr(factor * xp.astype(observed, factor.dtype)[:, None], mode="reduced")
    return basis


def outer(vectors: Sequence[Array]) -> Array:
    """Outer product of k vectors."""
    xp = namespace_of(*vectors)
    product = vectors[0]
    for vector in vectors[1:]:
        product = product[..., None] * xp.reshape(vector, (1,) * product.ndim + (-1,))
    return product


def needs_dual(options: AdmmOptions, nonnegative: bool) -> bool:
    """Whether there is a constraint, and so a multiplier."""
    return options.fidelity == "equality" or nonnegative


def checked_dual(dual: Array | None, data: Array, needed: bool) -> Array | None:
    """A copy of the dual of an earlier state, after checking that it belongs to this problem."""
    if not needed:
        return None
    if dual is None:
        raise ValueError("state has no dual, but fidelity 'equality' or nonnegative=True needs one")
    if tuple(dual.shape) != tuple(data.shape):
        raise ValueError(f"state has a dual of shape {tuple(dual.shape)}, data has shape {tuple(data.shape)}")
    copy = namespace_of(data).zeros_like(data)
    copy[...] = dual
    return copy


def init(problem: Problem, rank: Sequence[int], options: AdmmOptions, nonnegative: bool) -> AdmmState:
    """Spectral start, dual zero, threshold from the observed residual of the start."""
    data = problem.data
    start = spectral_start(data, problem.mask, rank, robust=True)
    dual = namespace_of(data).zeros_like(data) if needs_dual(options, nonnegative) else None
    return first_state(problem.grid, *start, options, dual)


def long_init(problem: Problem, rank: Sequence[int], options: AdmmOptions) -> AdmmState:
    """As :func:`init` for Huber sweeps with long steps, which find the core beside the factors."""
    ratio = count(problem.mask) / math.prod(problem.mask.shape)
    start = spectral_start(problem.data, problem.mask, rank, robust=True, steps=1)
    return first_state(problem.grid, *start, options)._replace(step=1 / ratio)


def first_state(
    grid: ResidualGrid, core: Array, factors: tuple[Array, ...], options: AdmmOptions, dual: Array | None = None
) -> AdmmState:
    """The state before the first sweep, its threshold from the residual of the model to start from."""
    threshold = options.threshold
    if threshold is None:
        threshold = 2.5 * grid.scale(core, factors, True)
        if not threshold > 0:  # more than half of the residuals are exactly zero
            threshold = 2.5 * grid.scale(core, factors, False) or 1.0
    return AdmmState(core, factors, dual, threshold, threshold, 0, (core, factors), 1.0, math.inf)


def step(problem: Problem, state: AdmmState, options: AdmmOptions, nonnegative: bool) -> tuple[AdmmState, Measures]:
    """One sweep; the equations stand in the notes of :func:`robust_tucker_admm`."""

    def swept(core: Array, factors: Sequence[Array]) -> Sweep:
        return sweep(
            problem.data,
            problem.mask,
            core,
            factors,
            rule=Rule.EQUALITY if options.fidelity == "equality" else Rule.HUBER,
            dual=state.dual,
            threshold=state.threshold,
            relaxation=options.relaxation if options.fidelity == "equality" else 1.0,
            nonnegative=nonnegative,
        )

    return step_with(swept, state, options, problem.norm, problem.grid)


def step_with(
    swept: Callable[[Array, Sequence[Array]], Sweep],
    state: AdmmState,
    options: AdmmOptions,
    norm: float,
    grid: ResidualGrid,
) -> tuple[AdmmState, Measures]:
    """The step around a pass ``swept(core, factors)`` over data that may lie anywhere.

    ``norm`` is ``||P_Omega(Y)||``, and ``grid`` the subgrid on which the scale of the residual is estimated. A step
    longer than 1 is halved whenever the move grows.
    """
    voxels = math.prod(factor.shape[0] for factor in state.factors)
    long = state.step > 1
    accelerated = not long and options.accelerates(2**state.core.ndim * math.prod(state.core.shape), voxels)
    core, factors, momentum = extrapolate(state) if accelerated else (state.core, state.factors, 1.0)
    result = swept(core, factors)
    direction = (
        result
        if not long
        else result._replace(core=state.step * result.core, factors=tuple(state.step * part for part in result.factors))
    )
    new_core, new_factors = update_model(core, factors, direction, options.ridge)
    change = scalar(tucker_distance(state.core, state.factors, new_core, new_factors))
    size = math.sqrt(scalar(namespace_of(new_core).sum(new_core**2)))
    length = state.step
    if change > state.change:
        momentum, length = 1.0, max(1.0, state.step / 2)
    new = AdmmState(
        new_core, new_factors, state.dual, state.threshold, state.start, state.iteration + 1,
        (state.core, state.factors), momentum, change, length,
    )  # fmt: skip
    sums = result.read()
    measures = Measures(
        change=change / state.step / (size + 1e-300),
        residual=math.sqrt(sums.fit) / (norm + 1e-300),
        outliers=sums.outliers,
        threshold=state.threshold,
        settled=not long or new.iteration >= LEAST_SWEEPS,
    )
    if options.adaptive:
        new = adapt(new, measures, grid, options)
    return new, measures


def update_model(core: Array, factors: Sequence[Array], result: Sweep, ridge: float) -> tuple[Array, tuple[Array, ...]]:
    """Procrustes update of every factor and ridge update of the core, turned into the new subspaces."""
    new_factors = []
    for mode, (factor, contracted) in enumerate(zip(factors, result.factors, strict=True)):
        unfolded = unfold(core, mode)
        new_factors.append(procrustes(factor @ (unfolded @ unfolded.T) + contracted))
    turns = [new.T @ old for new, old in zip(new_factors, factors, strict=True)]
    return multi_mode_product(core + result.core, turns) / (1 + ridge), tuple(new_factors)


def extrapolate(state: AdmmState) -> tuple[Array, tuple[Array, ...], float]:
    """``X + beta (X - X_previous)``, truncated to the rank; and the next momentum."""
    momentum = (1 + math.sqrt(1 + 4 * state.momentum**2)) / 2
    beta = (state.momentum - 1) / momentum
    if beta == 0:
        return state.core, state.factors, momentum
    xp = namespace_of(state.core)
    old_core, old_factors = state.previous
    rank = state.core.shape
    block = xp.zeros(tuple(2 * r for r in rank), dtype=state.core.dtype)
    block[tuple(slice(0, r) for r in rank)] = (1 + beta) * state.core
    block[tuple(slice(r, 2 * r) for r in rank)] = -beta * old_core
    pairs = [xp.concat(pair, axis=1) for pair in zip(state.factors, old_factors, strict=True)]
    core, factors = recompress(block, pairs, rank)
    return core, tuple(factors), momentum


def adapt(state: AdmmState, measures: Measures, grid: ResidualGrid, options: AdmmOptions) -> AdmmState:
    """New ``tau`` every ten sweeps; with ``rho`` the scaled dual changes too, inversely."""
    if state.iteration % 10 or state.iteration > 100:
        return state
    if options.fidelity == "huber":
        if options.threshold is not None:
            return state
        scale = 2.5 * grid.scale(state.core, state.factors, True)
        return state._replace(threshold=min(state.threshold, max(scale, state.threshold / 2)))
    primal, dual = measures.residual, measures.change
    # A large primal residual asks for a larger rho, that is a smaller tau; kept within a factor of the start so that
    # the threshold stays between the noise and the outliers.
    factor = 0.5 if primal > 10 * dual else 2.0 if dual > 10 * primal else 1.0
    threshold = min(8 * state.start, max(state.start / 8, factor * state.threshold))
    if state.dual is not None and threshold != state.threshold:
        dual = state.dual[...]  # the same memory: the dual is scaled in place
        dual *= threshold / state.threshold
    return state._replace(threshold=threshold)
