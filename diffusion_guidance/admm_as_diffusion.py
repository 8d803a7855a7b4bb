"""RCT's reading of its ADMM as a reverse diffusion, executable: what is exact, and what is an analogy.

"Recover Cell Tensor" (RCT, Section 3.2) calls the iterates of its solver the states of a deterministic conditional
diffusion. This module writes both sides down as dense tensors, so that the claim can be checked number by number
against :func:`tensorcell.solvers.robust_tucker_admm`.

**Exact.** Take the deterministic sampler (DDIM, ``eta = 0``)

    ``x_next = sqrt(abar_next) x0_hat + sqrt(1 - abar_next) eps_hat``,
    ``eps_hat = (x - sqrt(abar) x0_hat) / sqrt(1 - abar)``

and let every step end at level zero, ``abar_next = 1``, so that ``x_next = x0_hat``. Take as denoiser

1. the correction of the observation (RCT Eqs. 11, 12, 15): outliers ``E = soft(R, tau)`` of ``R = W (Y - x - L)``,
   their dual ``L <- L + gamma W (x + E - Y)``, and the corrected observation ``T = Y - E - L`` where something was
   observed, ``x`` elsewhere;
2. one step of Tucker projection of ``T`` from the current subspaces (Eqs. 21, 23), all modes at once:
   ``U_n <- polar(M_n)`` with ``M_n = T_(n) (G x_{m != n} U_m)_(n)'``, and ``G <- T x_n U_n_new' U_n_old U_n_old'``,
   divided by ``1 + ridge``.

Then the states of the sampler are the iterates of ``robust_tucker_admm``, one by one and to rounding: core, factors
(signs too), dual, outliers, threshold; with the same options, for both fidelities, relaxed, adaptive, non-negative.
With ``acceleration`` the denoiser is evaluated at a point extrapolated from two states; the iterates are the same
again, but the extrapolated model is decomposed anew, so that columns of factors agree up to their sign.

**What this means.** It is an identity of iterations, not of models:

- ``eps_hat`` is multiplied by ``sqrt(1 - abar_next) = 0``: ``abar`` cancels, and the noise schedule has no effect. Any
  fixed-point iteration ``x <- F(x)`` is such a sampler with ``F`` as denoiser.
- The denoiser remembers the dual and the threshold. (Core and factors are only coordinates: the subspaces are those of
  ``x``.) With ``fidelity="huber"``, a fixed threshold and no constraint it is a function of ``x`` and the data alone.
- Even then it is no score. By Tweedie's formula a conditional mean ``E[x0 | x]`` has a symmetric Jacobian; that of this
  projection is not symmetric, along the manifold of Tucker tensors itself.
- It is one majorised step, not the ``arg min`` of RCT's Eq. 15; while ``T`` stands still, its fixed points are
  stationary points of that.

**Analogy.** RCT's Eq. 20, the mean of an ancestral step, with a real schedule and ``sigma_t = 0`` is

    ``x_next = a x + b x0_hat``,  ``a = sqrt(alpha) (1 - abar_next) / (1 - abar)``,
    ``b = sqrt(abar_next) (1 - alpha) / (1 - abar)``

(:func:`damping_weights`), exactly. In rescaled states ``x / sqrt(abar)`` the weights are ``1 - w`` and
``w = (1 - alpha) / (1 - abar)``: under-relaxation, ``x <- x + w (x0_hat - x)``, whose last step has ``w = 1``. With the
denoiser above it is a damped ADMM. It shares fixed points with ADMM, but no iterates, and how far it gets depends on
the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tensorcell.solvers import AdmmOptions
from tensorcell.solvers.spread import MEDIAN_DEVIATION, UPPER_QUARTILE

# Diffusion -----------------------------------------------------------------------------------------------------------


def ddim_step(x: Tensor, estimate: Tensor, abar: float, abar_next: float) -> Tensor:
    """Deterministic step (DDIM, ``eta = 0``) from signal power ``abar`` to ``abar_next``.

    Song, Meng & Ermon 2021, arXiv 2010.02502, Eq. 12.

    Parameters
    ----------
    x, estimate : tensors of one shape
        State and ``x0_hat``.
    abar, abar_next : float
        ``abar`` above 0 and below 1, ``abar_next`` up to 1: level zero.

    Raises
    ------
    ValueError
        If they are out of range.

    Examples
    --------
    >>> ddim_step(torch.tensor([3.0]), torch.tensor([2.0]), 0.5, 1.0)
    tensor([2.])
    """
    if not (0 < abar < 1 and 0 < abar_next <= 1):
        raise ValueError(f"expected abar between 0 and 1 and abar_next up to 1, got {abar} and {abar_next}")
    noise = (x - math.sqrt(abar) * estimate) / math.sqrt(1 - abar)
    return math.sqrt(abar_next) * estimate + math.sqrt(1 - abar_next) * noise


def reverse_mean(x: Tensor, noise: Tensor, alpha: float, abar: float) -> Tensor:
    """RCT Eq. 20 without its last term: ``(x - (1 - alpha) / sqrt(1 - abar) eps) / sqrt(alpha)``."""
    return (x - (1 - alpha) / math.sqrt(1 - abar) * noise) / math.sqrt(alpha)


def damping_weights(alpha: float, abar: float) -> tuple[float, float]:
    """``a, b`` of RCT Eq. 20 written as ``x_next = a x + b x0_hat``, with ``abar_next = abar / alpha``.

    Raises
    ------
    ValueError
        If not ``0 < abar <= alpha < 1``.

    Examples
    --------
    >>> damping_weights(0.9, 0.9)  # the last step of a chain
    (0.0, 1.0)
    """
    if not 0 < abar <= alpha < 1:
        raise ValueError(f"expected 0 < abar <= alpha < 1, got abar = {abar} and alpha = {alpha}")
    after = abar / alpha
    return math.sqrt(alpha) * (1 - after) / (1 - abar), math.sqrt(after) * (1 - alpha) / (1 - abar)


# Tucker tensors, densely ---------------------------------------------------------------------------------------------


def unfolded(tensor: Tensor, mode: int) -> Tensor:
    """Mode-``mode`` unfolding ``(I_mode, product of the others)``."""
    return tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1)


def multiplied(tensor: Tensor, matrices: Sequence[Tensor], skip: int | None = None) -> Tensor:
    """``tensor x_1 A_1 ... x_k A_k``, one mode after another; ``skip`` is left out."""
    for mode, matrix in enumerate(matrices):
        if mode != skip:
            tensor = torch.tensordot(matrix, tensor, dims=([1], [mode])).movedim(0, mode)
    return tensor


def polar(matrix: Tensor) -> Tensor:
    """The orthonormal polar factor ``P Q'`` of ``P S Q'`` (unique where no singular value is 0)."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return torch.matmul(left, right)


# The sampler ---------------------------------------------------------------------------------------------------------


class DiffusionState(NamedTuple):
    """The state ``x``, and the variables that the denoiser remembers. All tensors are float64.

    Attributes
    ----------
    x : tensor ``(I_1, ..., I_k)``
        Equals ``core x_n factors``.
    core, factors : tensors ``(r_1, ..., r_k)``, ``(I_n, r_n)``
    dual : tensor ``(I_1, ..., I_k)``
        ``L``.
    threshold, start : float
        ``tau`` now, and at the first step.
    step : int
    earlier : tensor
        ``x`` of the step before.
    momentum, change : float
        Nesterov's ``t``, and the length of the last step.
    """

    x: Tensor
    core: Tensor
    factors: tuple[Tensor, ...]
    dual: Tensor
    threshold: float
    start: float
    step: int
    earlier: Tensor
    momentum: float
    change: float


class Corrected(NamedTuple):
    """The result of :func:`corrected_observation`, tensors like the data."""

    target: Tensor
    """``T``, the observation freed from outliers and dual; completed where nothing was observed."""
    outliers: Tensor
    """``E``."""
    dual: Tensor


def initial_state(core: Tensor, factors: Sequence[Tensor], threshold: float) -> DiffusionState:
    """The state to start from: a Tucker model, and a dual of zero."""
    core = core.double()
    factors = tuple(factor.double() for factor in factors)
    x = multiplied(core, factors)
    return DiffusionState(x, core, factors, torch.zeros_like(x), threshold, threshold, 0, x, 1.0, math.inf)


def corrected_observation(
    x: Tensor, data: Tensor, mask: Tensor, dual: Tensor, threshold: float, options: AdmmOptions, nonnegative: bool
) -> Corrected:
    """``T = Y - E - L`` where observed, ``x`` or its non-negative part elsewhere (RCT Eqs. 11, 12, 15)."""
    zero = torch.zeros_like(x)
    equality = options.fidelity == "equality"
    gamma = options.relaxation if equality else 1.0
    misfit = torch.where(mask, data - x, zero)
    r = misfit - torch.where(mask, dual, zero) if equality else misfit
    outliers = torch.sign(r) * torch.relu(r.abs() - threshold)
    new = dual
    target = torch.where(mask, data - outliers, x)
    if equality:
        new = torch.where(mask, dual + gamma * (outliers - misfit), dual)
        target = torch.where(mask, target - new, target)
    if nonnegative:  # x = z >= 0 where nothing was observed, with the same kind of dual
        z = torch.relu(x + dual)
        new = torch.where(mask, new, dual + gamma * (x - z))
        target = torch.where(mask, target, z - new)
    return Corrected(target, outliers, new)


def tucker_projection(
    target: Tensor, core: Tensor, factors: Sequence[Tensor], ridge: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One simultaneous step of Tucker projection of ``target`` from the given model (RCT Eqs. 21, 23)."""
    new = tuple(
        polar(unfolded(target, mode) @ unfolded(multiplied(core, factors, skip=mode), mode).T)
        for mode in range(target.ndim)
    )
    within = multiplied(target, [old.T for old in factors])
    turned = multiplied(within, [after.T @ before for after, before in zip(new, factors, strict=True)])
    return turned / (1 + ridge), new


def extrapolated(state: DiffusionState) -> tuple[Tensor, tuple[Tensor, ...], float]:
    """Nesterov's point beyond the last two states, truncated to their rank by HOSVD; and the next momentum."""
    momentum = (1 + math.sqrt(1 + 4 * state.momentum**2)) / 2
    beta = (state.momentum - 1) / momentum
    if beta == 0:
        return state.core, state.factors, momentum
    ahead = state.x + beta * (state.x - state.earlier)
    factors = tuple(
        torch.linalg.svd(unfolded(ahead, mode), full_matrices=False)[0][:, :rank]
        for mode, rank in enumerate(state.core.shape)
    )
    return multiplied(ahead, [factor.T for factor in factors]), factors, momentum


def adapted(
    state: DiffusionState, data: Tensor, mask: Tensor, primal: float, relative: float, options: AdmmOptions
) -> DiffusionState:
    """Adapt the threshold, and the dual that is scaled with it, every ten of the first hundred steps.

    The scale of the residual is taken over all observed entries; the solver takes a subgrid of large tensors.
    """
    if not options.adaptive or state.step % 10 or state.step > 100:
        return state
    tau = state.threshold
    if options.fidelity == "huber":
        if options.threshold is not None:
            return state
        off = (data - state.x)[mask].abs().sort().values
        middle, upper = float(off[len(off) // 2]), float(off[3 * len(off) // 4])
        scale = 2.5 * max(middle / MEDIAN_DEVIATION, upper / UPPER_QUARTILE)
        return state._replace(threshold=min(tau, max(scale, tau / 2)))
    factor = 0.5 if primal > 10 * relative else 2.0 if relative > 10 * primal else 1.0
    new = min(8 * state.start, max(state.start / 8, factor * tau))
    return state._replace(threshold=new, dual=state.dual * (new / tau))


def admm_as_diffusion(
    data: Tensor,
    mask: Tensor,
    state: DiffusionState,
    *,
    options: AdmmOptions | None = None,
    nonnegative: bool = False,
    abar: float = 0.5,
) -> Iterator[DiffusionState]:
    """The reverse diffusion whose states are the iterates of ``robust_tucker_admm``; an endless iterator.

    Parameters
    ----------
    data : tensor ``(I_1, ..., I_k)``
        Float64; where the mask is False it may hold anything.
    mask : bool tensor of the same shape
        True = observed.
    state : DiffusionState
        See :func:`initial_state`.
    options : AdmmOptions, optional
        Options of the solver. ``tolerance`` and ``max_iterations`` are not used: the caller decides when to stop.
    nonnegative : bool
        As in the solver.
    abar : float
        Signal power ascribed to the states, between 0 and 1: every step ends at level zero, so it cancels.

    Yields
    ------
    DiffusionState

    Raises
    ------
    ValueError
        If data, mask and state differ in shape, or abar is out of range.

    Notes
    -----
    Written for reading and checking: everything is dense. Use the solver to solve.

    Examples
    --------
    >>> data = torch.ones(4, 5, 6, dtype=torch.float64)
    >>> start = initial_state(torch.ones(1, 1, 1), [torch.eye(n, 1) for n in data.shape], threshold=10.0)
    >>> states = admm_as_diffusion(data, data > 0, start, options=AdmmOptions(fidelity="huber"))
    >>> state = [next(states) for _ in range(20)][-1]
    >>> bool((state.x - 1).abs().max() < 1e-6)
    True
    """
    options = AdmmOptions() if options is None else options
    if not (data.shape == mask.shape == state.x.shape):
        shapes = ", ".join(str(tuple(each.shape)) for each in (data, mask, state.x))
        raise ValueError(f"expected data, mask and state of one shape, got {shapes}")
    zero = torch.zeros_like(state.x)
    data = torch.where(mask, data, zero)
    norm = float(torch.linalg.vector_norm(data))
    accelerated = options.accelerates(2**data.ndim * state.core.numel(), data.numel())
    while True:
        core, factors, momentum = extrapolated(state) if accelerated else (state.core, state.factors, 1.0)
        x = multiplied(core, factors)
        corrected = corrected_observation(x, data, mask, state.dual, state.threshold, options, nonnegative)
        new_core, new_factors = tucker_projection(corrected.target, core, factors, options.ridge)
        estimate = multiplied(new_core, new_factors)  # x0_hat
        new_x = ddim_step(x, estimate, abar, 1.0)
        change = float(torch.linalg.vector_norm(new_x - state.x))
        primal = float(torch.linalg.vector_norm(torch.where(mask, data - x - corrected.outliers, zero))) / norm
        relative = change / float(torch.linalg.vector_norm(new_x))
        new = DiffusionState(
            new_x, new_core, new_factors, corrected.dual, state.threshold, state.start, state.step + 1,
            state.x, 1.0 if change > state.change else momentum, change,
        )  # fmt: skip
        state = adapted(new, data, mask, primal, relative, options)
        yield state
