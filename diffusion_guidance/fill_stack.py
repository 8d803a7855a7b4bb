"""The part of ``recover(method="diffusion")`` that needs torch. It treats one stack at a time, in the data's unit.

- :func:`diffused_planes` fills the planes between evenly spaced ones. It takes a lateral prior (the one given, the one
  that an earlier run kept, or one fitted to the planes), fills the gaps by
  :func:`~tensorcell.diffusion_guidance.planes.fill_with_prior`, and draws samples for the uncertainty.
- :func:`diffused_noise` denoises measured voxels by
  :func:`~tensorcell.diffusion_guidance.denoising.denoise_with_prior`.

Everything that the user can mend is raised as a ValueError of one line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tensorcell.diffusion_guidance.compute import Compute, exact_products
from tensorcell.diffusion_guidance.denoising import CONDITION, PriorDenoised, denoise_with_prior, posterior_samples
from tensorcell.diffusion_guidance.networks import SliceNetworkConfig, without_denormals
from tensorcell.diffusion_guidance.plane_samples import PlaneSamples, calibrated, sample_planes, smoothed
from tensorcell.diffusion_guidance.planes import FEWEST_PLANES, PriorFill, fill_with_prior, grid_rows, kriged_alone
from tensorcell.diffusion_guidance.priors import CONFIG, WEIGHTS, LateralPrior, load_prior, shipped_prior, unfinished
from tensorcell.diffusion_guidance.slices import matched_stretch
from tensorcell.diffusion_guidance.training import estimate_fit, fit_lateral_prior
from tensorcell.diffusion_guidance.training_loop import STOPPED
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.iteration import duration

Floats = npt.NDArray[np.float32]

Report = Callable[[str, int, int, float], bool | None]
"""``report(stage, step, steps, value)``; True stops the stage."""

Say = Callable[[str], None]

MOST_GAPS = 0.05
"""No prior for noise is fitted where a larger share of the voxels than this was not measured."""

NOISE = "noise"
"""Folder of a cache that holds the prior for noise."""

STATE = ".state"
"""How the name of a folder ends that keeps the state of a stopped fit."""

HOST = Compute()
"""This CPU, in float32."""

LOWEST_LEVEL = 1e-2
"""The lowest level of priors that were fitted to slices without noise."""


@dataclass(frozen=True, kw_only=True)
class DiffusionRequest:
    """The checked options (:class:`~tensorcell.diffusion_guidance.options.DiffusionOptions`), and where to report."""

    prior: LateralPrior | None
    """The prior that the user gave; None: one is read from the cache, or fitted."""
    prior_name: str
    """What the notes call that prior."""
    cache: Path | None
    key: str
    """Digest of the stack and of all that a fit to it depends on: a prior kept for another key is not used."""
    fit_steps: int
    samples: int
    steps: int
    guidance: tuple[str, ...]
    keep_samples: bool
    seed: int
    compute: Compute
    """Where the networks are fitted and sampled; the precision is that of the samples."""
    report: Report
    say: Say
    """``say(message)`` is called with a line for the user before something long begins."""


class Diffused(NamedTuple):
    """A stack whose missing planes were filled, or that was denoised."""

    volume: Floats
    error: Floats
    """Standard deviation of the error of `volume`."""
    samples: Floats | None
    """Samples (K, Z, Y, X), centred on `volume`."""
    notes: tuple[str, ...]
    """Sentences for the user: which prior was used, and how much of its correction was taken."""


def diffused_planes(
    planes: npt.NDArray[Any], factor: int, noise: NoiseModel | float, request: DiffusionRequest
) -> Diffused:
    """Fill the planes between evenly spaced ones.

    Parameters
    ----------
    planes : array (m, Y, X)
        Planes 0, s, 2s, ... of the wanted stack, without gaps.
    factor : int
        ``s``, at least 2.
    noise : NoiseModel or float
        The noise of the planes given.
    request : DiffusionRequest

    Raises
    ------
    ValueError
        If a prior cannot be read, written or used for this factor.
    """
    centre = offset_of(planes)
    values = np.ascontiguousarray(planes - centre, dtype=np.float32)
    noise = shifted(noise, centre)
    if len(values) < FEWEST_PLANES:
        fill = kriged_alone(values, factor, noise)
        return Diffused(fill.volume + centre, fill.error, None, (f"between planes: {fill.sentence}",))
    with settled(request.compute):
        at_once = slices_that_fit((grid_rows(values, factor), *values.shape[1:]), request.say, request.compute.device)
        try:
            prior, sentence = prior_for(values, factor, noise, request)
            prior = prior.on(request.compute)
            fill = fill_with_prior(values, prior, noise=noise, slices_at_once=at_once)
            notes = [sentence, f"between planes: {fill.sentence}"]
            found = _with_samples(values, prior, fill, noise, at_once, request, notes)
        except OSError as error:
            raise ValueError(str(error)) from None
    samples = None if found.samples is None else found.samples + centre
    return found._replace(volume=found.volume + centre, samples=samples)


def offset_of(values: npt.NDArray[Any]) -> Any:
    """What is subtracted before values become float32: the mean of float64 values, 0 of float32 ones."""
    return np.mean(values) if values.dtype == np.float64 else np.float32(0)


def shifted(noise: NoiseModel | float, centre: float) -> NoiseModel | float:
    """The noise model of the same values after `centre` was subtracted from them."""
    if isinstance(noise, NoiseModel) and noise.gain != 0:
        return replace(noise, offset=noise.offset + noise.gain * float(centre))
    return noise


def _with_samples(
    values: Floats,
    prior: LateralPrior,
    fill: PriorFill,
    noise: NoiseModel | float,
    at_once: int,
    request: DiffusionRequest,
    notes: list[str],
) -> Diffused:
    """The fill with the uncertainty that the spread of samples gives, and the samples centred on the fill."""
    factor = prior.axial_factor
    stopped: list[bool] = []

    steps_a_draw = -(-request.samples // 2) * request.steps

    def reporting(first: int) -> Callable[[int, int], bool]:
        def step(number: int, _: int) -> bool:
            if request.report("samples", first + number, 2 * steps_a_draw, math.nan):
                stopped.append(True)
            return bool(stopped)

        return step

    def draw(planes: Floats, keep: bool, first: int) -> PlaneSamples:
        return sample_planes(
            planes, prior, samples=request.samples, steps=request.steps, guidance=request.guidance, seed=request.seed,
            keep=keep, slices_at_once=at_once, callback=reporting(first),
        )  # fmt: skip

    before = draw(fill.turns[0].kept, False, 0)
    drawn = draw(values, request.keep_samples, steps_a_draw)
    if drawn.std is None or before.std is None:
        notes.append(
            "the errors between planes are those that interpolation (kriging) expects, scaled by left-out planes: a "
            "spread needs two samples"
        )
        return Diffused(fill.volume, fill.error, None, tuple(notes))
    deviation = calibrated(fill, drawn.std, before.std, factor=factor, noise=noise)
    deviation[::factor] = fill.error[::factor]
    early = ", stopped early" if stopped else ""
    notes.append(
        f"the errors between planes come from left-out planes and the spread of {drawn.count} samples, stacks that the "
        f"prior holds for possible between the measured planes ({request.steps} steps each{early})"
    )
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
    measured: npt.NDArray[np.bool_],
    request: DiffusionRequest,
) -> Diffused:
    """Correct a denoised volume by a prior, as far as Stein's estimate of the error supports it.

    Parameters
    ----------
    noisy : array (Z, Y, X)
        The volume with white Gaussian noise.
    sigma : float
        Standard deviation of that noise.
    base, base_error : arrays (Z, Y, X)
        The volume denoised by `restore`, and the standard deviation of its error.
    restore : callable
        The denoiser: ``restore(noisy).value`` is the denoised volume.
    measured : bool array (Z, Y, X)
        True = measured. Elsewhere `noisy` holds estimates.
    request : DiffusionRequest

    Raises
    ------
    ValueError
        If a prior cannot be read or written.
    """
    missing = 1 - float(measured.mean())
    if missing > MOST_GAPS:
        note = (
            f"no prior for noise was used: {missing:.0%} of the voxels were not measured, and where more than "
            f"{MOST_GAPS:.0%} are not, nothing tells how much such a prior improves"
        )
        return Diffused(np.asarray(base), np.asarray(base_error), None, (note,))

    centre = offset_of(noisy)
    y, f = (np.asarray(values - centre, np.float32) for values in (noisy, base))
    size = math.sqrt(float(np.mean(np.square(base_error, dtype=np.float64))))
    with settled(request.compute):
        try:
            found, name = _denoised(
                y, sigma, f, size, lambda values: restore(values + centre).value - centre, measured, request
            )
        except OSError as error:
            raise ValueError(str(error)) from None
        notes = (name, f"denoised volume: {found.sentence}")
        volume = np.asarray(found.volume + centre, base.dtype)
        if request.samples < 2 or found.weight == 0:
            scale = found.predicted / size if size > 0 else 1.0
            return Diffused(volume, np.asarray(base_error * scale, base.dtype), None, notes)
        drawn = posterior_samples(
            y, sigma, found, samples=request.samples, steps=request.steps, seed=request.seed,
            progress=lambda step, steps: bool(request.report("samples", step + 1, steps, math.nan)),
        )  # fmt: skip
    shape = np.sqrt(smoothed(drawn.spread) * base_error)
    size = math.sqrt(float(np.mean(np.square(shape, dtype=np.float64))))
    deviation = shape * (found.predicted / size if size > 0 else 0.0)
    return Diffused(
        volume, deviation.astype(base.dtype), drawn.samples + centre if request.keep_samples else None, notes
    )


def _denoised(
    y: Floats,
    sigma: float,
    base: Floats,
    base_error: float,
    restore: Callable[[Floats], npt.NDArray[Any]],
    measured: npt.NDArray[np.bool_],
    request: DiffusionRequest,
) -> tuple[PriorDenoised, str]:
    """The base corrected by the prior given, the one kept, or one fitted now; and a note on where the prior is from."""

    def progress(step: int, steps: int, loss: float, _: float) -> bool:
        return bool(request.report("noise", step, steps, loss))

    cache = None if request.cache is None else request.cache / NOISE
    prior, name = request.prior, request.prior_name
    if prior is None or not is_for_noise(prior):
        prior, name = kept_prior(cache, request.key), f"prior {cache}, fitted earlier"
    if prior is None:
        request.say(f"fitting a prior for noise in {request.fit_steps} steps; the volume is denoised three times more")
    found = denoise_with_prior(
        y, sigma, restore=restore, base=base, base_error=base_error, measured=measured, prior=prior,
        steps=request.fit_steps, seed=request.seed, progress=progress, compute=request.compute,
    )  # fmt: skip
    if prior is None:
        name = f"prior for noise fitted in {found.prior.report['steps']} steps ({found.prior.report['ended']})"
        if cache is not None and not was_stopped(found.prior):
            keep_prior(found.prior, cache, request.key)
    return found, name


def is_for_noise(prior: Any) -> bool:
    """Whether a prior was fitted by :func:`~tensorcell.diffusion_guidance.denoising.denoise_with_prior`."""
    return isinstance(prior, LateralPrior) and prior.report.get("condition") == CONDITION


def prior_for(
    values: Floats, factor: int, noise: NoiseModel | float, request: DiffusionRequest
) -> tuple[LateralPrior, str]:
    """The prior given, the one that an earlier run kept, or one fitted now; and a note on where it is from."""
    given, name = request.prior, request.prior_name
    if given is not None and not is_for_noise(given):
        sigma = noise.sigma if isinstance(noise, NoiseModel) else noise
        return adapted_prior(_checked(given, factor, name), values, sigma), name
    kept = kept_prior(request.cache, request.key)
    if kept is not None:
        _remove_state(_state_of(request))  # a process that was killed after its fit leaves it
        return _checked(kept, factor, str(request.cache)), f"prior {request.cache}, fitted earlier"
    return _fitted(values, factor, request)


def adapted_prior(prior: LateralPrior, values: npt.ArrayLike, sigma: float) -> LateralPrior:
    """The prior in the units of other data, whose noise has the standard deviation `sigma`."""
    # A prior of noisy slices has the units of the slices without their noise, and that must hold here, too.
    from_noisy = prior.lowest_level > LOWEST_LEVEL
    return prior.adapted(values, sigma if from_noisy else 0.0)


def given_prior(given: Any, allow_pickle: bool) -> tuple[LateralPrior | None, str]:
    """The prior that the user gave, as an object or as a path, and what the notes call it.

    Raises
    ------
    ValueError
        If it cannot be read, is no prior, or is for another number of channels than one.
    """
    if given is None:
        return None, ""
    name = f"prior {given}" if isinstance(given, str | os.PathLike) else "the prior given"
    if isinstance(given, str | os.PathLike):
        try:
            given = load_prior(given, channels=1, allow_pickle=allow_pickle)
        except (ValueError, OSError) as error:
            raise ValueError(f"{name}: {error}") from None
    if not isinstance(given, LateralPrior):
        raise ValueError(f"expected a LateralPrior, a path or None as prior, got {type(given).__name__}")
    if given.network.config.channels != 1:
        raise ValueError(f"{name}: this prior is for {given.network.config.channels} channels, got data of 1")
    return given, name


def checked_cache(cache: Any) -> Path | None:
    """The absolute path of a folder for priors, which exists and is writable or can be made.

    Raises
    ------
    ValueError
        If a file has that name, or the folder cannot be written to or holds something else than priors.
    """
    if cache is None:
        return None
    folder = Path(os.path.abspath(cache))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{cache}: expected a folder or a new name as cache, got a file")
    if folder.exists() and not is_cache(folder):
        raise ValueError(f"{cache}: expected the cache of an earlier run or a new name, got a folder of something else")
    above = next(parent for parent in folder.parents if parent.exists())
    if not os.access(folder if folder.exists() else above, os.W_OK):
        raise ValueError(f"{cache}: expected a cache that can be written to, got one that cannot")
    return folder


def is_cache(folder: Path) -> bool:
    """Whether a folder holds priors, those of channels and frames, and states of fits, and nothing else."""
    files = Path(CONFIG), Path(WEIGHTS)
    ours = {str(name) for name in (*files, *map(unfinished, files))}  # a killed process leaves unfinished ones
    return all(
        path.suffix == STATE or is_cache(path) if path.is_dir() else path.name in ours for path in folder.iterdir()
    )


def kept_prior(cache: Path | None, key: str) -> LateralPrior | None:
    """The prior that an earlier run kept under this key, or None.

    Raises
    ------
    ValueError
        If the folder holds a prior of another key: it is neither used nor replaced.
    """
    if cache is None or not (cache / CONFIG).exists():
        return None
    prior = load_prior(cache, channels=1)
    if prior.report.get("key") != key:
        raise ValueError(
            f"{cache}: expected a prior kept for this stack and these options (noise, seed, fit_steps), "
            "got that of others; name another folder"
        )
    return prior


def keep_prior(prior: LateralPrior, cache: Path, key: str) -> None:
    """Save a prior with the key of what it was fitted to."""
    replace(prior, report={**prior.report, "key": key}).save(cache)


def was_stopped(prior: LateralPrior) -> bool:
    """Whether a callback ended the fit of this prior; such a prior is not final and is not kept."""
    return bool(prior.report["ended"] == STOPPED)


def _checked(prior: LateralPrior, factor: int, name: str) -> LateralPrior:
    if prior.axial_factor != factor:
        raise ValueError(f"{name}: expected a prior for axial factor {factor}, got one for {prior.axial_factor}")
    return prior


def _state_of(request: DiffusionRequest) -> Path | None:
    """The folder beside the cache that keeps the state of a stopped fit; None without a cache."""
    cache = request.cache
    return None if cache is None else cache.with_name(f"{cache.name}.{request.key}{STATE}")


def _remove_state(state: Path | None) -> None:
    """Remove the state of a fit that is done, and nothing else that may lie there."""
    if state is None or not state.is_dir():
        return
    for name in ("training_state.json", "training_state.safetensors"):
        for path in (state / name, unfinished(state / name)):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        state.rmdir()


def _fitted(values: Floats, factor: int, request: DiffusionRequest) -> tuple[LateralPrior, str]:
    """A prior fitted to the lateral slices. A cache, where there is one, keeps it, or the state of a stopped fit."""
    compute = Compute(device=request.compute.device)
    cost = estimate_fit(values, steps=request.fit_steps, axial_factor=factor, compute=compute)
    planes = f"{len(values)} planes of {values.shape[1]} x {values.shape[2]}"
    request.say(
        f"fitting a prior to {planes}: about {duration(cost.seconds)} for {request.fit_steps} steps, "
        f"{cost.bytes / 2**20:.0f} MiB; then {request.samples} samples"
    )
    cache, state = request.cache, _state_of(request)
    stopped: list[bool] = []

    def progress(step: int, steps: int, loss: float, heldout: float) -> bool:
        if request.report("prior", step, steps, loss):
            stopped.append(True)
        return bool(stopped)

    resumed = state is not None and (state / "training_state.json").exists()
    prior = fit_lateral_prior(
        values, axial_factor=factor, stretch=matched_stretch(values, factor), steps=request.fit_steps,
        seed=request.seed, progress=progress, initial=state if resumed else shipped_prior(), keep=state,
        compute=compute,
    )  # fmt: skip
    if cache is not None and not was_stopped(prior):
        keep_prior(prior, cache, request.key)
        _remove_state(state)
    said = prior.report
    return prior, f"prior fitted to {planes} in {said['steps']} steps ({said['ended']})"


def slices_that_fit(shape: tuple[int, ...], say: Say, device: torch.device = HOST.device) -> int:
    """Slices in one call of the network: 8, or as many as half of the free memory holds; fewer than 8 are announced."""
    config = SliceNetworkConfig()
    side = max(shape[1:])
    features = sum(6 * config.blocks * width // 4**depth for depth, width in enumerate(config.widths))
    each = 4 * shape[0] * side * features // config.patch**2
    free = free_memory(device)
    if free is None or 8 * each <= free // 2:
        return 8
    fitting = int(max(1, free // 2 // each))
    say(f"memory is short ({free >> 20} MiB free): {fitting} slices at a time instead of 8")
    return fitting


def free_memory(device: torch.device = HOST.device) -> int | None:
    """Free memory of the device in bytes; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


@contextmanager
def settled(compute: Compute = HOST) -> Iterator[None]:
    """Set torch up as it is fastest on CPUs and exact on GPUs, and afterwards as it was.

    On machines of two cores torch gets one thread: with Numba's threads beside them, two are slower. The memory of a
    GPU that torch keeps for later tensors is given back at the end, since CuPy cannot use it.
    """
    before = torch.get_num_threads()
    if (os.cpu_count() or 1) <= 2:
        torch.set_num_threads(1)
    try:
        with without_denormals(), exact_products():
            yield
    finally:
        torch.set_num_threads(before)
        if compute.device.type == "cuda":
            torch.cuda.empty_cache()
