"""Measured planes in, a restored stack out, in the unit of the measurement: what ``recover`` asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tensorcell.diffusion_guidance.compute import Compute, Precision
from tensorcell.diffusion_guidance.exchange import on_host, tensor_of
from tensorcell.diffusion_guidance.microdiffuse3d.calibration import HeldOut, RestoredExample, held_out
from tensorcell.diffusion_guidance.microdiffuse3d.consistency import (
    Scale,
    brought_into_agreement,
    misfit_of,
    residual_of,
    scale_of,
)
from tensorcell.diffusion_guidance.microdiffuse3d.data import Example, Sources, Span
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation, enlarged, pixels_of
from tensorcell.diffusion_guidance.microdiffuse3d.images import ImageEncoder
from tensorcell.diffusion_guidance.microdiffuse3d.likeness import Likeness
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import OVERLAP, STEPS, TILE, Parts, Restored, restored
from tensorcell.diffusion_guidance.options import SMALLEST_TILE

Floats = npt.NDArray[np.floating]
Report = Callable[[int, int], bool]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Fitted networks with what is known of them.

    Attributes
    ----------
    parts : Parts
    acquisition : Degradation
        What the network undoes.
    held_out : HeldOut or None
        None: nothing was held out, so that the errors are not calibrated.
    """

    parts: Parts
    acquisition: Degradation
    held_out: HeldOut | None = None
    likeness: Likeness | None = None
    """Where the scans lie that the networks were fitted to; None: not known."""
    images: ImageEncoder | None = None
    """The frozen encoder whose features the network is told; it is not part of the folder."""
    precision: Precision = "float32"
    """In which the networks multiply."""

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return next(self.parts.network.parameters()).device

    def on(self, compute: Compute) -> Model:
        """The model computed there and in that precision; the networks themselves are moved."""
        for each in (*self.parts, self.images):
            if isinstance(each, nn.Module):
                each.to(compute.device)
        return replace(self, precision=compute.precision)


class RestoredScan(NamedTuple):
    """A restored stack, in the unit of the measurement."""

    volume: Floats
    """``(D, H, W)``: the mean of the samples."""
    error: Floats
    """Standard deviation of its error; that of the samples where nothing was held out."""
    samples: Floats
    """``(K, D, H, W)``."""
    misfit: float
    """Difference from the measurement before it was put back: see :class:`HeldOut`."""
    stopped: bool
    side: int
    """Of the tiles: smaller than asked for where memory ran out."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn."""

    samples: int = 8
    steps: int = STEPS
    order: int = 1
    method: Any = "ode"
    consistent: bool = True
    """Whether samples are brought into agreement with the measurement."""
    low_rank: bool = False
    """Whether estimates of the latent are projected to low rank at every step."""
    side: int = TILE[1]
    """Largest side of the tiles in pixels."""

    @property
    def overlap(self) -> tuple[int, int, int]:
        """What neighbouring tiles share."""
        lateral = min(OVERLAP[1], self.side // 4)
        return OVERLAP[0], lateral, lateral


def strangeness(planes: npt.ArrayLike, model: Model) -> float:
    """How far measured planes ``(d, h, w)`` are from those that the networks were fitted to: see :data:`.likeness.FAR`.

    0 where that is not known.
    """
    values = np.asarray(planes)
    return 0.0 if model.likeness is None else model.likeness.strangeness(Span.of(values).normalised(values))


def restore_scan(
    planes: npt.ArrayLike, model: Model, sampling: Sampling, *, variance: npt.ArrayLike = 0.0, seed: int = 0,
    report: Report | None = None,
) -> RestoredScan:  # fmt: skip
    """Restore measured planes.

    Parameters
    ----------
    planes : array ``(d, h, w)``
        Planes 0, s, 2s, ... of the wanted stack, in pixels of the lateral factor of the model's acquisition, without
        gaps, in any unit.
    model : Model
    sampling : Sampling
    variance : float, or array like `planes`
        Of the noise of the planes.
    seed : int
    report : callable ``(step, steps) -> bool``
        True stops the sampler.

    Returns
    -------
    RestoredScan
        Of ``(d - 1) s + 1`` planes of ``lateral_factor`` times the sides.
    """
    given = np.asarray(planes)
    span = Span.of(given)
    size = span.high - span.low
    noise = np.broadcast_to(np.asarray(variance, dtype=np.float64) / size**2, given.shape)
    measured, floor = (
        tensor_of(np.array(each, dtype=np.float32), model.device)[None, None]
        for each in (span.normalised(given), noise)
    )
    found, side = _within_memory(measured, floor, model, sampling, seed, report)
    wanted = (len(given) - 1) * model.acquisition.axial_factor + 1
    slope = found.scale.slope * size
    start = found.scale.offset * size + span.low
    samples = (slope * found.samples[:, :wanted] + start).astype(given.dtype, copy=False)
    volume = (slope * found.mean[:wanted] + start).astype(given.dtype, copy=False)
    error = (slope * found.width[:wanted]).astype(given.dtype, copy=False)
    return RestoredScan(volume, error, samples, found.misfit, found.stopped, side)


def calibrated_model(
    model: Model, data: Sources, sampling: Sampling, *, examples: int = 12, seed: int = 0,
    without: Callable[[Floats], Floats | None] | None = None, **options: Any,
) -> Model:  # fmt: skip
    """The model with the errors that it makes at held-out examples, and where the scans lie that it was fitted to.

    Parameters
    ----------
    model : Model
    data : Sources
        Examples come at the lateral size of the truth, interpolated from the measured pixels. The noise is estimated
        from all of them, as from a scan.
    sampling : Sampling
    examples, seed : int
    without : callable, optional
        What is returned where the networks are not used: measured planes ``(d, h, w)`` to a volume ``(D, H, W)`` in any
        scale, or None where there is nothing.
    options
        `seconds` of :func:`.calibration.held_out`.
    """
    from scipy.ndimage import uniform_filter

    from tensorcell.solvers import estimate_noise

    acquisition = model.acquisition
    factor, generator = acquisition.lateral_factor, torch.Generator().manual_seed(seed)
    drawn = [_without_beyond(data.held(1, generator)) for _ in range(examples)]
    noise = estimate_noise(torch.cat([pixels_of(each.volume, factor)[0, 0] for each in drawn]).numpy())

    def restore(example: Example, generator: torch.Generator) -> RestoredExample:
        measured = pixels_of(example.volume, factor)
        around = uniform_filter(measured.numpy(), (1, 1, 1, 3, 3))  # the noise of a voxel must not tell its variance
        variance = torch.from_numpy(np.asarray(noise.variance(around), np.float32))
        found = _restored(measured, variance, replace(model, held_out=None), sampling, generator, None)
        true = scale_of(example.truth, measured, acquisition)  # as the truth is to be put into the scan's unit
        depth = example.truth.shape[2]
        mean, single = (
            (found.scale.slope * each[:depth] + found.scale.offset - true.offset) / true.slope
            for each in (found.mean, found.samples[0])
        )
        other = None if without is None else without(measured.numpy()[0, 0])
        return RestoredExample(mean, found.width[:depth], single, found.misfit, other)

    errors = held_out(restore, drawn, samples=sampling.samples, steps=sampling.steps, seed=seed, **options)
    return replace(model, held_out=errors, likeness=Likeness.of(data.train, factor, seed=seed))


def _without_beyond(example: Example) -> Example:
    """The example without the planes after the last measured one, which no stack has, and which are hardest to tell."""
    factor = example.truth.shape[2] // example.volume.shape[2]
    return Example(example.volume, example.truth[:, :, : factor * (example.volume.shape[2] - 1) + 1])


class _Found(NamedTuple):
    """Samples in intensities of the truth, and how these become normalised measured ones."""

    mean: npt.NDArray[np.float64]
    width: npt.NDArray[np.floating]
    samples: npt.NDArray[np.float64]
    scale: Scale
    misfit: float
    stopped: bool


def _within_memory(
    measured: Tensor, variance: Tensor, model: Model, sampling: Sampling, seed: int, report: Report | None
) -> tuple[_Found, int]:
    """Samples, from smaller tiles where memory runs out; also the side of the tiles."""
    side = sampling.side
    while True:
        try:
            tried = replace(sampling, side=side)
            return _restored(measured, variance, model, tried, torch.Generator().manual_seed(seed), report), side
        except RuntimeError as error:  # torch's OutOfMemoryError is one; that of the CPU's allocator has no class
            if "memory" not in str(error) or side // 2 < SMALLEST_TILE:
                raise
            side //= 2


def _restored(
    measured: Tensor, variance: Tensor, model: Model, sampling: Sampling, generator: torch.Generator,
    report: Report | None,
) -> _Found:  # fmt: skip
    """Samples of the volume behind normalised planes ``(1, 1, d, h, w)``; all groups of planes are whole."""
    acquisition, stopped = model.acquisition, []

    def callback(step: int, steps: int, _: Tensor) -> bool:
        if report is not None and report(step, steps):
            stopped.append(True)
        return bool(stopped)

    drawn: Restored = restored(
        enlarged(measured, acquisition.lateral_factor)[0], measured.shape[2] * acquisition.axial_factor, model.parts,
        steps=sampling.steps, samples=sampling.samples, order=sampling.order, method=sampling.method,
        images=model.images, low_rank=sampling.low_rank,
        tile=(TILE[0], sampling.side, sampling.side), overlap=sampling.overlap,
        generator=generator, callback=callback, precision=model.precision,
    )  # fmt: skip
    scale = scale_of(drawn.mean[None], measured, acquisition)
    seen = (measured - scale.offset * acquisition.expected(torch.ones_like(drawn.mean[None]))) / scale.slope
    noise = variance / scale.slope**2
    misfit = misfit_of(residual_of(drawn.mean[None], seen, acquisition), noise, seen)
    samples = drawn.samples
    if sampling.consistent:
        samples = torch.cat([brought_into_agreement(one[None], seen, noise, acquisition) for one in samples])
    final = on_host(samples.double())[:, 0]
    mean = final.mean(axis=0)
    spread = final.std(axis=0, ddof=min(1, len(final) - 1))
    changed = mean - on_host(drawn.mean[0].double())
    width = _width(model.held_out, mean, np.hypot(spread, changed), misfit, sampling)
    return _Found(mean, width, final, scale, misfit, bool(stopped))


def _width(
    errors: HeldOut | None, mean: Any, shape: Any, misfit: float, sampling: Sampling
) -> npt.NDArray[np.floating]:
    """Standard deviations; larger than at held-out examples by as much as the misfit is."""
    if errors is None:
        return np.asarray(shape)
    width = errors.width(mean, shape, samples=sampling.samples, steps=sampling.steps)
    return np.asarray(width * max(1.0, errors.excess(misfit)))
