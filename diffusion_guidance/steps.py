"""The steps of the samplers, each a function from the state at one level to the state at the next.

``D`` is the denoiser, ``l0 > l1`` two levels, ``x0`` the estimate at the first, ``f`` the negative log-likelihood of
the measurement, ``A, y, s`` its operator, values and noise, ``eps`` fresh white noise. The table in
:mod:`~tensorcell.diffusion_guidance.samplers` lists the steps. Other arguments are named as in the papers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.operators import Operator, conjugate_gradients, observed, sample_sum
from tensorcell.diffusion_guidance.paths import Denoiser, karras_levels
from tensorcell.diffusion_guidance.terms import Term, residual

Draw = Callable[[Sequence[int]], Tensor]
Estimate = Callable[[Tensor, float], Tensor]


class Measurement(Protocol):
    """A measurement as the guided samplers need it, with ``f(x) = -log p(y | x)`` up to a constant."""

    @property
    def operator(self) -> Operator:
        """``A``."""
        ...

    @property
    def y(self) -> Tensor:
        """Measured values, which broadcast to ``A x``."""
        ...

    @property
    def sigma(self) -> float:
        """Standard deviation of its Gaussian noise."""
        ...

    def gradient(self, x: Tensor) -> Tensor:
        """Gradient of ``f``."""
        ...

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """``argmin_z 1/2 ||z - x||^2 + step f(z)``."""
        ...


class Moved(NamedTuple):
    """The state after a step, the method's other variables, and the estimate of x0 that it used."""

    x: Tensor
    duals: tuple[Tensor, ...]
    estimate: Tensor


def bridge_std(level0: float, level1: float) -> float:
    """Standard deviation of ``x_l1`` given ``x_l0`` and x0: ``l1 sqrt(l0^2 - l1^2) / l0``.

    >>> round(bridge_std(2.0, 1.0), 4)
    0.866
    """
    return level1 * math.sqrt(max(level0**2 - level1**2, 0.0)) / level0


def spread(level: float) -> float:
    """``r^2 = l^2 / (1 + l^2)``: the variance of x0 given x for a prior of unit variance (as in PiGDM).

    >>> spread(1.0)
    0.5
    """
    return level**2 / (1 + level**2)


def ddim_step(x: Tensor, estimate: Tensor, level0: float, level1: float, eta: float, draw: Draw) -> Tensor:
    """``x0 + sqrt(l1^2 - (eta b)^2) (x - x0) / l0 + eta b eps``; with eta = 0 the Euler step of the ODE.

    >>> ddim_step(torch.full((1, 1, 1), 2.0), torch.zeros(1, 1, 1), 2.0, 1.0, 0.0, torch.randn).item()
    1.0
    """
    std = eta * bridge_std(level0, level1)
    moved = estimate + math.sqrt(max(level1**2 - std**2, 0.0)) / level0 * (x - estimate)
    return moved + std * draw(x.shape) if std > 0 else moved


def heun_step(estimate: Estimate, x: Tensor, level0: float, level1: float, order: int) -> Moved:
    """Euler's (order 1) or Heun's step of ``dx/dl = (x - x0) / l``; to zero always Euler's (2206.00364, Alg. 1)."""
    first = estimate(x, level0)
    slope = (x - first) / level0
    ahead = x + (level1 - level0) * slope
    if order == 1 or level1 == 0:
        return Moved(ahead, (), first)
    second = estimate(ahead, level1)
    slope = (slope + (ahead - second) / level1) / 2
    return Moved(x + (level1 - level0) * slope, (), second)


def guided_estimate(
    denoise: Denoiser, measurement: Measurement | None, terms: Sequence[Term], x: Tensor, level: float
) -> Tensor:
    """``prox_f(prox_terms(D(x)), r^2)``: the estimate of x0 without Jacobian. One network call, no graph."""
    estimate = with_terms(denoise(x, level), terms, level)
    return estimate if measurement is None else measurement.prox(estimate, spread(level))


def dps_step(
    denoise: Denoiser, measurement: Measurement, terms: Sequence[Term], x: Tensor, level0: float, level1: float,
    zeta: float, draw: Draw,
) -> Moved:  # fmt: skip
    """``ddpm(x, D(x)) - zeta sqrt((1 + l0^2)(1 + l1^2)) grad_x ||y - A D(x)||`` (2209.14687, Alg. 1).

    The factor carries the published step, which is one of the VP state ``x / sqrt(1 + l^2)``, to the rescaled state.
    One network call and its backward pass; memory: the denoiser's graph.
    """
    with torch.enable_grad():
        moving = x.detach().requires_grad_()
        denoised = denoise(moving, level0)
        distance = sample_sum(residual(measurement.operator, denoised, measurement.y) ** 2).sqrt()
        (slope,) = torch.autograd.grad(distance.sum(), moving)
    estimate = with_terms(denoised.detach(), terms, level0)
    factor = zeta * math.sqrt((1 + level0**2) * (1 + level1**2))
    return Moved(ddim_step(x, estimate, level0, level1, 1.0, draw) - factor * slope, (), estimate)


def ddnm_step(
    denoise: Denoiser, measurement: Measurement, terms: Sequence[Term], x: Tensor, level0: float, level1: float,
    draw: Draw,
) -> Moved:  # fmt: skip
    """``x0 = D + w A^+ (y - A D)``, ``x = x0 + (l1 / l0)^2 (x - x0) + sqrt(b^2 - (a w s)^2) eps``.

    With ``a = 1 - (l1 / l0)^2`` and ``w = min(1, b / (a s))`` (DDNM+, 2212.00490, Eqs. 17-19): the noise that the
    measurement brings in is taken off what is drawn. This bookkeeping is right where ``A A' = I`` (masks, planes);
    under a blur ``A^+`` magnifies the noise beyond it. One network call, no graph.
    """
    estimate = with_terms(denoise(x, level0), terms, level0)
    std = bridge_std(level0, level1)
    share = 1 - (level1 / level0) ** 2
    brought = share * measurement.sigma
    weight = min(1.0, std / brought) if brought > 0 else 1.0
    exact = dataclasses.replace(cast(Any, measurement), sigma=0.0)
    estimate = estimate + weight * (exact.prox(estimate, 1.0) - estimate)
    left = math.sqrt(max(std**2 - (brought * weight) ** 2, 0.0))
    moved = estimate + (level1 / level0) ** 2 * (x - estimate) + left * draw(x.shape)
    return Moved(moved, (), estimate)


def diffpir_step(
    denoise: Denoiser, measurement: Measurement, terms: Sequence[Term], x: Tensor, level0: float, level1: float,
    weight: float, renewal: float, draw: Draw,
) -> Moved:  # fmt: skip
    """``x0 = prox_f(D, l0^2 / weight)``; ``x = x0 + l1 (sqrt(1 - zeta) (x - x0) / l0 + sqrt(zeta) eps)``.

    2305.08995, Alg. 1. One network call, no graph.
    """
    estimate = with_terms(denoise(x, level0), terms, level0)
    estimate = measurement.prox(estimate, level0**2 / weight)
    carried = math.sqrt(1 - renewal) / level0 * (x - estimate)
    return Moved(estimate + level1 * (carried + math.sqrt(renewal) * draw(x.shape)), (), estimate)


def pigdm_estimate(
    denoise: Denoiser, measurement: Measurement, x: Tensor, level: float, covariance: str, iterations: int
) -> Tensor:
    """``E[x0 | x, y]`` for ``x0 | x ~ N(D(x), V)``: ``D + l^2 J' A' (A V A' + s^2)^-1 (y - A D)``.

    PiGDM's score (ICLR 2023, Sec. 3) put into Tweedie's formula, so that any integrator takes it; the paper's Alg. 1
    adds it to DDIM with its own weights instead. ``V = r^2 I`` ("isotropic", exact for a prior of covariance I) or
    ``l^2 J`` ("tweedie", 2310.06721, exact for every Gaussian prior; J is taken as symmetric, as an exact denoiser's
    is).

    One network call and one backward pass, with "tweedie" one more an iteration. Memory: the denoiser's graph.
    """
    with torch.enable_grad():
        moving = x.detach().requires_grad_()
        denoised = denoise(moving, level)

    def pulled(v: Tensor, keep: bool) -> Tensor:
        """``l^2 J' v``."""
        return level**2 * torch.autograd.grad(denoised, moving, v, retain_graph=keep)[0]

    mean = denoised.detach()
    if covariance == "isotropic":
        direction = (measurement.prox(mean, spread(level)) - mean) / spread(level)
        return mean + pulled(direction, keep=False)
    operator = measurement.operator
    seen = residual(operator, mean, measurement.y)

    def normal(u: Tensor) -> Tensor:
        """``(A l^2 J A' + s^2) u``, where something was observed."""
        image = operator.forward(pulled(operator.adjoint(u), keep=True))
        return torch.where(observed(operator, measurement.y), image, 0.0) + measurement.sigma**2 * u

    solved = conjugate_gradients(normal, -seen, iterations)
    return mean + pulled(operator.adjoint(solved), keep=False)


def reddiff_step(
    denoise: Denoiser, measurement: Measurement, terms: Sequence[Term], mu: Tensor, duals: tuple[Tensor, ...],
    level: float, rate: float, weight: float, draw: Draw,
) -> Moved:  # fmt: skip
    """A step of Adam (.9, .99) along ``s^2 grad f(mu) + lambda (mu - D(mu + l eps))``.

    2305.04391, Alg. 1 with the weight ``lambda / SNR``: its ``lambda l (eps_hat - eps)`` is ``lambda (mu - D)``. The
    method seeks a mode, and its particles do not spread like the posterior. One network call, no graph.
    """
    estimate = with_terms(denoise(mu + level * draw(mu.shape), level), terms, level)
    slope = measurement.sigma**2 * measurement.gradient(mu) + weight * (mu - estimate)
    none_yet = torch.zeros((), dtype=mu.dtype, device="cpu")  # counted on the host, where it is read
    first, second, count = duals or (torch.zeros_like(mu), torch.zeros_like(mu), none_yet)
    first, second, count = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2, count + 1
    corrected, scale = first / (1 - 0.9 ** float(count)), (second / (1 - 0.99 ** float(count))).sqrt()
    return Moved(mu - rate * corrected / (scale + 1e-8), (first, second, count), estimate)


def pnp_admm_step(
    denoise: Denoiser, measurement: Measurement, terms: Sequence[Term], z: Tensor, duals: tuple[Tensor, ...],
    level: float, weight: float,
) -> Moved:  # fmt: skip
    """``x = prox_f(z - u, g)``, ``z = D(x + u, l)``, ``u += x - z`` with ``g = l^2 / weight`` (1605.01710, Alg. 1).

    u is the scaled dual, rescaled when g changes. An MMSE denoiser of a Gaussian prior is the proximal map of its
    negative log density with step l^2: then, at weight 1, the fixed point is the posterior's mode, which is its mean,
    at every level. One network call, no graph; nothing is random.
    """
    step = level**2 / weight
    dual, before = duals or (torch.zeros_like(z), torch.tensor(step, dtype=z.dtype, device="cpu"))
    dual = dual * (step / before).to(z)
    x = measurement.prox(z - dual, step)
    z = with_terms(denoise(x + dual, level), terms, level)
    return Moved(z, (dual + x - z, torch.tensor(step, dtype=z.dtype, device="cpu")), z)


def split_gibbs_step(
    denoise: Denoiser, measurement: Measurement, terms: Sequence[Term], x: Tensor, level: float, inner: int, draw: Draw
) -> Moved:
    """Draws ``z ~ exp(-f(z) - ||x - z||^2 / (2 l^2))``, then ``x ~ p(x) exp(-||x - z||^2 / (2 l^2))``.

    PnP-DM, 2405.18782, Alg. 1; the first by perturbing and minimising (exact for Gaussian noise), the second by "ddpm"
    from level l to 0 in ``inner`` steps. At a constant coupling l the law of x is, in the limit of inner steps, the
    posterior under the noise covariance ``s^2 I + l^2 A A'``: exact as l goes to 0, where the chain also stops mixing.
    The estimate is ``D(z, l) = E[x | z]``. ``inner`` network calls, no graph.
    """
    measured = measurement.operator.forward(x)
    perturbed = measurement.y + measurement.sigma * draw(measured.shape)
    z = dataclasses.replace(cast(Any, measurement), y=perturbed).prox(x + level * draw(x.shape), level**2)
    ladder = [*karras_levels(level, 1e-3 * level, inner + 1)[:-1].tolist(), 0.0]
    first: Tensor | None = None
    for level0, level1 in itertools.pairwise(ladder):
        estimate = with_terms(denoise(z, level0), terms, level0)
        first = estimate if first is None else first
        z = ddim_step(z, estimate, level0, level1, 1.0, draw)
    return Moved(z, (), cast(Tensor, first))


def with_terms(estimate: Tensor, terms: Sequence[Term], level: float) -> Tensor:
    """The estimate after the proximal maps of the terms, one after another, with step ``r^2``."""
    for term in terms:
        estimate = term.prox(estimate, spread(level))
    return estimate
