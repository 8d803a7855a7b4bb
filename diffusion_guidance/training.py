"""Fit a prior to the lateral slices of a volume, or of several; or to the volumes themselves.

A lateral (xy) slice, with all but every s-th row taken away and filled again by interpolation, looks like an axial
slice of a stack whose planes are missing; and the rows that were taken away are known. One network is fitted to
two tasks: denoising at random levels, with and without that condition, and regression (level infinite). Volumes that
were sampled densely along z need no such likeness: :func:`fit_volume_prior` takes planes of three-dimensional pieces
away. Each of several volumes is brought to zero mean and unit standard deviation by itself. Slices may be noisy:
:mod:`~tensorcell.diffusion_guidance.batches` says how the prior of the clean slices follows from them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorcell.diffusion_guidance import batches
from tensorcell.diffusion_guidance.batches import BATCH, LEAST_MARGIN, PIECES, Batch, draw_batch, draw_pieces
from tensorcell.diffusion_guidance.compute import Compute
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior, units_of
from tensorcell.diffusion_guidance.slices import lateral_slices, whole_volume
from tensorcell.diffusion_guidance.training_loop import Progress, TrainingState, run_training

VOLUME_CONFIG = SliceNetworkConfig(dimensions=3, widths=(24, 32, 48), blocks=1)
"""The network for volumes: 0.38 million weights; 0.2 s a step on one core."""


class Pool(NamedTuple):
    """A volume in its own units: the part for the fit, the part that is held out, and the noise."""

    train: Tensor
    held: Tensor
    """The same tensor as `train` where the volume is too small to hold a part of it out."""
    noise: float

    @property
    def separate(self) -> bool:
        """Whether the part that is held out is not fitted to."""
        return self.held is not self.train


class FitEstimate(NamedTuple):
    """Cost of a fit in seconds, and in bytes of memory beyond the volume."""

    seconds: float
    bytes: int


def fit_lateral_prior(
    volume: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    axial_factor: int = 1,
    noise: float | Sequence[float] = 0.0,
    stretch: float = 1.0,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    config: SliceNetworkConfig | None = None,
    progress: Progress | None = None,
    initial: LateralPrior | TrainingState | str | Path | None = None,
    keep: str | Path | None = None,
    compute: Compute | None = None,
) -> LateralPrior:
    """Fit a :class:`LateralPrior` to the planes of a volume, or of several, that were measured throughout.

    Parameters
    ----------
    volume : array (Z, Y, X), or a list of such arrays
        NaN = not measured. The measured planes alone, or on the wanted grid with NaN planes between them. Several
        volumes may differ in shape and unit; each is standardised by itself, and location and scale of the prior are
        those of all together (:meth:`LateralPrior.adapted` makes it fit one of them, or another).
    axial_factor : int
        Rows from one kept row to the next in the conditions; 1: a plain prior, whose condition is the slice itself.
    noise : float, or one a volume
        Standard deviation of the noise in `volume`, in its unit; the prior is that of the slices without the noise.
    stretch : float
        The factor by which lateral structures are stretched along the decimated axis to look like axial ones.
    seconds, steps
        Budget: the first to be reached ends the fit. With neither, 1500 steps. Only `steps` is reproducible.
    progress : callable, optional
        ``progress(step, steps, loss, heldout)``; True stops the fit.
    initial
        A prior to start from, or a :class:`TrainingState` (or its folder) to go on from.
    keep : path, optional
        Folder that keeps the :class:`TrainingState` at the end, also after a stop by `progress` or Ctrl-C.
    compute : Compute, optional
        Where and in which precision it is fitted; this CPU and float32 where not given, and that of an `initial` state.

    Returns
    -------
    LateralPrior
        The averaged weights with the least held-out loss; ``report["ended"]`` says why it ended.

    Raises
    ------
    ValueError
        If the input cannot be used, or the loss is not finite before there was any good state.
    """
    _check_options(axial_factor, stretch, seconds, steps)
    parts = [lateral_slices(each) for each in _listed(volume)]
    noises = _noises(noise, len(parts))
    pools = [_slice_pool(planes, sigma) for planes, sigma in zip(parts, noises, strict=True)]

    def draw(which: Tensor, sigma: float, generator: torch.Generator, batch: int = BATCH) -> Batch:
        return draw_batch(which, generator, factor=axial_factor, noise=sigma, stretch=stretch, batch=batch)

    network, report = _fit(
        pools, draw, BATCH, config or SliceNetworkConfig(), initial, seed,
        {"seconds": seconds, "steps": steps, "progress": progress, "keep": keep}, compute,
    )  # fmt: skip
    report["held_out_slices"] = sum(len(pool.held) for pool in pools if pool.separate)
    return LateralPrior(network, *units_of(parts, noises), _lowest_level(pools), axial_factor, stretch, report)


def fit_volume_prior(
    volumes: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    axial_factor: int = 1,
    noise: float | Sequence[float] = 0.0,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    config: SliceNetworkConfig | None = None,
    progress: Progress | None = None,
    initial: VolumePrior | TrainingState | str | Path | None = None,
    keep: str | Path | None = None,
    compute: Compute | None = None,
) -> VolumePrior:
    """Fit a :class:`VolumePrior` to pieces of one or many volumes that were sampled densely along z.

    Parameters
    ----------
    volumes : array (Z, Y, X), or a list of such arrays
        Without gaps. Several may differ in shape and unit; each is standardised by itself.
    axial_factor : int
        Planes from one kept plane to the next in the conditions; 1: a plain prior, whose condition is the volume.
    noise, seconds, steps, seed, progress, keep, compute
        As in :func:`fit_lateral_prior`.
    config : SliceNetworkConfig, optional
        Shape of the network, with ``dimensions=3``; ``VOLUME_CONFIG`` where not given.
    initial
        A prior to start from, or a :class:`TrainingState` (or its folder) to go on from.

    Returns
    -------
    VolumePrior
        The averaged weights with the least loss in the parts held out: a sixth of each volume, at the end of its x axis
        (none if x is shorter than 24).

    Raises
    ------
    ValueError
        If the input cannot be used, or the loss is not finite before there was any good state.
    """
    _check_options(axial_factor, 1.0, seconds, steps)
    parts = [whole_volume(each, axial_factor) for each in _listed(volumes)]
    noises = _noises(noise, len(parts))
    pools = [_volume_pool(values, sigma) for values, sigma in zip(parts, noises, strict=True)]

    def draw(which: Tensor, sigma: float, generator: torch.Generator, batch: int = PIECES) -> Batch:
        return draw_pieces(which, generator, factor=axial_factor, noise=sigma, batch=batch)

    network, report = _fit(
        pools, draw, PIECES, config or VOLUME_CONFIG, initial, seed,
        {"seconds": seconds, "steps": steps, "progress": progress, "keep": keep}, compute,
    )  # fmt: skip
    report["held_out_voxels"] = sum(pool.held.numel() for pool in pools if pool.separate)
    return VolumePrior(network, *units_of(parts, noises), _lowest_level(pools), axial_factor, 1.0, report)


def _check_options(axial_factor: int, stretch: float, seconds: float | None, steps: int | None) -> None:
    """Raise a ValueError where a number is out of its range."""
    for name, value, least in (("axial_factor", axial_factor, 1), ("steps", 1 if steps is None else steps, 1)):
        if int(value) != value or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
    if not 0 < stretch < math.inf or (seconds is not None and not seconds > 0):
        raise ValueError(f"stretch and seconds must be positive, got {stretch} and {seconds}")


def _listed(volumes: Any) -> list[Any]:
    """The volumes as a list; several are given as a list or tuple of arrays with three axes each."""
    if isinstance(volumes, list | tuple) and volumes and np.ndim(volumes[0]) == 3:
        return list(volumes)
    return [volumes]


def _noises(noise: float | Sequence[float], count: int) -> list[float]:
    """The standard deviation of the noise of each volume."""
    noises = [float(noise)] * count if isinstance(noise, int | float) else [float(each) for each in noise]
    if len(noises) != count:
        raise ValueError(f"noise must be one number or one a volume, {count}, got {len(noises)}")
    for each in noises:
        if not 0 <= each < math.inf:
            raise ValueError(f"noise must be finite and not negative, got {each}")
    return noises


def _slice_pool(planes: npt.NDArray[np.float32], noise: float) -> Pool:
    """The planes, of which every sixth is held out where there are at least four."""
    location, scale = units_of([planes], [noise])
    slices = torch.from_numpy((planes - location) / scale)
    if len(slices) < 4:
        return Pool(slices, slices, noise / scale)
    return Pool(slices[[k for k in range(len(slices)) if k % 6 != 2]], slices[2::6], noise / scale)


def _volume_pool(values: npt.NDArray[np.float32], noise: float) -> Pool:
    """The volume, of which the last sixth along x (at least 8 voxels) is held out where there are at least 24."""
    location, scale = units_of([values], [noise])
    whole = torch.from_numpy((values - location) / scale)
    if whole.shape[2] < 24:
        return Pool(whole, whole, noise / scale)
    cut = whole.shape[2] - max(whole.shape[2] // 6, 8)
    return Pool(whole[:, :, :cut], whole[:, :, cut:], noise / scale)


def _lowest_level(pools: Sequence[Pool]) -> float:
    """The lowest level that the prior learns: that of the noisiest volume, and at least 0.01."""
    return max(LEAST_MARGIN * math.sqrt(2) * max(pool.noise for pool in pools), 1e-2)


def _fit(
    pools: Sequence[Pool],
    draw: Callable[..., Batch],
    batch: int,
    config: SliceNetworkConfig,
    initial: LateralPrior | TrainingState | str | Path | None,
    seed: int,
    budget: dict[str, Any],
    compute: Compute | None,
) -> tuple[SliceNetwork, dict[str, Any]]:
    """The fitted network and the report of the fit. A step takes pieces of one volume, by its share of voxels."""
    count = len(pools)
    if isinstance(initial, str | Path):
        initial = TrainingState.load(initial, compute)
    if initial is not None and initial.network.config.dimensions != config.dimensions:
        there, wanted = initial.network.config.dimensions, config.dimensions
        raise ValueError(f"initial must be a prior for {wanted} axes, got one for {there}")
    if isinstance(initial, TrainingState):
        state = initial
    elif initial is not None:
        state = TrainingState.begin(initial.network.config, seed, initial.network.state_dict(), compute)
    else:
        generator, many = torch.Generator().manual_seed(seed + 1), max(4 * batch // count, 4)
        errors = [_condition_error(draw(pool.train, pool.noise, generator, many), pool.noise) for pool in pools]
        tau = math.hypot(*errors) / math.sqrt(count)
        state = TrainingState.begin(
            SliceNetworkConfig(**{**config.to_dict(), "condition_error": tau}), seed, compute=compute
        )

    many = batch if count <= 2 else max(2 * batch // count, 4)
    test = []
    for k in range(max(2, count)):
        pool = pools[k % count]
        test.append(draw(pool.held, pool.noise, torch.Generator().manual_seed(seed + 2 + k), many))
    shares = torch.tensor([float(pool.train.numel()) for pool in pools])

    def next_batch(generator: torch.Generator) -> Batch:
        chosen = pools[0 if count == 1 else int(torch.multinomial(shares, 1, generator=generator))]
        return draw(chosen.train, chosen.noise, generator)

    return state.best, run_training(state, next_batch, test, **budget)


def _condition_error(batch: Batch, sigma: float) -> float:
    """Root mean square of ``x0 - c``, without the noise of the target."""
    conditioned = ~batch.condition[:, 0].flatten(1).isnan().all(dim=1)
    error = (batch.target - batch.condition[:, :1])[conditioned]
    return math.sqrt(max(float(error.square().mean()) - 2 * sigma**2, 1e-4)) if len(error) else 0.3


def estimate_fit(
    volume: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    steps: int = 1500,
    axial_factor: int = 1,
    config: SliceNetworkConfig | None = None,
    compute: Compute | None = None,
) -> FitEstimate:
    """Seconds (from four steps on this machine) and bytes that a fit of so many steps takes.

    A `config` of three dimensions, such as ``VOLUME_CONFIG``, asks for the cost of :func:`fit_volume_prior`.
    `compute` is that of the fit.
    """
    shape = config or SliceNetworkConfig()
    flat = shape.dimensions == 2
    parts = [lateral_slices(each) if flat else whole_volume(each, axial_factor) for each in _listed(volume)]
    largest = max(parts, key=lambda part: part.size)
    data = torch.from_numpy((largest - largest.mean()) / max(float(largest.std()), 1e-12))
    state = TrainingState.begin(shape, seed=0, compute=compute)
    laps = []
    for _ in range(4):
        began = time.perf_counter()
        if flat:
            batch = draw_batch(data, state.generator, factor=axial_factor, noise=0.0, stretch=1.0)
        else:
            batch = draw_pieces(data, state.generator, factor=axial_factor, noise=0.0)
        state.advance(batch, 1e-4)
        laps.append(time.perf_counter() - began)
    weights = sum(value.numel() for value in state.network.parameters())
    voxels = BATCH * batches.SIDE**2 if flat else PIECES * batches.PIECE_SIDE**3
    halvings = 2**shape.dimensions
    features = sum(6 * shape.blocks * width // halvings**depth for depth, width in enumerate(shape.widths))
    kept = voxels // shape.patch**shape.dimensions * features
    return FitEstimate(min(laps[1:]) * steps * 1.1, 4 * (6 * weights + kept + sum(part.size for part in parts)))
