"""Missing planes by the regression of a prior alone: its network at an infinite level, given the measured planes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorcell.diffusion_guidance.exchange import on_host, tensor_of
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior
from tensorcell.diffusion_guidance.slices import condition_of, lateral_slices
from tensorcell.diffusion_guidance.tiles import tiled


def regress_planes(prior: LateralPrior, planes: npt.ArrayLike, *, slices_at_once: int = 8) -> npt.NDArray[np.float32]:
    """Measured planes (m, Y, X) -> ((m - 1) s + 1, Y, X): the mean of the regressions on xz and on yz slices.

    ``s`` is the prior's ``axial_factor``, and the unit is that of the data. Measured planes are estimated, too.
    """
    whole = _gridded(prior, lateral_slices(planes))  # (Z, Y, X)
    total = torch.zeros_like(whole)
    for axis in (1, 2):
        slices = whole.movedim(axis, 0)  # (K, Z, the other)
        total += regress_slices(prior, slices, slices_at_once).movedim(0, axis) / 2
    return on_host(prior.restore(total))


def regress_slices(prior: LateralPrior, slices: Tensor, slices_at_once: int = 8) -> Tensor:
    """Slices (K, H, W) in prior units, of which the prior is given rows 0, s, 2s, ... -> its regression, likewise."""
    parts = []
    for piece in torch.split(slices[:, None], slices_at_once):
        with torch.no_grad():
            condition = condition_of(piece, prior.axial_factor)
            parts.append(prior.denoise(torch.zeros_like(piece), math.inf, condition)[:, 0])
    return torch.cat(parts)


def regress_volume(prior: VolumePrior, planes: npt.ArrayLike, *, tile: int = 64) -> npt.NDArray[np.float32]:
    """Measured planes (m, Y, X) -> ((m - 1) s + 1, Y, X): the regression of a prior on volumes.

    ``s`` is the prior's ``axial_factor``, and the unit is that of the data. Measured planes are estimated, too. Volumes
    longer than `tile` (rounded to what the network asks for) are cut into tiles that overlap by a quarter.
    """
    values, factor = lateral_slices(planes), prior.axial_factor
    condition = condition_of(_gridded(prior, values)[None, None], factor)  # (1, 2, Z, Y, X)

    def regress(interpolation: Tensor, level: float | Tensor) -> Tensor:
        known = torch.zeros_like(interpolation)  # (1, 1, z, y, x)
        known[:, :, ::factor] = 1  # tiles begin at measured planes
        part = torch.cat([interpolation, known], dim=1)  # (1, 2, z, y, x)
        return prior.denoise(torch.zeros_like(interpolation), level, part)

    strides = (math.lcm(prior.stride, factor), prior.stride, prior.stride)
    tiles = [max(-(-tile // stride), 2) * stride for stride in strides]
    overlaps = [min(side // 4, side - stride) for side, stride in zip(tiles, strides, strict=True)]
    with torch.no_grad():
        found = tiled(regress, tiles, overlaps, strides)(condition[:, :1], math.inf)[0, 0]  # (Z, Y, X)
    return on_host(prior.restore(found))


def _gridded(prior: LateralPrior, values: npt.NDArray[np.float32]) -> Tensor:
    """Planes (m, Y, X) in prior units at 0, s, 2s, ... of a grid ((m - 1) s + 1, Y, X)."""
    grid = np.zeros(((len(values) - 1) * prior.axial_factor + 1, *values.shape[1:]), np.float32)
    grid[:: prior.axial_factor] = values
    return prior.standardise(tensor_of(grid, prior.device))
