"""Riemannian Gauss-Newton on the manifold of Tucker tensors, with trimming of outliers.

Minimises ``1/2 || P_Omega' (Y - X) ||^2`` over tensors ``X`` of multilinear rank ``r``, where ``Omega'`` are the
observed entries whose residual is below the outlier threshold (all observed entries without outliers). Each step
solves the least-squares problem linearised on the tangent space and returns to the manifold by a truncated HOSVD
(Luo & Zhang 2023, "Low-rank tensor estimation via Riemannian Gauss-Newton", arXiv:2104.12031, Algorithm 1). The
problem is not convex: a start near the solution is needed, which the spectral start or ADMM give.

========= ========================================================== ====================
letter    meaning                                                    shape
========= ========================================================== ====================
``G, U``  core and orthonormal factors of the iterate                ``r``; ``(I_n, r_n)``
``K, V``  tangent vector: ``K`` in the core, ``V_n`` with            ``r``; ``(I_n, r_n)``
          ``U_n' V_n = 0``: ``xi = K x U + sum_n G x_n V_n x_m U_m``
``H``     ``G_(n) G_(n)'``                                           ``(r_n, r_n)``
``T``     tangent vector in orthonormal coordinates: ``K`` and       as ``K, V``
          ``V_n H_n^(1/2)``
========= ========================================================== ====================

In these coordinates the operator ``P_T P_Omega' P_T`` has eigenvalues near the sampling ratio, so that few steps of
conjugate gradients, each one streamed pass over the data, solve the inner problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .arrays import Array, as_double, namespace_of, scalar, to_host
from .checks import checked_problem, effective_tolerance
from .iteration import Measures, iterate
from .passes import keep_inliers, rounding, sparse_part
from .problem import Problem
from .results import CompletionResult, IterationRecord, Status, tucker_tensor
from .rules import Rule
from .subspaces import recompress
from .sweeps import sweep
from .tensors import unfold
from .threads import one_blas_thread

if TYPE_CHECKING:
    from tensorly.tucker_tensor import TuckerTensor

FIRST_THRESHOLD = 2.0
THRESHOLD_DECAY = 0.4
SINGLE_ABOVE = 1e-3
"""Relative change above which float32 is enough for gradients too."""

Tangent = tuple[Array, ...]
"""``(K, V_1, ..., V_k)`` in orthonormal coordinates."""


@dataclass(frozen=True, kw_only=True)
class GaussNewtonOptions:
    """Options of :func:`riemannian_gauss_newton`.

    Attributes
    ----------
    trim : float or None
        Entries whose residual exceeds ``trim`` robust standard deviations of all observed residuals are outliers and
        are left out of the fit; with None no entry is left out.
    inner_iterations : int
        Largest number of conjugate-gradient steps in one Gauss-Newton step; each costs one pass over the data.
    tolerance : float
        Stop when the model changes by less than this fraction of its norm in a step.
    max_iterations : int
        Largest number of Gauss-Newton steps.
    """

    trim: float | None = None
    inner_iterations: int = 30
    tolerance: float = 1e-7
    max_iterations: int = 50

    def __post_init__(self) -> None:
        if self.trim is not None and not self.trim > 0:
            raise ValueError(f"expected a positive trim or None, got {self.trim}")
        if self.inner_iterations < 1 or self.max_iterations < 1:
            raise ValueError(
                f"expected at least one iteration, got inner_iterations={self.inner_iterations}, "
                f"max_iterations={self.max_iterations}"
            )
        if not self.tolerance >= 0:
            raise ValueError(f"expected a tolerance of at least 0, got {self.tolerance}")


class GaussNewtonState(NamedTuple):
    """All that is needed to resume a fit."""

    core: Array
    factors: tuple[Array, ...]
    change: float
    """Relative length of the last step."""
    scale: float
    """Standard deviation (robust with ``trim``) of the residual on a fixed random subgrid, in the data's unit."""
    threshold: float = math.inf
    """Outlier threshold of the last step, in the data's unit."""
    flagged: int = -1
    """Number of entries left out in the last step."""


@one_blas_thread()
def riemannian_gauss_newton(
    data: Array,
    mask: Array | None,
    initial: TuckerTensor | GaussNewtonState,
    *,
    options: GaussNewtonOptions | None = None,
    callback: Callable[[IterationRecord, GaussNewtonState], bool | None] | None = None,
    history: tuple[IterationRecord, ...] = (),
    nonnegative: bool = False,
) -> CompletionResult:
    """Fit a Tucker model to the observed entries, starting from a model that is already near.

    Parameters
    ----------
    data : array ``(I_1, ..., I_k)``
        Float32 or float64 (other real types become float64); anything, NaN too, where nothing was observed.
    mask : bool array of the same shape, or None
        True = observed; None: every entry.
    initial : TuckerTensor or GaussNewtonState
        Start; its core gives the rank. A state of an earlier call continues it.
    options : GaussNewtonOptions, optional
    callback : callable, optional
        ``callback(record, state)`` after each step; returning True stops.
    history : tuple of IterationRecord
        Records of earlier stages, to which those of this one are appended.
    nonnegative : bool
        Project ``value`` of the result on the non-negative orthant (the fit itself is not constrained).

    Returns
    -------
    CompletionResult
        ``outliers`` holds ``Y - X`` where the residual was above the threshold.

    Raises
    ------
    TypeError, ValueError
        If data, mask and start do not fit together.

    Notes
    -----
    A step costs one pass for the gradient and one for each inner step (about ``8 r N`` operations each for N voxels);
    memory beyond data and mask: one byte a voxel for the mask of inliers, and a few planes.

    References
    ----------
    Luo & Zhang, arXiv:2104.12031, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorcell.solvers import hosvd
    >>> tensor = np.einsum("i,j,k->ijk", *(np.arange(1.0, n) for n in (5, 6, 7)))
    >>> mask = np.random.default_rng(0).random(tensor.shape) < 0.7
    >>> result = riemannian_gauss_newton(tensor, mask, hosvd(tensor * mask, (1, 1, 1)))
    >>> bool(abs(result.value - tensor).max() < 1e-6)
    True
    """
    options = GaussNewtonOptions() if options is None else options
    core: Array = initial[0]
    factors: tuple[Array, ...] = tuple(initial[1])
    data, mask, _ = checked_problem(data, mask, core.shape)
    namespace_of(data, core)
    if tuple(factor.shape[0] for factor in factors) != tuple(data.shape):
        raise ValueError(
            f"start has shape {tuple(factor.shape[0] for factor in factors)}, data has shape {tuple(data.shape)}"
        )
    return gauss_newton(Problem(data, mask), initial, options, callback, history, nonnegative)


def gauss_newton(
    problem: Problem,
    initial: TuckerTensor | GaussNewtonState,
    options: GaussNewtonOptions,
    callback: Callable[[IterationRecord, GaussNewtonState], bool | None] | None,
    history: tuple[IterationRecord, ...],
    nonnegative: bool,
    least_threshold: float = 0.0,
) -> CompletionResult:
    """:func:`riemannian_gauss_newton` on a checked problem; the first outlier threshold is at least the one given."""
    data, mask, norm, grid = problem.data, problem.mask, problem.norm, problem.grid
    xp = namespace_of(data)
    core, factors = initial[0], initial[1]
    kept = xp.asarray(mask, copy=True) if options.trim is not None else mask
    if isinstance(initial, GaussNewtonState):
        state = initial
    else:
        core, bases = recompress(as_double(core), [as_double(f) for f in factors], core.shape)
        state = GaussNewtonState(core, tuple(bases), 1.0, grid.scale(core, bases, options.trim is not None))

    def floor(scale: float) -> float:
        return max((options.trim or 0.0) * scale, rounding(data, norm))

    def next_threshold(state: GaussNewtonState) -> float:
        # The error of an early model is uneven: a threshold that fell as fast as the typical residual would cut off
        # the fibres that are still wrong, and never include them again. It starts FIRST_THRESHOLD times too high and
        # falls by THRESHOLD_DECAY at most, more slowly than Gauss-Newton reduces all errors of inliers.
        if math.isinf(state.threshold):
            return max(FIRST_THRESHOLD * floor(state.scale), least_threshold)
        return max(floor(state.scale), THRESHOLD_DECAY * state.threshold)

    def step(state: GaussNewtonState) -> tuple[GaussNewtonState, Measures]:
        threshold, flagged = math.inf, 0
        values = problem.single.data if state.change > SINGLE_ABOVE else data
        if options.trim is not None:
            threshold = next_threshold(state)
            flagged = keep_inliers(values, mask, state.core, state.factors, threshold, kept)
        chart = chart_at(state)
        gradient, fit = tangent_gradient(values, kept, chart)
        accuracy = min(0.1, max(0.01, state.change))
        tangent = solve_normal_equations(problem.single.data, kept, chart, gradient, accuracy, options.inner_iterations)
        length, size = tangent_norm(tangent), chart.size
        new, shrink = state, 1.0
        while shrink > 1e-3:  # backtracking: the robust scale of the residual must not grow
            core, factors = retract(chart, tangent, shrink)
            scale = grid.scale(core, factors, options.trim is not None)
            change = shrink * length / (size + 1e-300)
            if change < 1e-6 or scale <= 1.02 * state.scale + rounding(data, norm):
                new = GaussNewtonState(core, factors, change, scale, threshold, flagged)
                break
            shrink /= 4
        measures = Measures(
            change=new.change if new is not state else shrink * length / (size + 1e-300),
            residual=math.sqrt(fit) / (norm + 1e-300),
            outliers=flagged,
            threshold=threshold if math.isfinite(threshold) else 0.0,
            settled=flagged == state.flagged or threshold <= floor(state.scale),
            stalled=new is state,
        )
        return new, measures

    state, status, records = iterate(
        step,
        state,
        stage="polish",
        tolerance=effective_tolerance(options.tolerance, data),
        max_iterations=options.max_iterations,
        callback=callback,
        history=history,
    )
    threshold = math.inf if options.trim is None else next_threshold(state)
    return CompletionResult(
        tucker=tucker_tensor(state.core, state.factors, data.dtype),
        sparse=sparse_part(data, mask, state.core, state.factors, threshold),
        status=Status.CONVERGED if status is Status.STALLED and records[-1].change < 1e-6 else status,
        history=records,
        state=state,
        nonnegative=nonnegative,
    )


class Chart(NamedTuple):
    """A point of the manifold with what makes the coordinates of its tangent space orthonormal."""

    core: Array
    """Core, scaled to norm one: the same tangent space, and numbers that float32 holds whatever the data's unit."""
    factors: tuple[Array, ...]
    roots: tuple[Array, ...]
    """``H_n^(-1/2)``, without the directions in which the core is numerically zero."""
    size: float
    """Norm of the core before scaling."""


def chart_at(state: GaussNewtonState) -> Chart:
    """Coordinates of the tangent space at the iterate."""
    xp = namespace_of(state.core)
    largest = scalar(xp.max(xp.abs(state.core))) or 1.0  # first, so that no square overflows
    size = largest * math.sqrt(scalar(xp.sum((state.core / largest) ** 2))) or 1.0
    core = state.core / size
    roots = []
    for mode in range(core.ndim):
        unfolded = unfold(core, mode)
        values, vectors = xp.linalg.eigh(unfolded @ unfolded.T)
        good = values > 1e-14 * values[-1]
        safe = xp.where(good, values, xp.ones_like(values))
        roots.append((vectors * xp.where(good, 1 / xp.sqrt(safe), xp.zeros_like(values))) @ vectors.T)
    return Chart(core, state.factors, tuple(roots), size)


def tangent_gradient(data: Array, kept: Array, chart: Chart) -> tuple[Tangent, float]:
    """``P_T P_Omega' (Y - X)`` in orthonormal coordinates, and ``||P_Omega' (Y - X)||^2``."""
    model = (chart.size * chart.core, chart.factors)
    result = sweep(data, kept, chart.core, chart.factors, rule=Rule.RESIDUAL, model=model)
    return to_tangent(chart, result.core, result.factors), result.read().fit


def to_tangent(chart: Chart, core: Array, contracted: Sequence[Array]) -> Tangent:
    """Orthonormal coordinates of ``P_T D`` from the contractions of ``D``: ``(I - U U') M_n H_n^(-1/2)``."""
    free = [m - u @ (u.T @ m) for m, u in zip(contracted, chart.factors, strict=True)]
    return core, *(part @ root for part, root in zip(free, chart.roots, strict=True))


def block_tucker(chart: Chart, tangent: Tangent) -> tuple[Array, list[Array]]:
    """The tangent vector as a Tucker model of twice the rank: factors ``[U_n, V_n]``, block core of ``K`` and ``G``."""
    xp = namespace_of(chart.core)
    rank = chart.core.shape
    core = xp.zeros(tuple(2 * r for r in rank), dtype=chart.core.dtype)
    core[tuple(slice(0, r) for r in rank)] = tangent[0]
    factors = []
    for mode, (factor, root) in enumerate(zip(chart.factors, chart.roots, strict=True)):
        place = tuple(slice(r, 2 * r) if m == mode else slice(0, r) for m, r in enumerate(rank))
        core[place] = chart.core
        factors.append(xp.concat([factor, tangent[mode + 1] @ root], axis=1))
    return core, factors


def retract(chart: Chart, tangent: Tangent, shrink: float) -> tuple[Array, tuple[Array, ...]]:
    """Truncated HOSVD of ``X + shrink * xi``."""
    rank = chart.core.shape
    core, factors = block_tucker(chart, tuple(shrink * part for part in tangent))
    core[tuple(slice(0, r) for r in rank)] += chart.size * chart.core
    core, new_factors = recompress(core, factors, rank)
    return core, tuple(new_factors)


def solve_normal_equations(
    data: Array, kept: Array, chart: Chart, gradient: Tangent, accuracy: float, max_steps: int
) -> Tangent:
    """Conjugate gradients on ``P_T P_Omega' P_T xi = P_T P_Omega' (Y - X)`` to a relative residual of ``accuracy``.

    The caller lets the accuracy follow the last outer change, between 0.1 and 0.01 (inexact Newton, Dembo, Eisenstat &
    Steihaug 1982, doi:10.1137/0719025): fewer inner passes while the linearisation is still rough.
    """
    xp = namespace_of(data)
    solution = tuple(xp.zeros_like(part) for part in gradient)
    unit = tangent_norm(gradient) or 1.0
    residual = search = tuple(part / unit for part in gradient)
    square = scalar(inner(residual, residual))
    goal = accuracy**2 * square
    for _ in range(max_steps):
        if not square > goal:
            break
        model = block_tucker(chart, search)
        image = sweep(data, kept, chart.core, chart.factors, rule=Rule.CURVATURE, model=model)
        curved = to_tangent(chart, image.core, image.factors)
        curvature = inner(search, curved)
        bent = curvature > 0
        length = xp.where(bent, square / xp.where(bent, curvature, xp.ones_like(curvature)), xp.zeros_like(curvature))
        solution = tuple(a + length * b for a, b in zip(solution, search, strict=True))
        residual = tuple(a - length * b for a, b in zip(residual, curved, strict=True))
        old = square
        length, square = to_host(xp.stack([length, inner(residual, residual)])).tolist()  # the one wait of a step
        if not length > 0:
            break
        search = tuple(a + (square / old) * b for a, b in zip(residual, search, strict=True))
    return tuple(unit * part for part in solution)


def inner(a: Tangent, b: Tangent) -> Array:
    """Inner product of tangent vectors in orthonormal coordinates, an array without axes."""
    xp = namespace_of(a[0])
    total = xp.sum(a[0] * b[0])
    for left, right in zip(a[1:], b[1:], strict=True):
        total = total + xp.sum(left * right)
    return total


def tangent_norm(tangent: Tangent) -> float:
    """Length of a tangent vector."""
    return math.sqrt(scalar(inner(tangent, tangent)))
