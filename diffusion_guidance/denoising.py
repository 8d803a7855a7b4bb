"""A denoised volume corrected by a prior that is fitted to this volume alone, as far as Stein's estimate supports it.

The data are ``y = v + sigma n``, and ``f = R(y)`` is the result of a denoiser `R`. The error of `R` can be learnt where
the truth is known: ``f`` is taken for the truth, noise is added, and the sum is denoised again,

    y' = f + sigma n',    f' = R(y'),    train  D(f', (y' - f') / sigma) -> f

on xy, xz and yz slices: the bootstrap. Then ``n = D(f, (y - f) / sigma)``, averaged over the three orientations, is an
estimate of `v`, and ``d = n - f`` is the correction that it proposes. ``f`` is smoother than `v`, so that the network
learns corrections that are rather too weak. The share of the correction that is taken does not come from the bootstrap
but from the data: by Stein's lemma

    E <d(y), v - f(y)> = E [<d(y), y - f(y)> - sigma^2 div d(y)],

so that the slope of the true on the proposed correction is known without the truth. The divergence comes from one more
run of `R` on ``y + h b`` with random signs `b` (`d` depends on `y` through `f`, too), and the error of the slope from a
jackknife over blocks. The weight is the lower end of the confidence interval of the slope. This neglects that the
network was fitted to ``f``, hence to `y`: it counts as fixed. A network that overfits learns ``f`` by heart, and that
draws `d` to zero and not to the noise.

The same network at finite levels, ``D(x, level, f, (y - f) / sigma)``, gives the score of `v` given the base and its
residual. :func:`posterior_samples` draws from it.

References
----------
B. Efron, Estimation and accuracy after model selection, doi:10.1080/01621459.2013.823775 (bootstrap from a fit).
C. Stein, Estimation of the mean of a multivariate normal distribution, doi:10.1214/aos/1176345632. S. Ramani, T. Blu,
M. Unser, Monte-Carlo SURE, doi:10.1109/TIP.2008.2001404. T. Karras et al., arXiv:2206.00364 (levels, weights).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorcell.diffusion_guidance.batches import Batch
from tensorcell.diffusion_guidance.compute import Compute
from tensorcell.diffusion_guidance.exchange import on_host, tensor_of
from tensorcell.diffusion_guidance.methods import Method
from tensorcell.diffusion_guidance.networks import SliceNetworkConfig, broad
from tensorcell.diffusion_guidance.priors import LateralPrior
from tensorcell.diffusion_guidance.samplers import sample
from tensorcell.diffusion_guidance.training_loop import Progress, TrainingState, run_training
from tensorcell.solvers.interplane import judged_slope
from tensorcell.solvers.stein import divergence_terms, random_direction, squared_error_terms

Volume = npt.NDArray[np.float32]
Restore = Callable[[Volume], npt.ArrayLike]

NETWORK = SliceNetworkConfig(widths=(32, 48), blocks=1)
"""The network that is fitted."""

BATCH, SIDE = 12, 64
"""Number of pieces of slices in a step, and their sides in pixels."""

PAIRS = 2
"""Number of volumes that are simulated and denoised again."""

FINITE = 0.25
"""Share of the pieces that are shown at finite levels."""

LOG_SPREAD = 1.2
"""Standard deviation of the logarithm of finite levels about the error of the base."""

PERTURBATION = 0.03
"""Step of the divergence's finite difference, in standard deviations of the noise. It adds ``h^2 sigma^2`` to the
variance for which `restore` was made. At 0.1, one per cent, a denoiser that weighs the data by the variance of its
residual (as local_tucker does) takes this for structure of that size, and lets more noise through than it did before.
"""

BLOCK = 16
"""Sides of the blocks that the jackknife leaves out, in voxels: several times as long as a correction extends."""

HIGHEST, LOWEST = 8.0, 0.05
"""First and last level of sampling, as multiples of the error of the base."""

CONDITION = "base and its residual in noise levels"
"""The entry ``condition`` in the report of a prior for noise, by which such a prior is recognised."""


@dataclass(frozen=True, eq=False)
class PriorDenoised:
    """A volume denoised with the help of a prior.

    Attributes
    ----------
    volume : float32 array (Z, Y, X)
        ``f + w (n - f)``, in the unit of the data.
    weight : float
        ``w``, the share of the prior's correction that is taken; with 0 the volume is the base, bit for bit.
    slope, slope_error : float
        Slope of the true on the proposed correction by Stein's lemma, and its jackknife error.
    predicted : float
        Root mean square error of ``volume`` by Stein's estimate. Where the error of the base was given, a second
        estimate is the square of that error less the reduction that the slope predicts (at least half of the square),
        and the mean of both squares is taken.
    sentence : str
        All this in words.
    prior : LateralPrior
        The prior. Its condition is ``f`` in prior units, and ``(y - f) / sigma``.
    base, regression : float32 arrays (Z, Y, X)
        ``f`` and ``n``.
    """

    volume: Volume
    weight: float
    slope: float
    slope_error: float
    predicted: float
    sentence: str
    prior: LateralPrior
    base: Volume
    regression: Volume


@dataclass(frozen=True, eq=False)
class PosteriorSamples:
    """Samples about a denoised volume.

    Attributes
    ----------
    samples : float32 array (K, Z, Y, X)
    spread : float32 array (Z, Y, X)
        Their standard deviation.
    factor : float
        The factor by which the network's own deviations were multiplied, so that their mean square is Stein's estimate
        of the squared error.
    """

    samples: Volume
    spread: Volume
    factor: float


def denoise_with_prior(
    noisy: npt.ArrayLike,
    sigma: float,
    *,
    restore: Restore,
    base: npt.ArrayLike | None = None,
    base_error: float | None = None,
    measured: npt.NDArray[np.bool_] | None = None,
    prior: LateralPrior | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    config: SliceNetworkConfig | None = None,
    compute: Compute | None = None,
) -> PriorDenoised:
    """Denoise a volume, learn the denoiser's error from simulations, and correct it as far as the data support that.

    Parameters
    ----------
    noisy : array (Z, Y, X)
        ``y``, finite throughout.
    sigma : float
        Standard deviation of its white Gaussian noise, in its unit (stabilise the variance of other noise first).
    restore : callable
        The denoiser ``y -> f`` for noise of this `sigma`, the same for every call.
    base : array (Z, Y, X), optional
        ``restore(noisy)`` where that is known already.
    base_error : float, optional
        Root mean square error of the base, where the denoiser states it.
    measured : bool array (Z, Y, X), optional
        True = measured. Elsewhere `noisy` holds estimates, which count in no sum. They should be a few per cent of the
        voxels at most, because their dependence on the noise around them is neglected.
    prior : LateralPrior, optional
        A prior of an earlier call; None: one is fitted, at the cost of two more runs of `restore`.
    seconds, steps
        Budget of the fit: the first to be reached ends it. With neither, 1500 steps. Only `steps` is reproducible.
    seed : int
    progress : callable, optional
        ``progress(step, steps, loss, loss on other pieces)``; True stops the fit.
    config : SliceNetworkConfig, optional
        Shape of the network that is fitted.
    compute : Compute, optional
        Where and in which precision the network is computed; this CPU and float32 where not given. It is fitted in
        float32.

    Returns
    -------
    PriorDenoised

    Raises
    ------
    ValueError
        If the volume is not finite or not three-dimensional, `sigma` not positive, `restore` returns another shape or
        what is not finite, or the prior is of another kind.

    Notes
    -----
    Runs of `restore`: one for the base, two for the fit, one for the weight. 25 ms a step on one core. The network
    takes about 1 s for an 81 x 86 x 94 volume.

    Examples
    --------
    >>> from scipy.ndimage import gaussian_filter
    >>> noisy = np.random.default_rng(0).standard_normal((8, 16, 16)).astype(np.float32)
    >>> found = denoise_with_prior(noisy, 1.0, restore=lambda y: gaussian_filter(y, 1.0), steps=2)
    >>> found.volume.shape, found.weight >= 0
    ((8, 16, 16), True)
    """
    y = _checked(noisy, "noisy")
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    rng, compute = np.random.default_rng([seed, 5]), compute or Compute()
    f = _restored(restore, y) if base is None else _checked(base, "base", y.shape)
    if prior is None:
        prior = _fitted(f, sigma, restore, rng, seconds, steps, seed, progress, config or NETWORK, compute.device)
    elif prior.report.get("condition") != CONDITION:
        raise ValueError("expected a prior fitted by denoise_with_prior, got one of another kind")
    else:
        prior = replace(prior, location=float(f.mean()), scale=float(f.std()) or 1.0)
    prior = prior.on(compute)
    n = _regressed(prior, f, y, sigma)

    counted = np.ones(y.shape, bool) if measured is None else measured
    step = PERTURBATION * sigma
    signs = random_direction(np.random.default_rng([seed, 6]), counted, "signs")
    moved = np.asarray(y + step * signs, np.float32)
    f_moved = _restored(restore, moved)
    change, change_moved = n - f, _regressed(prior, f_moved, moved, sigma) - f_moved

    products = _block_sums(counted * change * (y - f) - sigma**2 * divergence_terms(signs, change, change_moved, step))
    squares = _block_sums(counted * change * change)
    slope, error, weight = _supported(products, squares)
    volume = f + np.float32(weight) * change if weight > 0 else f
    volume_moved = f_moved + np.float32(weight) * change_moved
    divergence = divergence_terms(signs, volume, volume_moved, step)[counted]
    squared_errors = squared_error_terms((volume - y)[counted].astype(np.float64), divergence, sigma)
    predicted = math.sqrt(max(float(squared_errors.mean()), 0.0))
    if base_error is not None:  # the mean of two estimates of the error that are wrong in different ways
        saved = weight * (2 * min(max(slope, weight), 1.0) - weight) if weight > 0 else 0.0
        size = float(np.mean(np.square(change, dtype=np.float64)))
        own = max(base_error**2 - saved * size, base_error**2 / 2)
        predicted = math.sqrt((predicted**2 + own) / 2)
    sentence = (
        f"{weight:.0%} of the change that the prior proposed was taken: Stein's estimate, which needs no clean stack, "
        f"puts the true change at {slope:.2f} +- {error:.2f} of the proposed one"
    )
    return PriorDenoised(volume, weight, slope, error, predicted, sentence, prior, f, n)


def posterior_samples(
    noisy: npt.ArrayLike,
    sigma: float,
    found: PriorDenoised,
    *,
    samples: int = 4,
    steps: int = 20,
    method: Method = "ddpm",
    seed: int = 0,
    progress: Callable[[int, int], bool | None] | None = None,
) -> PosteriorSamples:
    """Volumes between which the measurement does not decide: samples from the prior, given the base and its residual.

    Parameters
    ----------
    noisy, sigma
        As given to :func:`denoise_with_prior`.
    found : PriorDenoised
        The result of that call.
    samples, steps : int
        Number of samples, and of the steps that each takes.
    method : str
        A method that needs no measurement: "ode", "ddim", "ddpm" or "sde".
    seed : int
    progress : callable, optional
        ``progress(step, steps)``; True stops, with the estimates at that level as samples.

    Returns
    -------
    PosteriorSamples
        Centred on ``found.volume``.

    Raises
    ------
    ValueError
        If the volume does not fit, or fewer than two samples or one step are asked for.

    Notes
    -----
    xy, xz and yz slices take turns from step to step. The mean square of the spread is set to Stein's estimate of the
    squared error, whatever the size of the prior's own spread. The prior decides where the spread is large, and how the
    deviations of neighbouring voxels are correlated. Each step of a sample costs one pass of the network over the
    slices of one orientation.
    """
    y = _checked(noisy, "noisy", found.volume.shape)
    if samples < 2 or steps < 1:
        raise ValueError(f"expected at least 2 samples and 1 step, got {samples} and {steps}")
    prior = found.prior
    tau = prior.network.config.condition_error
    condition = _condition(prior, found.base, y, sigma)
    turn = itertools.count()

    def denoise(x: Tensor, level: float | Tensor) -> Tensor:
        axis = next(turn) % 3
        return torch.stack([_by_slices(prior, one, condition, level, axis) for one in x[:, 0]])[:, None]

    centre = prior.standardise(tensor_of(found.regression, prior.device))  # (Z, Y, X)
    levels = [*np.geomspace(HIGHEST * tau, LOWEST * tau, steps).tolist(), 0.0]
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn((samples, 1, *y.shape), generator=generator, device=generator.device).to(centre)
    # Given y, the state at a level l has the variance l^2 plus that of v.
    start = centre + math.hypot(levels[0], tau) * first
    callback = None if progress is None else lambda step, total, _: progress(step, total)
    drawn = sample(
        denoise,
        (1, *y.shape),
        levels=levels,
        method=method,
        samples=samples,
        generator=generator,
        start=start,
        callback=callback,
        device=prior.device,
    ).samples[:, 0]
    deviations = on_host((drawn - drawn.mean(dim=0)) * (prior.scale * math.sqrt(samples / (samples - 1))))
    own = math.sqrt(float(np.mean(np.square(deviations, dtype=np.float64))))
    factor = found.predicted / own if own > 0 else 0.0
    spread = np.asarray(np.sqrt(np.mean(np.square(deviations), axis=0)) * factor, np.float32)
    return PosteriorSamples(np.asarray(found.volume + factor * deviations, np.float32), spread, factor)


def _fitted(
    f: Volume,
    sigma: float,
    restore: Restore,
    rng: np.random.Generator,
    seconds: float | None,
    steps: int | None,
    seed: int,
    progress: Progress | None,
    config: SliceNetworkConfig,
    device: torch.device,
) -> LateralPrior:
    """The prior of the bootstrap, fitted to predict ``f`` from the denoised sum of ``f`` and noise."""
    location, scale = float(f.mean()), float(f.std()) or 1.0
    target = torch.from_numpy((f - location) / scale)  # (Z, Y, X)
    triples = []
    for _ in range(PAIRS):
        y = f + np.float32(sigma) * rng.standard_normal(f.shape, np.float32)
        again = _restored(restore, y)
        known = torch.from_numpy((again - location) / scale)
        triples.append(torch.stack([known, torch.from_numpy((y - again) / np.float32(sigma)), target]))  # (3, Z, Y, X)
    tau = max(float(torch.stack([known - target for known, _, target in triples]).square().mean().sqrt()), 1e-4)
    state = TrainingState.begin(replace(config, condition_error=tau), seed, compute=Compute(device=device))
    other = torch.Generator().manual_seed(seed + 1)
    test = [_drawn(triples, other, tau) for _ in range(3)]
    report = run_training(
        state,
        lambda generator: _drawn(triples, generator, tau),
        test,
        seconds=seconds,
        steps=steps,
        progress=progress,
    )
    report |= {"condition": CONDITION, "sigma": sigma}
    state.best.requires_grad_(False)
    return LateralPrior(state.best, location, scale, LOWEST * tau, report=report)


def _drawn(triples: list[Tensor], generator: torch.Generator, tau: float) -> Batch:
    """Random pieces of slices of one orientation, mirrored, and turned where the slices are lateral ones."""

    def integer(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    axis = 1 + integer(3)
    pieces = []
    for _ in range(BATCH):
        source = triples[integer(len(triples))].movedim(axis, 1)  # (3, slices, H, W)
        height, width = min(SIDE, source.shape[2]), min(SIDE, source.shape[3])
        k, top, left = (
            integer(n) for n in (source.shape[1], source.shape[2] - height + 1, source.shape[3] - width + 1)
        )
        piece = source[:, k, top : top + height, left : left + width]  # (3, H, W)
        pieces.append(piece.flip([a for a in (1, 2) if integer(2)]))
    known, rest, target = torch.stack(pieces).unbind(1)  # (K, H, W) each
    target = target[:, None]  # (K, 1, H, W)
    finite = torch.rand(BATCH, generator=generator) < FINITE
    level = tau * (LOG_SPREAD * torch.randn(BATCH, generator=generator)).exp()
    x = target + broad(level, target) * torch.randn(target.shape, generator=generator)
    x = torch.where(broad(finite, x), x, 0.0)
    level = torch.where(finite, level, torch.inf)
    return Batch(x, level, torch.stack([known, rest], dim=1), target, torch.ones(1, 1, 1, 1))


def _condition(prior: LateralPrior, f: Volume, y: Volume, sigma: float) -> Tensor:
    """(2, Z, Y, X): the base in prior units, and the residual of the data in standard deviations of the noise."""
    base, residual = (tensor_of(each, prior.device) for each in (f, (y - f) / np.float32(sigma)))
    return torch.stack([prior.standardise(base), residual])


def _by_slices(
    prior: LateralPrior, x: Tensor, condition: Tensor, level: float | Tensor, axis: int, at_once: int = 16
) -> Tensor:
    """A volume (Z, Y, X) denoised slice by slice across one axis, in prior units."""
    level = level if isinstance(level, float) else float(level.reshape(-1)[0])
    states = torch.split(x.movedim(axis, 0)[:, None], at_once)  # (n, 1, H, W) each
    known = torch.split(condition.movedim(1 + axis, 0), at_once)  # (n, 2, H, W) each
    with torch.no_grad():
        parts = [prior.denoise(state, level, given)[:, 0] for state, given in zip(states, known, strict=True)]
    return torch.cat(parts).movedim(0, axis)


def _regressed(prior: LateralPrior, f: Volume, y: Volume, sigma: float) -> Volume:
    """``n``: the mean over three orientations, in the unit of the data."""
    condition = _condition(prior, f, y, sigma)
    nothing = torch.zeros_like(condition[0])
    guesses = [_by_slices(prior, nothing, condition, math.inf, axis) for axis in range(3)]
    return np.asarray(on_host(prior.restore(torch.stack(guesses).mean(dim=0))), np.float32)


def _supported(products: npt.NDArray[np.float64], squares: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Slope, its jackknife error, and the lower end of its confidence interval, from 0 to 1: never magnified."""
    if len(products) < 2 or not squares.sum() > 0:  # nothing proposed, or no second block to compare with
        return math.nan, math.nan, 0.0
    return judged_slope(products, squares)


def _block_sums(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Sums over blocks of about ``BLOCK`` voxels a side."""
    sums = np.asarray(values, np.float64)
    for axis, side in enumerate(values.shape):
        edges = np.linspace(0, side, max(1, round(side / BLOCK)) + 1).astype(int)[:-1]
        sums = np.add.reduceat(sums, edges, axis=axis)
    return sums.ravel()


def _restored(restore: Restore, y: Volume) -> Volume:
    return _checked(restore(y), "what restore returns", y.shape)


def _checked(given: npt.ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> Volume:
    """The array as finite float32 (Z, Y, X), or a ValueError of one line."""
    volume = np.ascontiguousarray(given, dtype=np.float32)
    if volume.ndim != 3 or 0 in volume.shape:
        raise ValueError(f"{name} must have three axes (z, y, x) and voxels, got shape {volume.shape}")
    if shape is not None and volume.shape != shape:
        raise ValueError(f"{name} must have the shape of the data, {shape}, got {volume.shape}")
    if not np.isfinite(volume).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return volume
