"""Fit a prior to the lateral slices of a volume, or of several; or to the volumes themselves.

A lateral (xy) slice, with all but every s-th row taken away and filled again by interpolation, looks like an axial
slice of a stack whose planes are missing; and the rows that were taken away are known. One network is fitted to
both tasks: denoising at random levels, with and without that condition, and regression (level infinite). Volumes that
were sampled densely along z need no such likeness: :func:`fit_volume_prior` takes away planes of three-dimensional
pieces. Of several volumes each is brought to zero mean and unit deviation by itself.

Noisy slices. With only ``y = x0 + sigma n`` at hand, the slice is noised further, ``x = y + sqrt(l^2 - sigma^2) n'``
with ``l > sigma``. Tweedie's formula for both steps gives the same score, ``(E[x0|x] - x) / l^2 = (E[y|x] - x) /
(l^2 - sigma^2)``, hence ``E[y|x] = x + g (E[x0|x] - x)`` with ``g = 1 - sigma^2 / l^2``. The loss compares that with
`y`, so its minimiser is the denoiser of the clean slices (Daras et al. 2024, "ambient" Tweedie). At ``l = inf``, g = 1.
The rows in the condition must not carry the noise of the target: there `y` is split in two, ``y + sigma m`` for the
condition and ``y - sigma m`` for the target, whose noises (each of variance 2 sigma^2) are independent (Pang et al.
2021, recorrupted to recorrupted); in these rows ``g = 1 - 2 sigma^2 / l^2``. So levels start above ``sqrt(2) sigma``.

References
----------
G. Daras, A. Dimakis, C. Daskalakis, Consistent diffusion meets Tweedie, arXiv:2404.10177. T. Pang et al.,
Recorrupted-to-recorrupted, doi:10.1109/CVPR46437.2021.00208. T. Karras et al., arXiv:2206.00364 (levels, weights).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tensorcell.diffusion_guidance.guidance import tiled
from tensorcell.diffusion_guidance.networks import (
    SliceNetwork,
    SliceNetworkConfig,
    broad,
    preconditioning,
    without_denormals,
)
from tensorcell.diffusion_guidance.priors import (
    LateralPrior,
    VolumePrior,
    fill_network,
    read_json,
    read_safetensors,
    units_of,
    write_json,
    write_weights,
)

Progress = Callable[[int, int, float, float], bool | None]

BATCH, SIDE = 16, 64
"""Pieces of slices a step, and their sides."""

PIECES, PIECE_SIDE = 8, 32
"""Pieces of volumes a step, and their sides."""

VOLUME_CONFIG = SliceNetworkConfig(dimensions=3, widths=(24, 32, 48), blocks=1)
"""0.38 million weights; 0.2 s a step on one core."""

LEARNING_RATE, WARM_UP = 1e-3, 20
REGRESSION, UNCONDITIONAL = 0.4, 0.15
"""Shares of samples at an infinite level, and without a condition."""

LOG_LEVEL, LOG_SPREAD = -1.2, 1.4
"""Mean and deviation of the logarithm of finite levels, near EDM's."""

CHECK_EVERY, PATIENCE = 25, 20
"""Steps between looks at held-out slices, and looks without a better one before it stops."""

STOPPED = "stopped by the caller"

LEAST_MARGIN = 1.1
"""Lowest level trained, over the least one at which the loss is defined."""


class Batch(NamedTuple):
    """What one step sees, in prior units."""

    x: Tensor
    level: Tensor
    condition: Tensor
    target: Tensor
    gain: Tensor
    """``g`` of the module's formulas, per pixel."""


class Pool(NamedTuple):
    """A volume in its own units: what is fitted to, what is held out, and its noise."""

    train: Tensor
    held: Tensor
    noise: float

    @property
    def apart(self) -> bool:
        """Whether what is held out is not fitted to."""
        return self.held is not self.train


class FitEstimate(NamedTuple):
    """Cost of a fit: seconds, and bytes of memory beyond the volume."""

    seconds: float
    bytes: int


def lateral_slices(volume: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Planes (m, Y, X) without a NaN.

    >>> lateral_slices(np.stack([np.ones((8, 9)), np.full((8, 9), np.nan)])).shape
    (1, 8, 9)
    """
    values = np.asarray(volume, dtype=np.float32)
    if values.ndim != 3:
        raise ValueError(f"volume must have three axes (z, y, x), got shape {values.shape}")
    whole = values[~np.isnan(values).any(axis=(1, 2))]
    if not np.isfinite(whole).all():
        raise ValueError("volume must be finite where it was measured, got infinity")
    if not len(whole):
        raise ValueError("volume must have at least one plane measured throughout, got none")
    if min(whole.shape[1:]) < 8:
        raise ValueError(f"planes must be at least 8 x 8, got {whole.shape[1]} x {whole.shape[2]}")
    return whole


def filling_matrix(rows: int, factor: int) -> Tensor:
    """Catmull-Rom interpolation (rows, kept) from rows 0, factor, 2 factor, ...; beyond the last it is repeated.

    >>> filling_matrix(3, 2)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    kept = -(-rows // factor)
    matrix = torch.zeros(rows, kept)
    for row in range(rows):
        near, part = min(row // factor, kept - 1), (row % factor) / factor
        if row >= (kept - 1) * factor:
            part = 0.0
        t, t2, t3 = part, part**2, part**3
        weights = (-t + 2 * t2 - t3, 2 - 5 * t2 + 3 * t3, t + 4 * t2 - 3 * t3, t3 - t2)
        for place, weight in zip(range(near - 1, near + 3), weights, strict=True):
            if weight == 0:
                continue
            if place < 0:  # continue the line through the first two
                pairs = [(0, 2.0), (min(1, kept - 1), -1.0)]
            elif place >= kept:
                pairs = [(kept - 1, 2.0), (max(kept - 2, 0), -1.0)]
            else:
                pairs = [(place, 1.0)]
            for index, share in pairs:
                matrix[row, index] += weight * share / 2
    return matrix


def condition_of(slices: Tensor, factor: int) -> Tensor:
    """The condition (K, C + 1, H, W) of slices (K, C, H, W); only their rows 0, factor, 2 factor, ... are read.

    Of volumes (K, C, Z, Y, X): (K, C + 1, Z, Y, X), from planes 0, factor, 2 factor, ...
    """
    kept = slices[:, :, ::factor]  # (K, C, kept, W)
    filled = torch.einsum("hk,nck...->nch...", filling_matrix(slices.shape[2], factor).to(slices), kept)
    known = torch.zeros_like(filled[:, :1])  # (K, 1, H, W)
    known[:, :, ::factor] = 1
    return torch.cat([filled, known], dim=1)


def matched_stretch(planes: npt.ArrayLike, axial_factor: int, *, noise: float = 0.0) -> float:
    """By what to stretch lateral slices so that they resemble axial ones, read off the measured planes.

    Neighbouring measured planes have a mean squared difference; `d` is the lateral distance in pixels at which it is
    the same. Structures are then ``axial_factor / d`` times as long along z as laterally, counted in voxels: blur
    along z and voxel size are both in it. Between 1/2 and 4.

    >>> from scipy.ndimage import gaussian_filter
    >>> long = gaussian_filter(np.random.default_rng(0).standard_normal((65, 64, 64)), (6, 3, 3))
    >>> 1.6 < matched_stretch(long[::4], 4) < 2.4
    True
    """
    values = lateral_slices(planes)
    if len(values) < 2:
        return 1.0
    wanted = float(np.square(values[1:] - values[:-1]).mean()) - 2 * noise**2
    before = 0.0
    farthest = min(4 * axial_factor, min(values.shape[1:]) - 1)
    distance = float(farthest)
    for d in range(1, farthest + 1):
        along = (values[:, d:] - values[:, :-d], values[:, :, d:] - values[:, :, :-d])
        found = sum(float(np.square(part).mean()) for part in along) / 2 - 2 * noise**2
        if found >= wanted:
            share = (wanted - before) / (found - before) if found > before else 1.0
            distance = d - 1 + max(share, 1e-3)
            break
        before = max(found, 0.0)
    return float(np.clip(axial_factor / distance, 0.5, 4.0))


def regress_planes(prior: LateralPrior, planes: npt.ArrayLike, *, slices_at_once: int = 8) -> npt.NDArray[np.float32]:
    """Measured planes (m, Y, X) -> ((m - 1) s + 1, Y, X): the regression on xz and on yz slices, averaged.

    ``s`` is the prior's ``axial_factor``, the unit that of the data. Measured planes are estimated, too.
    """
    values, factor = lateral_slices(planes), prior.axial_factor
    whole = _gridded(prior, values)  # (Z, Y, X)
    total = torch.zeros_like(whole)
    for axis in (1, 2):
        slices = whole.movedim(axis, 0)  # (K, Z, the other)
        parts = []
        for piece in torch.split(slices[:, None], slices_at_once):
            with torch.no_grad():
                parts.append(prior.denoise(torch.zeros_like(piece), math.inf, condition_of(piece, factor))[:, 0])
        total += torch.cat(parts).movedim(0, axis) / 2
    return prior.restore(total).numpy()


def regress_volume(prior: VolumePrior, planes: npt.ArrayLike, *, tile: int = 64) -> npt.NDArray[np.float32]:
    """Measured planes (m, Y, X) -> ((m - 1) s + 1, Y, X): the regression of a prior on volumes.

    ``s`` is the prior's ``axial_factor``, the unit that of the data. Measured planes are estimated, too. Volumes longer
    than `tile` (rounded to what the network asks for) are cut into tiles that overlap by a quarter.
    """
    values, factor = lateral_slices(planes), prior.axial_factor
    condition = condition_of(_gridded(prior, values)[None, None], factor)  # (1, 2, Z, Y, X)

    def regress(interpolation: Tensor, level: float | Tensor) -> Tensor:
        known = torch.zeros_like(interpolation)  # (1, 1, z, y, x)
        known[:, :, ::factor] = 1  # tiles begin at measured planes
        there = torch.cat([interpolation, known], dim=1)  # (1, 2, z, y, x)
        return prior.denoise(torch.zeros_like(interpolation), level, there)

    strides = (math.lcm(prior.stride, factor), prior.stride, prior.stride)
    tiles = [max(-(-tile // stride), 2) * stride for stride in strides]
    overlaps = [min(side // 4, side - stride) for side, stride in zip(tiles, strides, strict=True)]
    with torch.no_grad():
        found = tiled(regress, tiles, overlaps, strides)(condition[:, :1], math.inf)[0, 0]  # (Z, Y, X)
    return prior.restore(found).numpy()


def _gridded(prior: LateralPrior, values: npt.NDArray[np.float32]) -> Tensor:
    """Planes (m, Y, X) in prior units at 0, s, 2s, ... of a grid ((m - 1) s + 1, Y, X)."""
    grid = np.zeros(((len(values) - 1) * prior.axial_factor + 1, *values.shape[1:]), np.float32)
    grid[:: prior.axial_factor] = values
    return prior.standardise(torch.from_numpy(grid))


def draw_batch(
    slices: Tensor, generator: torch.Generator, *, factor: int, noise: float, stretch: float, batch: int = BATCH
) -> Batch:
    """Random pieces of slices (m, Y, X) with their conditions, levels and targets; noise in prior units.

    Pieces are turned, mirrored, stretched along the decimated axis by 0.8 to 1.25 times `stretch`, and scaled in
    intensity by 0.9 to 1.1. Where there is noise they are not stretched, which would correlate it.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    turned = bool(torch.rand((), generator=generator) < 0.5)
    source = slices.mT if turned else slices
    zoom = stretch * float(uniform(math.log(0.8), math.log(1.25)).exp()) if noise == 0 else 1.0
    height, width = min(SIDE, int(source.shape[1] * zoom)), min(SIDE, source.shape[2])
    height = max((height - 1) // factor * factor + 1, 1)
    taken = min(max(round(height / zoom), 1), source.shape[1])
    pieces = []
    for _ in range(batch):
        k, top, left = (
            int(torch.randint(n, (), generator=generator))
            for n in (len(source), source.shape[1] - taken + 1, source.shape[2] - width + 1)
        )
        piece = source[k, top : top + taken, left : left + width]
        flips = [axis for axis in (0, 1) if torch.rand((), generator=generator) < 0.5]
        pieces.append(piece.flip(flips))
    clean = torch.stack(pieces)[:, None]  # (K, 1, taken, width)
    if taken != height:
        clean = functional.interpolate(clean, (height, width), mode="bicubic", antialias=zoom < 1, align_corners=False)
    return noised(clean, generator, factor=factor, noise=noise)


def draw_pieces(volume: Tensor, generator: torch.Generator, *, factor: int, noise: float, batch: int = PIECES) -> Batch:
    """Random pieces of a volume (Z, Y, X) with their conditions, levels and targets; noise in prior units.

    Pieces are mirrored along each axis, y and x exchanged, and scaled in intensity by 0.9 to 1.1.
    """
    source = volume.mT if torch.rand((), generator=generator) < 0.5 else volume
    sides = [min(PIECE_SIDE, side) for side in source.shape]
    sides[0] = (sides[0] - 1) // factor * factor + 1
    pieces = []
    for _ in range(batch):
        starts = (
            int(torch.randint(whole - side + 1, (), generator=generator))
            for whole, side in zip(source.shape, sides, strict=True)
        )
        piece = source[tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))]
        pieces.append(piece.flip([axis for axis in range(3) if torch.rand((), generator=generator) < 0.5]))
    return noised(torch.stack(pieces)[:, None], generator, factor=factor, noise=noise)


def noised(clean: Tensor, generator: torch.Generator, *, factor: int, noise: float) -> Batch:
    """Pieces (K, 1, H, W) or (K, 1, Z, Y, X) as the network is to see them; axis 2 is the decimated one."""
    batch, height = len(clean), clean.shape[2]
    line = (1, 1, height, *(1,) * (clean.ndim - 3))

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    gains = uniform(0.9, 1.1, batch, *(1,) * (clean.ndim - 1)) if noise == 0 else 1.0
    y = clean * gains  # (K, 1, height, width)

    variance = torch.zeros(line)  # of the target's noise
    seen = y
    if noise > 0:
        variance += noise**2
        variance[:, :, ::factor] *= 2
        split = noise * torch.randn(y.shape, generator=generator)
        seen, rows = y + split, torch.zeros(line)
        rows[:, :, ::factor] = 1
        y = y - rows * split
    condition = condition_of(seen, factor)
    known = factor == 1 and noise == 0  # the condition would be the answer
    dropped = torch.rand(batch, generator=generator) < (1.0 if known else UNCONDITIONAL)
    condition = torch.where(broad(dropped, y), torch.nan, condition)
    lowest = LEAST_MARGIN * math.sqrt(2) * noise
    level = (LOG_LEVEL + LOG_SPREAD * torch.randn(batch, generator=generator)).exp().clamp(1e-2, 80.0)
    level = (level.square() + lowest**2).sqrt()
    infinite = (torch.rand(batch, generator=generator) < REGRESSION) & ~dropped
    added = (broad(level, y).square() - variance).sqrt()  # (K, 1, height, 1)
    x = y + added * torch.randn(y.shape, generator=generator)
    level = torch.where(infinite, torch.inf, level)
    gain = 1 - variance / broad(level, y).square()  # (K, 1, height, 1)
    return Batch(x, level, condition, y, gain)


def denoising_loss(network: SliceNetwork, batch: Batch) -> Tensor:
    """Mean of ``w (x + g (D - x) - target)^2``, ``w = 1 / (tau^2 (1 - a))``: EDM's weight, about this mean."""
    estimate = network(batch.x, batch.level, batch.condition)  # (K, C, H, W)
    infinite = broad(batch.level.isinf(), batch.x)
    start = torch.where(infinite, 0.0, batch.x)
    error = start + batch.gain * (estimate - start) - batch.target
    dropped = batch.condition[:, 0].flatten(1).isnan().all(dim=1)
    free, told = (preconditioning(batch.level, tau)[1] for tau in (1.0, network.config.condition_error))
    size = torch.where(dropped, free, told)
    loss: Tensor = (error / broad(size, error)).square().mean()
    return loss


@dataclass
class TrainingState:
    """All that is needed to go on as if nothing had happened."""

    network: SliceNetwork
    average: SliceNetwork
    best: SliceNetwork
    optimiser: torch.optim.AdamW
    generator: torch.Generator
    step: int = 0
    best_loss: float = math.inf
    since_best: int = 0

    @classmethod
    def begin(cls, config: SliceNetworkConfig, seed: int, weights: dict[str, Tensor] | None = None) -> TrainingState:
        """Fresh, or from the weights of another prior."""
        three = [SliceNetwork(config, seed=seed) for _ in range(3)]
        for network in three:
            if weights is not None:
                fill_network(network, weights, "initial")
        for network in three[1:]:
            network.requires_grad_(False)
        optimiser = torch.optim.AdamW(three[0].parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
        return cls(three[0], three[1], three[2], optimiser, torch.Generator().manual_seed(seed))

    def save(self, folder: str | Path) -> None:
        """Safetensors and JSON in a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"generator": self.generator.get_state()}
        for name in ("network", "average", "best"):
            tensors |= {f"{name}/{key}": value for key, value in getattr(self, name).state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{key}": value for key, value in moments.items()}
        write_weights(tensors, folder / "training_state.safetensors")
        numbers = {"step": self.step, "best_loss": self.best_loss, "since_best": self.since_best}
        write_json({"network": self.network.config.to_dict(), **numbers}, folder / "training_state.json")

    @classmethod
    def load(cls, folder: str | Path) -> TrainingState:
        """Read what :meth:`save` wrote."""
        numbers = read_json(Path(folder) / "training_state.json")
        tensors = read_safetensors(Path(folder) / "training_state.safetensors")
        state = cls.begin(SliceNetworkConfig(**numbers.pop("network")), seed=0)
        grouped: dict[str, dict[str, Any]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            grouped.setdefault(group, {})[rest] = value
        for name in ("network", "average", "best"):
            fill_network(getattr(state, name), grouped.get(name, {}), f"{folder}: {name}")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in grouped.get("optimiser", {}).items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = value
        state.optimiser.load_state_dict({**state.optimiser.state_dict(), "state": moments})
        state.generator.set_state(grouped["generator"][""])
        for name, number in numbers.items():
            setattr(state, name, number)
        return state

    def advance(self, batch: Batch, rate: float) -> float:
        """One step of AdamW, and of the running average of the weights; returns the loss.

        Where the loss or its gradient is not finite nothing changes, and NaN or infinity is returned.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss = denoising_loss(self.network, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        loss.backward()  # type: ignore[no-untyped-call]
        if not torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0).isfinite():
            return math.nan
        self.optimiser.step()
        self.step += 1
        share = 1 / (10 + 0.05 * self.step)  # averages over the last twentieth of the run
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, share)
        return value


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
) -> LateralPrior:
    """Fit a :class:`LateralPrior` to the planes of a volume, or of several, that were measured throughout.

    Parameters
    ----------
    volume : array (Z, Y, X), or a list of such arrays
        NaN = not measured. The planes alone, or on the wanted grid with NaN planes between them. Several may differ in
        shape and unit; each is standardised by itself, and location and scale of the prior are those of all together
        (for use on one of them or on another: :meth:`LateralPrior.adapted`).
    axial_factor : int
        Rows from one kept row to the next in the conditions; 1: a plain prior, condition = the slice itself.
    noise : float, or one a volume
        Standard deviation of the noise in `volume`, in its unit; the prior is then that of the slices without it.
    stretch : float
        By which lateral structures are to be stretched along the decimated axis to look like axial ones.
    seconds, steps
        Budget: the first to be reached ends the fit. With neither, 1500 steps. Only `steps` is reproducible.
    progress : callable, optional
        ``progress(step, steps, loss, heldout)``; True stops.
    initial
        A prior to start from, or a :class:`TrainingState` (or its folder) to go on from.
    keep : path, optional
        Folder for the :class:`TrainingState` at the end, also after a stop by `progress` or Ctrl-C.

    Returns
    -------
    LateralPrior
        The averaged weights with the least held-out loss; ``report["ended"]`` says why it ended.

    Raises
    ------
    ValueError
        Bad input, or a loss that is not finite before there was any good state.
    """
    _check_options(axial_factor, stretch, seconds, steps)
    parts = [lateral_slices(each) for each in _listed(volume)]
    noises = _noises(noise, len(parts))
    pools = [_slice_pool(planes, sigma) for planes, sigma in zip(parts, noises, strict=True)]

    def draw(which: Tensor, sigma: float, generator: torch.Generator, batch: int = BATCH) -> Batch:
        return draw_batch(which, generator, factor=axial_factor, noise=sigma, stretch=stretch, batch=batch)

    network, report = _fit(
        pools, draw, BATCH, config or SliceNetworkConfig(), initial, seed,
        {"seconds": seconds, "steps": steps, "progress": progress, "keep": keep},
    )  # fmt: skip
    report["held_out_slices"] = sum(len(pool.held) for pool in pools if pool.apart)
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
) -> VolumePrior:
    """Fit a :class:`VolumePrior` to pieces of one or many volumes that were sampled densely along z.

    Parameters
    ----------
    volumes : array (Z, Y, X), or a list of such arrays
        Without gaps. Several may differ in shape and unit; each is standardised by itself.
    axial_factor : int
        Planes from one kept plane to the next in the conditions; 1: a plain prior, condition = the volume itself.
    noise, seconds, steps, seed, progress, keep
        As in :func:`fit_lateral_prior`.
    config : SliceNetworkConfig, optional
        With ``dimensions=3``; default ``VOLUME_CONFIG``.
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
        Bad input, or a loss that is not finite before there was any good state.
    """
    _check_options(axial_factor, 1.0, seconds, steps)
    parts = [whole_volume(each, axial_factor) for each in _listed(volumes)]
    noises = _noises(noise, len(parts))
    pools = [_volume_pool(values, sigma) for values, sigma in zip(parts, noises, strict=True)]

    def draw(which: Tensor, sigma: float, generator: torch.Generator, batch: int = PIECES) -> Batch:
        return draw_pieces(which, generator, factor=axial_factor, noise=sigma, batch=batch)

    network, report = _fit(
        pools, draw, PIECES, config or VOLUME_CONFIG, initial, seed,
        {"seconds": seconds, "steps": steps, "progress": progress, "keep": keep},
    )  # fmt: skip
    report["held_out_voxels"] = sum(pool.held.numel() for pool in pools if pool.apart)
    return VolumePrior(network, *units_of(parts, noises), _lowest_level(pools), axial_factor, 1.0, report)


def whole_volume(volume: npt.ArrayLike, axial_factor: int = 1) -> npt.NDArray[np.float32]:
    """A volume (Z, Y, X) without gaps, at least 8 x 8 x 8 and as long along z as one gap.

    >>> whole_volume(np.ones((8, 9, 10))).dtype
    dtype('float32')
    """
    values = np.asarray(volume, dtype=np.float32)
    if values.ndim != 3:
        raise ValueError(f"volume must have three axes (z, y, x), got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("volume must be measured throughout and finite, got NaN or infinity")
    least = max(8, axial_factor + 1)
    if values.shape[0] < least or min(values.shape[1:]) < 8:
        raise ValueError(f"volume must be at least {least} x 8 x 8, got {' x '.join(map(str, values.shape))}")
    return values


def _check_options(axial_factor: int, stretch: float, seconds: float | None, steps: int | None) -> None:
    for name, value, least in (("axial_factor", axial_factor, 1), ("steps", 1 if steps is None else steps, 1)):
        if int(value) != value or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
    if not 0 < stretch < math.inf or (seconds is not None and not seconds > 0):
        raise ValueError(f"stretch and seconds must be positive, got {stretch} and {seconds}")


def _listed(volumes: Any) -> list[Any]:
    """Several volumes are a list or tuple of arrays with three axes each."""
    if isinstance(volumes, list | tuple) and volumes and np.ndim(volumes[0]) == 3:
        return list(volumes)
    return [volumes]


def _noises(noise: float | Sequence[float], count: int) -> list[float]:
    """One deviation a volume."""
    noises = [float(noise)] * count if isinstance(noise, int | float) else [float(each) for each in noise]
    if len(noises) != count:
        raise ValueError(f"noise must be one number or one a volume, {count}, got {len(noises)}")
    for each in noises:
        if not 0 <= each < math.inf:
            raise ValueError(f"noise must be finite and not negative, got {each}")
    return noises


def _slice_pool(planes: npt.NDArray[np.float32], noise: float) -> Pool:
    """Every sixth plane is held out, if there are four."""
    location, scale = units_of([planes], [noise])
    slices = torch.from_numpy((planes - location) / scale)
    if len(slices) < 4:
        return Pool(slices, slices, noise / scale)
    return Pool(slices[[k for k in range(len(slices)) if k % 6 != 2]], slices[2::6], noise / scale)


def _volume_pool(values: npt.NDArray[np.float32], noise: float) -> Pool:
    """The last sixth along x is held out, at least 8 voxels, if there are 24."""
    location, scale = units_of([values], [noise])
    whole = torch.from_numpy((values - location) / scale)
    if whole.shape[2] < 24:
        return Pool(whole, whole, noise / scale)
    cut = whole.shape[2] - max(whole.shape[2] // 6, 8)
    return Pool(whole[:, :, :cut], whole[:, :, cut:], noise / scale)


def _lowest_level(pools: Sequence[Pool]) -> float:
    return max(LEAST_MARGIN * math.sqrt(2) * max(pool.noise for pool in pools), 1e-2)


def _fit(
    pools: Sequence[Pool],
    draw: Callable[..., Batch],
    batch: int,
    config: SliceNetworkConfig,
    initial: LateralPrior | TrainingState | str | Path | None,
    seed: int,
    budget: dict[str, Any],
) -> tuple[SliceNetwork, dict[str, Any]]:
    """Each step sees pieces of one volume, chosen by its share of the voxels."""
    count = len(pools)
    if isinstance(initial, str | Path):
        initial = TrainingState.load(initial)
    if initial is not None and initial.network.config.dimensions != config.dimensions:
        there, wanted = initial.network.config.dimensions, config.dimensions
        raise ValueError(f"initial must be a prior for {wanted} axes, got one for {there}")
    if isinstance(initial, TrainingState):
        state = initial
    elif initial is not None:
        state = TrainingState.begin(initial.network.config, seed, initial.network.state_dict())
    else:
        generator, many = torch.Generator().manual_seed(seed + 1), max(4 * batch // count, 4)
        errors = [_condition_error(draw(pool.train, pool.noise, generator, many), pool.noise) for pool in pools]
        tau = math.hypot(*errors) / math.sqrt(count)
        state = TrainingState.begin(SliceNetworkConfig(**{**config.to_dict(), "condition_error": tau}), seed)

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


def run_training(
    state: TrainingState,
    draw: Callable[[torch.Generator], Batch],
    test: Sequence[Batch],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
    keep: str | Path | None = None,
) -> dict[str, Any]:
    """Fit the state's network to batches; afterwards ``state.best`` holds the averaged weights with the least loss.

    Parameters
    ----------
    state : TrainingState
        Advanced in place.
    draw : callable
        A new batch from the state's generator.
    test : sequence of Batch
        Held out; looked at every ``CHECK_EVERY`` steps.
    seconds, steps, progress, keep
        As in :func:`fit_lateral_prior`.

    Returns
    -------
    dict
        ``steps``, ``seconds``, ``heldout`` (the least held-out loss), ``ended`` (why).

    Raises
    ------
    ValueError
        If the loss is not finite before there was any good state.
    """
    total = steps if steps is not None else (10**9 if seconds is not None else 1500)
    began, ended, heldout = time.perf_counter(), "all steps done", math.nan
    try:
        with without_denormals():
            while state.step < total:
                elapsed = (time.perf_counter() - began) / seconds if seconds is not None else 0.0
                if elapsed >= 1:
                    ended = "time is up"
                    break
                done = max(state.step / total, elapsed)
                rate = LEARNING_RATE * min(1.0, (state.step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done))
                loss = state.advance(draw(state.generator), rate)
                if not math.isfinite(loss):
                    if not math.isfinite(state.best_loss):
                        raise ValueError(f"the loss must be finite, got {loss} at step {state.step + 1}")
                    ended = f"the loss was not finite at step {state.step + 1}: last good state kept"
                    break
                if state.step % CHECK_EVERY == 0 or state.step == total:
                    heldout = _look(state, test)
                    if state.since_best >= PATIENCE:
                        ended = "held-out loss no longer falls"
                        break
                expected = total if elapsed == 0 or steps is not None else max(state.step, round(state.step / elapsed))
                if progress is not None and progress(state.step, expected, loss, heldout):
                    ended = STOPPED
                    break
    finally:
        if keep is not None:
            state.save(keep)
    if not math.isfinite(state.best_loss):
        _look(state, test)
    state.best.eval()
    seconds_taken = round(time.perf_counter() - began, 1)
    return {"steps": state.step, "seconds": seconds_taken, "heldout": state.best_loss, "ended": ended}


def _look(state: TrainingState, test: Sequence[Batch]) -> float:
    """Held-out loss of the averaged weights; the best ones are kept."""
    with torch.inference_mode():
        heldout = float(np.mean([float(denoising_loss(state.average, batch)) for batch in test]))
    state.since_best += 1
    if heldout < state.best_loss:
        state.best.load_state_dict(state.average.state_dict())
        state.best_loss, state.since_best = heldout, 0
    return heldout


def _condition_error(batch: Batch, sigma: float) -> float:
    """Root mean square of ``x0 - c``, the noise of the target taken out."""
    conditioned = ~batch.condition[:, 0].flatten(1).isnan().all(dim=1)
    error = (batch.target - batch.condition[:, :1])[conditioned]
    return math.sqrt(max(float(error.square().mean()) - 2 * sigma**2, 1e-4)) if len(error) else 0.3


def estimate_fit(
    volume: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    steps: int = 1500,
    axial_factor: int = 1,
    config: SliceNetworkConfig | None = None,
) -> FitEstimate:
    """Seconds (from four steps on this machine) and bytes that a fit of so many steps takes.

    With a `config` of three dimensions (``VOLUME_CONFIG``): of :func:`fit_volume_prior`.
    """
    shape = config or SliceNetworkConfig()
    flat = shape.dimensions == 2
    parts = [lateral_slices(each) if flat else whole_volume(each, axial_factor) for each in _listed(volume)]
    largest = max(parts, key=lambda part: part.size)
    data = torch.from_numpy((largest - largest.mean()) / max(float(largest.std()), 1e-12))
    state = TrainingState.begin(shape, seed=0)
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
    voxels = BATCH * SIDE**2 if flat else PIECES * PIECE_SIDE**3
    halvings = 2**shape.dimensions
    features = sum(6 * shape.blocks * width // halvings**depth for depth, width in enumerate(shape.widths))
    kept = voxels // shape.patch**shape.dimensions * features
    return FitEstimate(min(laps[1:]) * steps * 1.1, 4 * (6 * weights + kept + sum(part.size for part in parts)))
