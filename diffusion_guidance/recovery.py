"""``recover(method="diffusion")``: what needs torch of it. One stack at a time, in the data's unit.

- Between evenly spaced planes: a lateral prior (given, kept from an earlier run, or fitted to the planes), the fill by
  :func:`~tensorcell.diffusion_guidance.planes.fill_with_prior`, samples and what they tell of the uncertainty.
- Measured voxels that are to be denoised: :func:`~tensorcell.diffusion_guidance.denoising.denoise_with_prior`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tensorcell.diffusion_guidance.denoising import CONDITION, denoise_with_prior, posterior_samples
from tensorcell.diffusion_guidance.networks import SliceNetworkConfig, without_denormals
from tensorcell.diffusion_guidance.plane_samples import PlaneSamples, calibrated, sample_planes, smoothed
from tensorcell.diffusion_guidance.planes import PriorFill, fill_with_prior, grid_rows
from tensorcell.diffusion_guidance.priors import CONFIG, LateralPrior, load_prior, shipped_prior
from tensorcell.diffusion_guidance.training import estimate_fit, fit_lateral_prior, matched_stretch
from tensorcell.errors import InputError
from tensorcell.solvers import NoiseModel

Floats = npt.NDArray[np.float32]

Report = Callable[[str, int, int, float], bool | None]
"""``report(stage, step, steps, value)``; True stops the stage."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DiffusionRequest:
    """What :class:`tensorcell.recovery.DiffusionOptions` asks for, and where to report."""

    prior: Any
    cache: Path | None
    allow_pickle: bool
    fit_steps: int
    samples: int
    steps: int
    guidance: tuple[str, ...]
    keep_samples: bool
    seed: int
    report: Report
    say: Say


class Diffused(NamedTuple):
    """A stack with its missing planes filled, or denoised."""

    volume: Floats
    error: Floats
    samples: Floats | None
    """(K, Z, Y, X), about `volume`."""
    notes: tuple[str, ...]


def diffused_planes(
    planes: npt.NDArray[Any], factor: int, noise: NoiseModel | float, request: DiffusionRequest
) -> Diffused:
    """Fill the planes between evenly spaced ones.

    Parameters
    ----------
    planes : array (m, Y, X)
        Planes 0, s, 2s, ..., whole.
    factor : int
        ``s``, at least 2.
    noise : NoiseModel or float
        Of the planes given.
    request : DiffusionRequest

    Raises
    ------
    InputError
        For a prior that cannot be read or does not fit.
    """
    values = np.ascontiguousarray(planes, dtype=np.float32)
    at_once = slices_that_fit((grid_rows(values, factor), *values.shape[1:]), request.say)
    with settled():
        try:
            prior, sentence = prior_for(values, factor, request)
            fill = fill_with_prior(values, prior, noise=noise)
        except (ValueError, OSError) as error:
            raise InputError(str(error)) from None
        notes = [sentence, f"between planes: {fill.sentence}"]
        if not fill.turns:
            return Diffused(fill.volume, fill.error, None, tuple(notes))
        return _with_samples(values, prior, fill, noise, at_once, request, notes)


def _with_samples(
    values: Floats,
    prior: LateralPrior,
    fill: PriorFill,
    noise: NoiseModel | float,
    at_once: int,
    request: DiffusionRequest,
    notes: list[str],
) -> Diffused:
    """The fill with the uncertainty that samples tell, and the samples themselves about it."""
    factor = prior.axial_factor
    stopped: list[bool] = []

    def told(first: float, share: float) -> Callable[[int, int], bool]:
        def step(number: int, steps: int) -> bool:
            whole = round(steps / share)
            if request.report("samples", round(first * whole) + number, whole, math.nan):
                stopped.append(True)
            return bool(stopped)

        return step

    def draw(planes: Floats, keep: bool, first: float, share: float) -> PlaneSamples:
        return sample_planes(
            planes, prior, samples=request.samples, steps=request.steps, guidance=request.guidance, seed=request.seed,
            keep=keep, slices_at_once=at_once, callback=told(first, share),
        )  # fmt: skip

    kept = fill.turns[0].kept
    share = len(kept) / (len(kept) + len(values))
    before = draw(kept, False, 0.0, share)
    drawn = draw(values, request.keep_samples, share, 1 - share)
    if drawn.std is None or before.std is None:
        notes.append("errors between planes are those of kriging and left-out planes: spread needs two samples")
        return Diffused(fill.volume, fill.error, None, tuple(notes))
    sigma = noise.sigma if isinstance(noise, NoiseModel) else noise
    deviation = calibrated(fill, drawn.std, before.std, factor=factor, noise=sigma)
    deviation[::factor] = fill.error[::factor]
    spread = f"{drawn.count} samples of the prior's posterior, {request.steps} steps each"
    notes.append(f"{spread}{' (stopped early)' if stopped else ''}: their spread and left-out planes give the errors")
    samples = None
    if drawn.samples is not None:
        samples = drawn.samples + (fill.volume - drawn.mean)
    return Diffused(fill.volume, deviation, samples, tuple(notes))


def diffused_noise(
    noisy: npt.NDArray[Any],
    sigma: float,
    base: npt.NDArray[Any],
    base_error: npt.NDArray[Any],
    restore: Callable[[npt.NDArray[Any]], Any],
    request: DiffusionRequest,
) -> Diffused:
    """What a prior adds to a denoised volume.

    Parameters
    ----------
    noisy : array (Z, Y, X)
        With white Gaussian noise.
    sigma : float
        Its standard deviation.
    base, base_error : arrays (Z, Y, X)
        The volume denoised by `restore`, and the standard deviation of its error.
    restore : callable
        ``noisy -> result`` with a ``value``.
    request : DiffusionRequest
    """

    def told(step: int, steps: int, loss: float, _: float) -> bool:
        return bool(request.report("noise", step, steps, loss))

    cache = None if request.cache is None else request.cache / "noise"
    size = math.sqrt(float(np.mean(np.square(base_error, dtype=np.float64))))
    with settled():
        try:
            prior, name = given_prior(request)
            if prior is None or not is_for_noise(prior):
                prior, name = kept_prior(cache, noisy), f"prior {cache}, fitted earlier"
            if prior is None:
                request.say(f"learning to denoise in {request.fit_steps} steps, and denoising three times more")
            found = denoise_with_prior(
                noisy, sigma, restore=lambda y: restore(y).value, base=base, base_error=size, prior=prior,
                steps=request.fit_steps, seed=request.seed, progress=told,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            raise InputError(str(error)) from None
        if prior is None:
            name = f"prior for noise fitted in {found.prior.report['steps']} steps"
            if cache is not None:
                keep_prior(found.prior, cache, noisy)
        notes = (name, f"denoised volume: {found.sentence}")
        volume = np.asarray(found.volume, base.dtype)
        if request.samples < 2 or found.weight == 0:
            scale = found.predicted / size if size > 0 else 1.0
            return Diffused(volume, np.asarray(base_error * scale, base.dtype), None, notes)
        drawn = posterior_samples(
            noisy, sigma, found, samples=request.samples, steps=request.steps, seed=request.seed,
            progress=lambda step, steps: bool(request.report("samples", step + 1, steps, math.nan)),
        )  # fmt: skip
    shape = np.sqrt(smoothed(drawn.spread) * base_error)
    size = math.sqrt(float(np.mean(np.square(shape, dtype=np.float64))))
    deviation = shape * (found.predicted / size if size > 0 else 0.0)
    return Diffused(volume, deviation.astype(base.dtype), drawn.samples if request.keep_samples else None, notes)


def is_for_noise(prior: Any) -> bool:
    """Whether a prior is one of :func:`denoise_with_prior`."""
    return isinstance(prior, LateralPrior) and prior.report.get("condition") == CONDITION


def prior_for(values: Floats, factor: int, request: DiffusionRequest) -> tuple[LateralPrior, str]:
    """The prior given, the one kept by an earlier run, or one fitted now; and where it is from."""
    given, name = given_prior(request)
    if given is not None and not is_for_noise(given):
        return _checked(given, factor, name).adapted(values), name
    kept = kept_prior(request.cache, values)
    if kept is not None:
        return _checked(kept, factor, str(request.cache)), f"prior {request.cache}, fitted earlier"
    return _fitted(values, factor, request)


def given_prior(request: DiffusionRequest) -> tuple[LateralPrior | None, str]:
    """The prior that the user gave, and what to call it."""
    given = request.prior
    if isinstance(given, str | os.PathLike):
        return load_prior(given, channels=1, allow_pickle=request.allow_pickle), f"prior {given}"
    if given is not None and not isinstance(given, LateralPrior):
        raise InputError(f"expected a LateralPrior, a path or None as prior, got {type(given).__name__}")
    return given, "the prior given"


def kept_prior(cache: Path | None, values: npt.NDArray[Any]) -> LateralPrior | None:
    """The prior of an earlier run on the same values, if there is one; that of others is neither used nor replaced."""
    if cache is None or not (cache / CONFIG).exists():
        return None
    prior = load_prior(cache, channels=1)
    if prior.report.get("data") != digest(values):
        raise InputError(f"{cache}: expected a prior kept for this stack, got that of another; name another folder")
    return prior


def keep_prior(prior: LateralPrior, cache: Path, values: npt.NDArray[Any]) -> None:
    """Save a prior with the digest of what it was fitted to."""
    replace(prior, report={**prior.report, "data": digest(values)}).save(cache)


def digest(values: npt.NDArray[Any]) -> str:
    """Of the values and their shape.

    >>> digest(np.zeros((2, 3))) == digest(np.zeros((3, 2)))
    False
    """
    found = hashlib.sha256(str(values.shape).encode())
    found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:12]


def _checked(prior: LateralPrior, factor: int, name: str) -> LateralPrior:
    if prior.network.config.channels != 1:
        raise InputError(f"{name}: this prior is for {prior.network.config.channels} channels, got data of 1")
    if prior.axial_factor != factor:
        raise InputError(f"{name}: expected a prior for axial factor {factor}, got one for {prior.axial_factor}")
    return prior


def _fitted(values: Floats, factor: int, request: DiffusionRequest) -> tuple[LateralPrior, str]:
    """A prior fitted to the lateral slices; kept in the cache, where there is one, also when interrupted."""
    cost = estimate_fit(values, steps=request.fit_steps, axial_factor=factor)
    planes = f"{len(values)} planes of {values.shape[1]} x {values.shape[2]}"
    request.say(
        f"fitting a prior to {planes}: about {duration(cost.seconds)} for {request.fit_steps} steps, "
        f"{cost.bytes / 2**20:.0f} MiB; then {request.samples} samples"
    )
    cache, state = request.cache, None
    if cache is not None:
        state = cache.with_name(f"{cache.name}.{digest(values)}.state")
    stopped: list[bool] = []

    def progress(step: int, steps: int, loss: float, heldout: float) -> bool:
        if request.report("prior", step, steps, loss):
            stopped.append(True)
        return bool(stopped)

    resumed = state is not None and (state / "training_state.json").exists()
    prior = fit_lateral_prior(
        values, axial_factor=factor, stretch=matched_stretch(values, factor), steps=request.fit_steps,
        seed=request.seed, progress=progress, initial=state if resumed else shipped_prior(), keep=state,
    )  # fmt: skip
    if cache is not None and state is not None:
        keep_prior(prior, cache, values)
        for name in ("training_state.json", "training_state.safetensors"):
            (state / name).unlink(missing_ok=True)
        state.rmdir()
    said = prior.report
    return prior, f"prior fitted to {planes} in {said['steps']} steps ({said['ended']})"


def slices_that_fit(shape: tuple[int, ...], say: Say) -> int:
    """Slices for one call of the usual network within half of the free memory; a notice where that is not 8."""
    config = SliceNetworkConfig()
    side = max(shape[1:])
    features = sum(6 * config.blocks * width // 4**depth for depth, width in enumerate(config.widths))
    each = 4 * shape[0] * side * features // config.patch**2
    free = free_memory()
    if free is None or 8 * each <= free // 2:
        return 8
    fitting = int(max(1, free // 2 // each))
    say(f"memory is short ({free >> 20} MiB free): {fitting} slices at a time instead of 8")
    return fitting


def free_memory() -> int | None:
    """Bytes that are free, where the system tells."""
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


@contextmanager
def settled() -> Iterator[None]:
    """Torch as it is fastest on CPUs.

    On machines of two cores one thread: with Numba's threads beside them, two are slower.
    """
    before = torch.get_num_threads()
    if (os.cpu_count() or 1) <= 2:
        torch.set_num_threads(1)
    try:
        with without_denormals():
            yield
    finally:
        torch.set_num_threads(before)


def duration(seconds: float) -> str:
    """Seconds or minutes, whole.

    >>> duration(7.4), duration(400)
    ('7 s', '7 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
