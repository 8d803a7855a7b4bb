"""What a network is shown at one step of its fit: random pieces, their conditions, noise levels and targets.

Noisy slices. With only ``y = x0 + sigma n`` at hand, the slice is noised further, ``x = y + sqrt(l^2 - sigma^2) n'``
with ``l > sigma``. Tweedie's formula for both steps gives the same score, ``(E[x0|x] - x) / l^2 = (E[y|x] - x) /
(l^2 - sigma^2)``, hence ``E[y|x] = x + g (E[x0|x] - x)`` with ``g = 1 - sigma^2 / l^2``. The loss compares that with
`y`, so that its minimiser is the denoiser of the clean slices (Daras et al. 2024, "ambient" Tweedie). At ``l = inf``,
g = 1. The rows in the condition must not carry the noise of the target: there `y` is split in two, ``y + sigma m`` for
the condition and ``y - sigma m`` for the target, whose noises (each of variance 2 sigma^2) are independent (Pang et al.
2021, recorrupted to recorrupted); in these rows ``g = 1 - 2 sigma^2 / l^2``. So levels start above ``sqrt(2) sigma``.

References
----------
G. Daras, A. Dimakis, C. Daskalakis, Consistent diffusion meets Tweedie, arXiv:2404.10177. T. Pang et al.,
Recorrupted-to-recorrupted, doi:10.1109/CVPR46437.2021.00208. T. Karras et al., arXiv:2206.00364 (levels, weights).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.networks import SliceNetwork, broad, preconditioning
from tensorcell.diffusion_guidance.slices import condition_of, stretched

BATCH, SIDE = 16, 64
"""Number of pieces of slices in a step, and their sides in pixels."""

PIECES, PIECE_SIDE = 8, 32
"""Number of pieces of volumes in a step, and their sides in voxels."""

REGRESSION, UNCONDITIONAL = 0.4, 0.15
"""Shares of the samples at an infinite level, and without a condition."""

LOG_LEVEL, LOG_SPREAD = -1.2, 1.4
"""Mean and standard deviation of the logarithm of finite levels, near EDM's."""

LEAST_MARGIN = 1.1
"""The lowest level that is trained, over the lowest one at which the loss is defined."""


class Batch(NamedTuple):
    """What the network is shown in one step, in prior units."""

    x: Tensor
    level: Tensor
    condition: Tensor
    target: Tensor
    gain: Tensor
    """``g`` of the module's formulas, per pixel."""


def draw_batch(
    slices: Tensor, generator: torch.Generator, *, factor: int, noise: float, stretch: float, batch: int = BATCH
) -> Batch:
    """Random pieces of slices (m, Y, X) with their conditions, levels and targets; noise in prior units.

    Pieces are turned, mirrored, stretched along the decimated axis by 0.8 to 1.25 times `stretch`, and scaled in
    intensity by 0.9 to 1.1. Noisy pieces are not stretched, because that would correlate their noise.
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
    clean = stretched(torch.stack(pieces)[:, None], height)  # (K, 1, height, width)
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
    """Pieces (K, 1, H, W) or (K, 1, Z, Y, X) with levels, noise, conditions and targets; axis 2 is decimated."""
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
    free, conditioned = (preconditioning(batch.level, tau)[1] for tau in (1.0, network.config.condition_error))
    size = torch.where(dropped, free, conditioned)
    loss: Tensor = (error / broad(size, error)).square().mean()
    return loss
