"""Lateral slices and what they have in common with axial ones: gaps, their filling, and the stretch between the two.

A lateral (xy) slice from which all but every s-th row was taken away looks like an axial slice of a stack whose planes
are missing, and the rows that were taken away are known. The *condition* of a network holds the rows between filled by
interpolation, and where rows were measured.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional


def lateral_slices(volume: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The planes (m, Y, X) of a volume that were measured throughout.

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


def whole_volume(volume: npt.ArrayLike, axial_factor: int = 1) -> npt.NDArray[np.float32]:
    """A volume (Z, Y, X) without gaps as float32. It must be at least 8 x 8 x 8, and longer along z than one gap.

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


def filling_matrix(rows: int, factor: int) -> Tensor:
    """Matrix (rows, kept) of the Catmull-Rom interpolation from rows 0, factor, 2 factor, ...

    Rows beyond the last kept one are equal to it.

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
    """The factor by which lateral slices must be stretched to resemble axial ones, from the measured planes.

    Let `d` be the lateral distance in pixels at which the mean squared difference is the same as between neighbouring
    measured planes. Then structures are ``axial_factor / d`` times as long along z as laterally, counted in voxels; the
    factor holds the blur along z and the size of the voxels. It is limited to 1/2 to 4.

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


def resized(slices: npt.NDArray[np.float32], height: int, stretch: float) -> npt.NDArray[np.float32]:
    """The first rows of slices ``(K, H, W)``, stretched along H to so many rows ``(K, height, W)``."""
    taken = min(max(round(height / stretch), 1), slices.shape[1])
    part = torch.from_numpy(np.ascontiguousarray(slices[:, :taken]))
    return stretched(part[:, None], height)[:, 0].numpy()


def stretched(slices: Tensor, height: int) -> Tensor:
    """Slices ``(K, C, H, W)`` with so many rows, by bicubic interpolation; the same slices if they have as many."""
    if slices.shape[2] == height:
        return slices
    shape, fewer = (height, slices.shape[3]), height < slices.shape[2]
    return functional.interpolate(slices, shape, mode="bicubic", antialias=fewer, align_corners=False)
