"""Samplers of a score prior, alone or guided by a measurement, in rescaled coordinates ``x = x0 + level eps``.

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

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.methods import Method, Options, check_arguments, checked_levels
from tensorcell.diffusion_guidance.noises import Noise, drawing
from tensorcell.diffusion_guidance.paths import Denoiser
from tensorcell.diffusion_guidance.sampler_loop import Advance, Callback, SamplerState, Samples, march, result, started
from tensorcell.diffusion_guidance.steps import (
    Draw,
    Estimate,
    Measurement,
    Moved,
    ddim_step,
    ddnm_step,
    diffpir_step,
    dps_step,
    guided_estimate,
    heun_step,
    pigdm_estimate,
    pnp_admm_step,
    reddiff_step,
    split_gibbs_step,
    with_terms,
)
from tensorcell.diffusion_guidance.terms import Term


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
    """Draw samples from a score prior, guided by a measurement where there is one.

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
        The second half of the samples takes the noise of the first half with the opposite sign. Every sample keeps its
        law, and where the sampler is nearly an affine map of its noise the error of the mean is far lower
        (arXiv 2506.06185). With a Gaussian prior the mean of a pair is exact up to the method's bias.
    generator : torch.Generator, optional
        Draws on its own device; None: one with a fresh seed.
    start : tensor ``(K, C, *space)`` or SamplerState, optional
        The state at ``levels[0]`` (or the first iterate), or one to resume from.
    noise : Noise, optional
        Draws all random numbers; ``torch.randn`` by default. Another is
        :func:`~tensorcell.diffusion_guidance.noises.correlated_noise`.
    dtype, device
        Those of the state.
    callback : callable ``(step, steps, estimate) -> bool or None``
        Called after each step, with the estimate of x0 ``(K, C, *space)``; True stops the sampler.
    options : Options, optional
        Settings of single methods.

    Returns
    -------
    Samples

    Raises
    ------
    ValueError, TypeError
        If arguments do not fit together, in one line.
    SamplingDivergedError
        If a state is not finite, with the step and the last good state.
    SamplingInterrupted
        On Ctrl-C, with the state to resume from.

    Notes
    -----
    The memory holds the state, two or three tensors of its size, and up to five estimates for the mean. "dps" and
    "pigdm" (unless its covariance is "none") also need the denoiser's graph. Resuming gives the same bits as going on.

    >>> prior = lambda x, level: x / (1 + level**2)  # of N(0, 1)
    >>> drawn = sample(prior, (1, 8, 8), levels=[80.0, 8.0, 0.8, 0.08, 0.0], samples=3,
    ...                generator=torch.Generator().manual_seed(0))
    >>> drawn.samples.shape, drawn.mean.shape, drawn.steps
    (torch.Size([3, 1, 8, 8]), torch.Size([1, 8, 8]), 4)
    """
    ladder = checked_levels(levels, method)
    settings = options or Options()
    check_arguments(method, measurement, order, eta, churn, samples, antithetic, shape, settings)
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    draw = drawing(noise or cast(Noise, torch.randn), generator, dtype, torch.device(device), antithetic)
    advance = step_of(method, denoise, measurement, tuple(terms), draw, order, eta, churn, settings, len(ladder) - 1)
    full = (samples, *shape)
    with torch.no_grad():
        state = started(start, full, ladder, method, measurement, draw, generator, dtype, torch.device(device))
        state = march(advance, state, ladder, generator, callback, kept=method not in ("reddiff", "pnp_admm"))
        return result(state, ladder, method, antithetic)


def step_of(
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
        return with_terms(pulled, terms, level)

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
