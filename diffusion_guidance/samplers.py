"""Samplers of a score prior, alone or steered by a measurement, in rescaled coordinates ``x = x0 + level eps``.

``D`` is the denoiser, ``l0 > l1`` two levels, ``x0`` the estimate at the first, ``b = l1 sqrt(l0^2 - l1^2) / l0`` the
standard deviation of the bridge ``q(x_l1 | x_l0, x0)``, f the negative log likelihood of the measurement, ``A, y, s``
its operator, values and noise, ``r^2 = l0^2 / (1 + l0^2)`` the variance of x0 given x for a prior of unit variance.

============= ================================================================ =============== ======================
method        step                                                             network calls   source
============= ================================================================ =============== ======================
"ode"         Euler (order 1) or Heun (2) of ``dx/dl = (x - x0) / l``          order           2206.00364, Alg. 1
"sde"         noise up to ``l0 (1 + gamma)``, then as "ode"                    order           2206.00364, Alg. 2
"ddim"        ``x0 + sqrt(l1^2 - (eta b)^2) (x - x0) / l0 + eta b eps``        1               2010.02502, Eq. 12
"ddpm"        "ddim" with eta = 1: ancestral sampling                          1               2006.11239, Eq. 7
"dps"         "ddpm", then down the gradient of ``||y - A D(x)||``             1 + backward    2209.14687, Alg. 1
"ddnm"        ``x0 = D + w A^+ (y - A D)``, "ddpm" with the noise left over    1               2212.00490, Eqs. 17-19
"diffpir"     ``x0 = prox_f(D, l0^2 / weight)``, then a share of eps renewed   1               2305.08995, Alg. 1
"pigdm"       ``x0 = D + l0^2 J' A' (r^2 A A' + s^2)^-1 (y - A D)``, "ddim"    1 + backward    ICLR 2023, Sec. 3
"reddiff"     one step of Adam along ``s^2 grad f + weight (mu - D)``          1               2305.04391, Alg. 1
"pnp_admm"    ``prox_f``, ``D``, dual; step ``l0^2 / weight``                  1               1605.01710, Alg. 1
"split_gibbs" draw ``z | x, y``, then ``x | z`` by "ddpm" from level l0        inner steps     2405.18782, Alg. 1
============= ================================================================ =============== ======================

Numbers are arXiv identifiers. In the rescaled state the coefficients of every path are these, because dividing by
alpha turns every path into the same Markov chain; test_samplers.py checks "ddim" and "ddpm" against diffusers.

"ode", "sde", "ddim" and "ddpm" take a measurement too: their estimate is then ``prox_f(D(x), r^2)``, the mean of
``x0 | x, y`` were ``x0 | x`` Gaussian with covariance ``r^2 I``. This is "pigdm" without the Jacobian.

**Which of them sample the posterior?** With a Gaussian prior and a linear measurement all but "dps" and "reddiff" are
affine maps of their noises, so their law is known without sampling error. In the limit of many steps and a high first
level "ode", "sde", "ddim" and "ddpm" without measurement have exactly the law of the prior, "pigdm" with the "tweedie"
covariance exactly that of the posterior (errors of first order in the steps; Heun's of second), and "split_gibbs" that
of the posterior under the noise covariance ``s^2 I + l^2 A A'`` at its coupling l, hence of the posterior as l goes to
0. The others do not sample it, however many steps they do. On 20 voxels with exponential covariance and noise .3, at 64
steps:

===================== ================================ ================================ ==============================
method                8 voxels seen: error of mean,    all seen through a blur: error   what remains with more steps
                      std over the right one           of mean, std over the right one
===================== ================================ ================================ ==============================
"ode", "ddim" guided  .69, 1.10                        .10, .95                         isotropic covariance, no J
"ddpm" guided         .50, 1.01                        .06, .91                         isotropic covariance, no J
"dps"                 .33, .86                         .55, .68                         no covariance at all, step size
"ddnm"                .48, .92                         37, .05                          noise; a blur's inverse
"diffpir"             .46, 1.00                        .26, .89                         covariance ``l^2 I``
"pigdm"               .18, .92                         .09, .91                         isotropic covariance
"pigdm", "tweedie"    .00, .92                         .00, .91                         nothing
"reddiff"             .36, .33                         .29, .24                         seeks a mode
"pnp_admm"            .00, 0                           .00, 0                           seeks the mode: no spread
"split_gibbs"         .19, .85                         .05, .83                         coupling, slow mixing
===================== ================================ ================================ ==============================

The error of the mean is a root mean square in posterior standard deviations, "guided" means with a measurement, and
"split_gibbs" does 24 draws of 10 inner steps down to the coupling .1. test_samplers.py pins these numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.guidance import Term, residual
from tensorcell.diffusion_guidance.operators import Operator, observed, per_sample, sample_sum

Method = Literal[
    "ode", "sde", "ddim", "ddpm", "dps", "ddnm", "diffpir", "pigdm", "reddiff", "pnp_admm", "split_gibbs"
]  # fmt: skip
Denoiser = Callable[[Tensor, float | Tensor], Tensor]
Callback = Callable[[int, int, Tensor], bool | None]

PLAIN = ("ode", "sde", "ddim", "ddpm")
ITERATIVE = ("reddiff", "pnp_admm", "split_gibbs")
KEPT_LEVELS = (3.0, 1.0, 0.3, 0.1)
LARGEST_BIAS = 0.1


class Noise(Protocol):
    """Draws standard normal numbers, each of unit variance; ``torch.randn`` is one."""

    def __call__(
        self, size: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """A tensor of this size."""
        ...


class Measurement(Protocol):
    """What the guided samplers ask of a measurement, ``f(x) = -log p(y | x)`` up to a constant."""

    @property
    def operator(self) -> Operator:
        """``A``."""
        ...

    @property
    def y(self) -> Tensor:
        """Measured values, broadcast to ``A x``."""
        ...

    @property
    def sigma(self) -> float:
        """Standard deviation of Gaussian noise."""
        ...

    def gradient(self, x: Tensor) -> Tensor:
        """Of f."""
        ...

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """``argmin_z 1/2 ||z - x||^2 + step f(z)``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of single methods, in the notation of their papers where it is given.

    Parameters
    ----------
    dps_step : float
        zeta of DPS, above 0; divided by the norm of the residual and carried over from the paper's VP state.
    diffpir_weight, diffpir_renewal : float
        lambda (above 0) and zeta (0 to 1: the share of the noise that is drawn anew) of DiffPIR.
    pigdm_covariance : {"isotropic", "tweedie", "none"}
        Covariance of x0 given x. "isotropic": ``r^2 I``, as published. "tweedie": ``l^2 J``, J the denoiser's Jacobian
        (arXiv 2310.06721), exact for every Gaussian prior, at one backward pass an iteration of conjugate gradients.
        "none": no Jacobian and no graph, an approximation: ``prox_f(D, r^2)``.
    pigdm_iterations : int
        Most iterations of conjugate gradients with "tweedie".
    reddiff_rate, reddiff_weight : float
        Learning rate of Adam, in prior units, and lambda of RED-diff, with its weight ``lambda / SNR``.
    admm_weight : float
        Weight of the prior in PnP-ADMM, above 0; 1 is that of the posterior.
    gibbs_steps : int
        Steps of the diffusion inside one split Gibbs step.

    Raises
    ------
    ValueError
        If a value is outside its range.

    >>> Options(diffpir_renewal=0.5).diffpir_renewal
    0.5
    """

    dps_step: float = 1.0
    diffpir_weight: float = 1.0
    diffpir_renewal: float = 0.3
    pigdm_covariance: Literal["isotropic", "tweedie", "none"] = "isotropic"
    pigdm_iterations: int = 50
    reddiff_rate: float = 0.1
    reddiff_weight: float = 0.25
    admm_weight: float = 1.0
    gibbs_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("dps_step", "diffpir_weight", "reddiff_rate", "reddiff_weight", "admm_weight"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be above zero, got {value}")
        if not 0 <= self.diffpir_renewal <= 1:
            raise ValueError(f"diffpir_renewal must be between 0 and 1, got {self.diffpir_renewal}")
        if self.pigdm_covariance not in ("isotropic", "tweedie", "none"):
            raise ValueError(f"pigdm_covariance must be isotropic, tweedie or none, got {self.pigdm_covariance!r}")
        for name in ("pigdm_iterations", "gibbs_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class SamplerState(NamedTuple):
    """All that is needed to go on: pass it back as ``start`` with the other arguments unchanged.

    ``x`` ``(K, C, *space)`` is the state before step ``step``; ``generator`` the state of the random numbers (bytes);
    ``duals`` the method's other variables; ``kept`` the estimates of x0 set aside for the mean, ``last`` the newest.
    """

    x: Tensor
    step: int
    generator: Tensor
    duals: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()
    last: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """What a sampler returns.

    ``samples`` ``(K, C, *space)``; ``mean`` ``(C, *space)``, by :func:`combine_estimates`, and its ``weights``; ``std``
    ``(C, *space)``, unbiased in the variance, None with one sample; ``steps`` done; ``state`` to resume from. If a
    callback stopped early, ``samples`` are the last estimates of x0.
    """

    samples: Tensor
    mean: Tensor
    std: Tensor | None
    steps: int
    weights: tuple[float, ...]
    state: SamplerState


class SamplingDivergedError(ArithmeticError):
    """A state is not finite; ``state`` is the last one that was."""

    def __init__(self, message: str, state: SamplerState) -> None:
        super().__init__(message)
        self.state = state


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C; ``state`` is the one after the last whole step."""

    def __init__(self, message: str, state: SamplerState) -> None:
        super().__init__(message)
        self.state = state


class Moved(NamedTuple):
    """The state after a step, the method's other variables, and the estimate of x0 that it used."""

    x: Tensor
    duals: tuple[Tensor, ...]
    estimate: Tensor


Draw = Callable[[Sequence[int]], Tensor]
Estimate = Callable[[Tensor, float], Tensor]
Advance = Callable[[Tensor, tuple[Tensor, ...], float, float], Moved]


def sample(
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    levels: Tensor | Sequence[float],
    method: Method = "ode",
    measurement: Measurement | None = None,
    terms: Sequence[Term] = (),
    order: int = 1,
    eta: float | None = None,
    churn: float | None = None,
    samples: int = 1,
    antithetic: bool = False,
    generator: torch.Generator | None = None,
    start: Tensor | SamplerState | None = None,
    noise: Noise | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    callback: Callback | None = None,
    options: Options | None = None,
) -> Samples:
    """Draws samples from a score prior, steered by a measurement where there is one.

    Parameters
    ----------
    denoise : callable ``(x, level) -> E[x0 | x]``
        x ``(K, C, *space)``, ``x = x0 + level eps``.
    shape : sequence of int
        ``(C, *space)`` of one sample.
    levels : tensor or sequence ``(steps + 1,)``
        Descending, the last 0 or above; ``Path.levels`` gives them. "reddiff", "pnp_admm" and "split_gibbs" do one step
        at each level but the last and may repeat a level.
    method : str
        See the table of the module.
    measurement : Measurement, optional
        Required by the methods below "ddpm" in the table. "ddnm", "pigdm" with "tweedie", "reddiff" and "split_gibbs"
        read its ``sigma`` (Gaussian noise); the others use only ``prox`` and, for "dps", ``operator`` and ``y``.
    terms : sequence of Term
        Applied in turn to each estimate of x0 by their proximal maps with step ``r^2``, before the measurement's where
        the method has one.
    order : {1, 2}
        Euler or Heun, for "ode", "sde" and for "pigdm" with ``eta = 0``.
    eta : float, optional
        Share of the bridge's noise, 0 to 1, of "ddim" (default 0) and "pigdm" (default 1).
    churn : float, optional
        ``S_churn`` of "sde", default 40; spread over the steps.
    samples : int
        K, computed together.
    antithetic : bool
        The second half of the samples takes the noise of the first with its sign turned. Every sample keeps its law;
        a sampler that is nearly an affine map of its noise has its mean at far lower error (arXiv 2506.06185). With
        a Gaussian prior the mean of a pair is exact up to the method's bias.
    generator : torch.Generator, optional
        Its device is where numbers are drawn; without one, a fresh seed.
    start : tensor ``(K, C, *space)`` or SamplerState, optional
        The state at ``levels[0]`` (or the first iterate), or one to resume from.
    noise : Noise, optional
        Draws all random numbers; ``torch.randn`` by default. See :func:`correlated_noise`.
    dtype, device
        Of the state.
    callback : callable ``(step, steps, estimate) -> bool or None``
        After each step, with the estimate of x0 ``(K, C, *space)``; True stops.
    options : Options, optional
        Settings of single methods.

    Returns
    -------
    Samples

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit, each with one line.
    SamplingDivergedError
        If a state is not finite, with the step and the last good state.
    SamplingInterrupted
        On Ctrl-C, with the state to resume from.

    Notes
    -----
    Memory: the state, two or three tensors of its size, and up to five estimates for the mean; "dps" and "pigdm" (but
    with "none") also the denoiser's graph; all others run without one. Resuming gives the same bits as going on.

    >>> prior = lambda x, level: x / (1 + level**2)  # of N(0, 1)
    >>> drawn = sample(prior, (1, 8, 8), levels=[80.0, 8.0, 0.8, 0.08, 0.0], samples=3,
    ...                generator=torch.Generator().manual_seed(0))
    >>> drawn.samples.shape, drawn.mean.shape, drawn.steps
    (torch.Size([3, 1, 8, 8]), torch.Size([1, 8, 8]), 4)
    """
    ladder = _checked_levels(levels, method)
    settings = options or Options()
    _check(method, measurement, order, eta, churn, samples, antithetic, shape, settings)
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    draw = _draw(noise or cast(Noise, torch.randn), generator, dtype, torch.device(device), antithetic)
    advance = _method(method, denoise, measurement, tuple(terms), draw, order, eta, churn, settings, len(ladder) - 1)
    full = (samples, *shape)
    with torch.no_grad():
        state = _started(start, full, ladder, method, measurement, draw, generator, dtype, torch.device(device))
        state = _march(advance, state, ladder, generator, callback, kept=method not in ("reddiff", "pnp_admm"))
        return _result(state, ladder, method, antithetic)


# Noise ---------------------------------------------------------------------------------------------------------------


def correlated_noise(correlation: float, axis: int = 2) -> Noise:
    """Noise whose slices along one axis are correlated by ``correlation^distance`` (ISCS, arXiv 2602.04162).

    Each slice by itself is white noise of unit variance. So with a denoiser and a measurement that treat slices
    separately, every slice keeps its law *exactly*, and only the coupling between slices changes: this is the case
    ISCS is for. With a denoiser that sees several slices it is an approximation, for the noise is no longer the one
    that the denoiser was trained on. The paper interpolates spherically between independent slices; this is the
    stationary form of it (each slice a mix of the last and a fresh one).

    Parameters
    ----------
    correlation : float
        Of neighbouring slices, 0 to 1; 1 gives all slices the same noise.
    axis : int
        Of ``(K, C, *space)``; 2 is z.

    Raises
    ------
    ValueError
        Unless ``0 <= correlation <= 1`` and the axis is one of space.

    >>> drawn = correlated_noise(1.0)((1, 1, 3, 2, 2), generator=torch.Generator().manual_seed(0),
    ...                               dtype=torch.float32, device=torch.device("cpu"))
    >>> bool((drawn[:, :, 0] == drawn[:, :, 2]).all())
    True
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation must be between 0 and 1, got {correlation}")
    if axis < 2:
        raise ValueError(f"expected an axis of space, 2 or above, got {axis}")
    fresh_share = math.sqrt(1 - correlation**2)

    def noise(size: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        fresh = torch.randn(tuple(size), generator=generator, dtype=dtype, device=device)
        slices = list(fresh.unbind(axis))
        for index in range(1, len(slices)):
            slices[index] = correlation * slices[index - 1] + fresh_share * slices[index]
        return torch.stack(slices, axis)

    return noise


def _draw(noise: Noise, generator: torch.Generator, dtype: torch.dtype, device: torch.device, antithetic: bool) -> Draw:
    def draw(size: Sequence[int]) -> Tensor:
        count = size[0] // 2 if antithetic else size[0]
        wanted = (count, *size[1:])
        drawn = noise(wanted, generator=generator, dtype=dtype, device=generator.device)
        if drawn.shape != wanted:
            raise ValueError(f"noise must return the size it was asked for, {wanted}, got {tuple(drawn.shape)}")
        drawn = drawn.to(device)
        return torch.cat([drawn, -drawn]) if antithetic else drawn

    return draw


# Steps ---------------------------------------------------------------------------------------------------------------


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
    estimate = _with_terms(denoise(x, level), terms, level)
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
    estimate = _with_terms(denoised.detach(), terms, level0)
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
    estimate = _with_terms(denoise(x, level0), terms, level0)
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
    estimate = _with_terms(denoise(x, level0), terms, level0)
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


def conjugate_gradients(apply: Callable[[Tensor], Tensor], rhs: Tensor, iterations: int) -> Tensor:
    """``apply^-1 rhs``, sample by sample, for a symmetric positive map; to 1e-6 (float32) or 1e-12 of rhs.

    >>> conjugate_gradients(lambda u: 4 * u, torch.full((1, 2), 8.0), 5).tolist()
    [[2.0, 2.0]]
    """
    enough = (1e-6 if rhs.dtype == torch.float32 else 1e-12) ** 2 * sample_sum(rhs**2)
    tiny = torch.finfo(rhs.dtype).tiny
    solution, left, direction = torch.zeros_like(rhs), rhs, rhs
    energy = sample_sum(left**2)
    for _ in range(iterations):
        if bool((energy <= enough).all()):
            break
        product = apply(direction)
        length = torch.where(energy > enough, energy / sample_sum(direction * product).clamp(min=tiny), 0.0)
        solution = solution + per_sample(length, rhs) * direction
        left = left - per_sample(length, rhs) * product
        renewed = sample_sum(left**2)
        ratio = torch.where(energy > enough, renewed / energy.clamp(min=tiny), 0.0)
        direction = left + per_sample(ratio, rhs) * direction
        energy = renewed
    return solution


def reddiff_step(
    denoise: Denoiser, measurement: Measurement, terms: Sequence[Term], mu: Tensor, duals: tuple[Tensor, ...],
    level: float, rate: float, weight: float, draw: Draw,
) -> Moved:  # fmt: skip
    """A step of Adam (.9, .99) along ``s^2 grad f(mu) + lambda (mu - D(mu + l eps))``.

    2305.04391, Alg. 1 with the weight ``lambda / SNR``: its ``lambda l (eps_hat - eps)`` is ``lambda (mu - D)``. Seeks
    a mode: its particles do not spread like the posterior. One network call, no graph.
    """
    estimate = _with_terms(denoise(mu + level * draw(mu.shape), level), terms, level)
    slope = measurement.sigma**2 * measurement.gradient(mu) + weight * (mu - estimate)
    first, second, count = duals or (torch.zeros_like(mu), torch.zeros_like(mu), torch.zeros((), dtype=mu.dtype))
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
    dual, before = duals or (torch.zeros_like(z), torch.tensor(step, dtype=z.dtype))
    dual = dual * (step / before).to(z)
    x = measurement.prox(z - dual, step)
    z = _with_terms(denoise(x + dual, level), terms, level)
    return Moved(z, (dual + x - z, torch.tensor(step, dtype=z.dtype)), z)


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
    ladder = [level * (1 + i / inner * (1e-3 ** (1 / 7) - 1)) ** 7 for i in range(inner)] + [0.0]
    first: Tensor | None = None
    for level0, level1 in itertools.pairwise(ladder):
        estimate = _with_terms(denoise(z, level0), terms, level0)
        first = estimate if first is None else first
        z = ddim_step(z, estimate, level0, level1, 1.0, draw)
    return Moved(z, (), cast(Tensor, first))


def _with_terms(estimate: Tensor, terms: Sequence[Term], level: float) -> Tensor:
    for term in terms:
        estimate = term.prox(estimate, spread(level))
    return estimate


def _method(
    method: Method, denoise: Denoiser, measurement: Measurement | None, terms: tuple[Term, ...], draw: Draw,
    order: int, eta: float | None, churn: float | None, options: Options, steps: int,
) -> Advance:  # fmt: skip
    """The step of a method as ``(x, duals, level0, level1) -> Moved``."""
    given = cast(Measurement, measurement)

    def plain(x: Tensor, level: float) -> Tensor:
        return guided_estimate(denoise, measurement, terms, x, level)

    def pigdm(x: Tensor, level: float) -> Tensor:
        if options.pigdm_covariance == "none":
            return plain(x, level)
        pulled = pigdm_estimate(denoise, given, x, level, options.pigdm_covariance, options.pigdm_iterations)
        return _with_terms(pulled, terms, level)

    def bridging(estimate: Estimate, share: float) -> Advance:
        def advance(x: Tensor, duals: tuple[Tensor, ...], level0: float, level1: float) -> Moved:
            found = estimate(x, level0)
            return Moved(ddim_step(x, found, level0, level1, share, draw), (), found)

        return advance

    def churned(x: Tensor, duals: tuple[Tensor, ...], level0: float, level1: float) -> Moved:
        raised = level0 * (1 + min((40.0 if churn is None else churn) / steps, math.sqrt(2) - 1))
        if raised > level0:
            x = x + math.sqrt(raised**2 - level0**2) * draw(x.shape)
        return heun_step(plain, x, raised, level1, order)

    pigdm_eta = 1.0 if eta is None else eta
    table: dict[str, Advance] = {
        "ode": lambda x, duals, l0, l1: heun_step(plain, x, l0, l1, order),
        "sde": churned,
        "ddim": bridging(plain, eta or 0.0),
        "ddpm": bridging(plain, 1.0),
        "dps": lambda x, duals, l0, l1: dps_step(denoise, given, terms, x, l0, l1, options.dps_step, draw),
        "ddnm": lambda x, duals, l0, l1: ddnm_step(denoise, given, terms, x, l0, l1, draw),
        "diffpir": lambda x, duals, l0, l1: diffpir_step(
            denoise, given, terms, x, l0, l1, options.diffpir_weight, options.diffpir_renewal, draw
        ),
        "pigdm": bridging(pigdm, pigdm_eta) if order == 1 else (
            lambda x, duals, l0, l1: heun_step(pigdm, x, l0, l1, order)
        ),
        "reddiff": lambda x, duals, l0, l1: reddiff_step(
            denoise, given, terms, x, duals, l0, options.reddiff_rate, options.reddiff_weight, draw
        ),
        "pnp_admm": lambda x, duals, l0, l1: pnp_admm_step(denoise, given, terms, x, duals, l0, options.admm_weight),
        "split_gibbs": lambda x, duals, l0, l1: split_gibbs_step(
            denoise, given, terms, x, l0, options.gibbs_steps, draw
        ),
    }  # fmt: skip
    return table[method]


# The loop ------------------------------------------------------------------------------------------------------------


def _march(
    advance: Advance, state: SamplerState, levels: list[float], generator: torch.Generator,
    callback: Callback | None, *, kept: bool,
) -> SamplerState:  # fmt: skip
    steps = len(levels) - 1
    marks = _kept_steps(levels) if kept else set()
    try:
        for step in range(state.step, steps):
            moved = advance(state.x, state.duals, levels[step], levels[step + 1])
            if not bool(torch.isfinite(moved.x).all()):
                message = f"step {step + 1} of {steps} (level {levels[step]:.3g}) gave values that are not finite"
                raise SamplingDivergedError(message, state)
            stored = (*state.kept, moved.estimate) if step in marks else state.kept
            state = SamplerState(moved.x, step + 1, generator.get_state(), moved.duals, stored, moved.estimate)
            if callback is not None and callback(step, steps, moved.estimate):
                break
    except KeyboardInterrupt as stop:
        raise SamplingInterrupted(f"interrupted after {state.step} of {steps} steps", state) from stop
    return state


def _started(
    start: Tensor | SamplerState | None, full: tuple[int, ...], levels: list[float], method: Method,
    measurement: Measurement | None, draw: Draw, generator: torch.Generator, dtype: torch.dtype, device: torch.device,
) -> SamplerState:  # fmt: skip
    if isinstance(start, SamplerState):
        if start.x.shape != full:
            raise ValueError(f"expected a state of shape {full} to resume from, got {tuple(start.x.shape)}")
        if not 0 <= start.step <= len(levels) - 1:
            raise ValueError(f"cannot resume before step {start.step + 1} of {len(levels) - 1}")
        generator.set_state(start.generator)
        return start
    if start is not None:
        if start.shape != full:
            raise ValueError(f"expected a start of shape {full}, got {tuple(start.shape)}")
        x = start.to(dtype=dtype, device=device)
    elif method in ITERATIVE:
        rough = draw(full) if method == "split_gibbs" else torch.zeros(full, dtype=dtype, device=device)
        x = cast(Measurement, measurement).prox(rough, 1.0)
    else:
        # The marginal of a prior of unit variance; a VP path starts with exactly this, 1 / alpha times white noise.
        x = math.sqrt(1 + levels[0] ** 2) * draw(full)
    return SamplerState(x, 0, generator.get_state())


def _kept_steps(levels: list[float]) -> set[int]:
    """Steps at the levels nearest to KEPT_LEVELS, by ratio."""
    above = [(step, level) for step, level in enumerate(levels[:-1]) if level > 0]
    return {min(above, key=lambda pair: abs(math.log(pair[1] / wanted)))[0] for wanted in KEPT_LEVELS}


def _result(state: SamplerState, levels: list[float], method: Method, antithetic: bool) -> Samples:
    finished = state.step == len(levels) - 1
    drawn = state.x if finished or state.last is None or method in ITERATIVE else state.last
    clean = drawn if method in ITERATIVE or levels[-1] == 0 or state.last is None else state.last
    mean, weights = combine_estimates((*state.kept, clean), antithetic=antithetic)
    return Samples(drawn, mean, _std(drawn, antithetic), state.step, weights, state)


def combine_estimates(estimates: Sequence[Tensor], *, antithetic: bool = False) -> tuple[Tensor, tuple[float, ...]]:
    """Posterior mean from estimates of x0 along the samples' paths, better than the average of the samples.

    Parameters
    ----------
    estimates : sequence of J tensors ``(K, C, *space)``
        ``E[x0 | x_l, y]`` of K samples at falling levels; the last are the samples themselves (or nearest to them) and
        say what the others' bias is.
    antithetic : bool
        The second half of the samples mirrors the first; the pairs' averages are then the independent replicates.

    Returns
    -------
    mean : tensor ``(C, *space)``
    weights : tuple of J floats, zero or above, of sum 1

    Raises
    ------
    ValueError
        If there is no estimate or the shapes differ.

    Notes
    -----
    With an exact denoiser every ``E[x0 | x_l, y]`` has the posterior's mean, and by the law of total variance less
    spread than a sample: for a Gaussian posterior of covariance S its covariance is ``S (S + l^2)^-1 S``, so that the
    mean of K has the squared error ``tr[S (S + l^2)^-1 S] / K`` in place of ``tr S / K``. In other words, the changes
    from one estimate to the next are control variates of mean zero.

    Guidance is not exact, above all at high levels. With ``m_j`` the means of the estimates, G the covariance of the
    means from the spread between replicates (summed over voxels) and ``H_ij = <m_i - m_J, m_j - m_J>`` less what G
    explains of it (biases against the last), the weights minimise ``w' (G + H) w``. An estimate takes part only if its
    ``H_jj`` is below a tenth of the noise of ``m_j - m_J``: the samples' own bias against the posterior is unknown and
    tends to point the same way, so that a visible bias costs more than ``H_jj`` (on Gaussian priors with guidance that
    is not exact, the mean without this rule was up to 16 % worse than the plain average). The weights are J numbers
    from all voxels; with fewer than two replicates the last estimate is taken.

    >>> generator = torch.Generator().manual_seed(0)
    >>> noisy = torch.randn((8, 1, 32, 32), generator=generator)
    >>> mean, weights = combine_estimates([0.1 * noisy, noisy])
    >>> round(weights[0], 2)
    1.0
    """
    if not estimates:
        raise ValueError("expected at least one estimate, got none")
    if any(estimate.shape != estimates[0].shape for estimate in estimates):
        raise ValueError(f"expected estimates of one shape, got {[tuple(e.shape) for e in estimates]}")
    replicates = [_pairs(estimate) if antithetic else estimate for estimate in estimates]
    means = [replicate.mean(0) for replicate in replicates]
    count, total = len(replicates[0]), len(replicates)
    if count < 2 or total == 1:
        return means[-1], (*(0.0,) * (total - 1), 1.0)
    noise = _gram([replicate - mean for replicate, mean in zip(replicates, means, strict=True)]) / (count * (count - 1))
    against = noise - noise[:, -1:] - noise[-1:, :] + noise[-1, -1]
    bias = _gram([mean - means[-1] for mean in means]) - against
    trusted = [j for j in range(total) if j == total - 1 or bias[j, j] <= LARGEST_BIAS * against[j, j]]
    values, vectors = torch.linalg.eigh(bias[trusted][:, trusted])
    shares = _simplex_minimum(noise[trusted][:, trusted] + (vectors * values.clamp(min=0)) @ vectors.T)
    weights = [0.0] * total
    for j, share in zip(trusted, shares, strict=True):
        weights[j] = share
    mean = torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum(0)
    return mean, tuple(weights)


def _gram(tensors: Sequence[Tensor]) -> Tensor:
    """Inner products in float64, ``(J, J)``."""
    rows = [torch.stack([(a.double() * b.double()).sum() for b in tensors]) for a in tensors]
    return torch.stack(rows).cpu()


def _simplex_minimum(form: Tensor) -> tuple[float, ...]:
    """The weights, zero or above and of sum 1, that minimise ``w' form w``: every support is tried."""
    size = len(form)
    ridged = form + torch.eye(size, dtype=form.dtype) * (1e-12 * float(form.diagonal().sum()) + 1e-300)
    best, least = [0.0] * (size - 1) + [1.0], math.inf
    for support in itertools.chain.from_iterable(itertools.combinations(range(size), n) for n in range(1, size + 1)):
        chosen = list(support)
        solved = torch.linalg.solve(ridged[chosen][:, chosen], torch.ones(len(chosen), dtype=form.dtype))
        share = solved / solved.sum()
        cost = float(share @ ridged[chosen][:, chosen] @ share)
        if bool((share >= 0).all()) and cost < least:
            best, least = [0.0] * size, cost
            for index, value in zip(chosen, share.tolist(), strict=True):
                best[index] = value
    return tuple(best)


def _pairs(samples: Tensor) -> Tensor:
    half = len(samples) // 2
    return (samples[:half] + samples[half:]) / 2


def _std(samples: Tensor, antithetic: bool) -> Tensor | None:
    count = len(samples)
    if count < 2:
        return None
    if not antithetic:
        return samples.std(0)
    # A sample is its pair's average plus or minus half the difference; the two are uncorrelated by symmetry.
    pairs, half = _pairs(samples), count // 2
    within = ((samples[:half] - samples[half:]) ** 2).mean(0) / 4
    return (within + (pairs.var(0) if half > 1 else 0)).sqrt()


# Checks --------------------------------------------------------------------------------------------------------------


def _checked_levels(levels: Tensor | Sequence[float], method: str) -> list[float]:
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    ladder = [float(level) for level in levels]
    if len(ladder) < 2:
        raise ValueError(f"levels need at least 2 entries (1 step), got {len(ladder)}")
    if not all(math.isfinite(level) and level >= 0 for level in ladder):
        raise ValueError(f"levels must be finite and at least 0, got {min(ladder)} to {max(ladder)}")
    for step, (level0, level1) in enumerate(itertools.pairwise(ladder)):
        if level1 > level0 or level0 == 0 or (level1 == level0 and method not in ITERATIVE):
            raise ValueError(f"levels must descend, got {level0:.6g} and then {level1:.6g} at step {step + 1}")
    return ladder


def _needed(method: str, options: Options) -> tuple[str, ...]:
    """What a method reads of a measurement besides its proximal map."""
    if method in ("ddnm", "split_gibbs") or (method == "pigdm" and options.pigdm_covariance == "tweedie"):
        return ("operator", "y", "sigma")
    return {"dps": ("operator", "y"), "reddiff": ("gradient", "sigma")}.get(method, ())


def _check(
    method: str, measurement: Measurement | None, order: int, eta: float | None, churn: float | None, samples: int,
    antithetic: bool, shape: Sequence[int], options: Options,
) -> None:  # fmt: skip
    if len(shape) < 2 or any(size < 1 for size in shape):
        raise ValueError(f"expected a shape (C, *space), got {tuple(shape)}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if antithetic and samples % 2:
        raise ValueError(f"antithetic samples come in pairs, got an odd number, {samples}")
    if method not in PLAIN and measurement is None:
        raise ValueError(f"method {method!r} needs a measurement, got None")
    missing = [name for name in _needed(method, options) if not hasattr(measurement, name)]
    if missing:
        kind = type(measurement).__name__
        raise TypeError(f"method {method!r} needs a Gaussian measurement, got {kind} without {', '.join(missing)}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    if order == 2 and not (method in ("ode", "sde") or (method == "pigdm" and eta == 0)):
        raise ValueError(f"order 2 is for ode, sde and pigdm with eta 0, got method {method!r}")
    if eta is not None and (method not in ("ddim", "pigdm") or not 0 <= eta <= 1):
        raise ValueError(f"eta is between 0 and 1 and for ddim and pigdm, got {eta} for {method!r}")
    if churn is not None and (method != "sde" or churn < 0):
        raise ValueError(f"churn is at least 0 and for sde, got {churn} for {method!r}")
