"""What a completion by groups of patches starts from: checked data, the noise levels of its sweeps, a first guess.

The symbols are those of :mod:`tensorcell.solvers.local`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .arrays import Array, namespace_of, ndimage, scalar
from .patch_groups import Box, Drift, Geometry, PatchOptions, fitted, in_rim

ROUNDING = 2.0**-24
"""Deviations below this share of the root mean square of the data are rounding: data are computed on in float32."""


SWEPT = 0.75
"""Share of the rim of a part that the sweeps complete: the rest keeps its first guess."""


class Completion(NamedTuple):
    """What all sweeps of a completion share."""

    y: Array
    """``W Y`` less the mean of the measured voxels, in float32."""
    mask: Array
    norm: float
    """``||W Y||``, the mean included."""
    levels: tuple[float, ...]
    """``s_j``; none where every voxel was measured, or where all measured ones have one value but for rounding."""
    robust: bool
    geometry: Geometry
    """Patches of the sweeps."""
    near: Array | None = None
    """True at what is wanted and in most of the rim around it; None: everywhere."""

    @property
    def wanted(self) -> Array | None:
        """Voxels that the sweeps estimate: all where measured ones are judged, too; otherwise the missing ones."""
        if self.robust:
            return self.near
        return ~self.mask if self.near is None else self.near & ~self.mask


def checked(
    data: Array, mask: Array | None, noise: float, overwrite: bool = False, centre: float | None = None
) -> tuple[Array, Array, float]:
    """Measured data less their mean in float32 (0 elsewhere), the mask, the mean; data may be written over if told.

    Another number that is given is subtracted in place of the mean.
    """
    xp = namespace_of(data, mask)
    if data.ndim not in (3, 4):
        raise ValueError(f"expected 3 axes (z, y, x) or 4 (t, z, y, x), got {data.ndim}")
    if not (xp.isdtype(data.dtype, "real floating") or xp.isdtype(data.dtype, ("bool", "integral"))):
        raise TypeError(f"expected real numbers, got dtype {data.dtype}")
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"expected noise as a standard deviation of at least 0, got {noise}")
    overwrite = overwrite and mask is None and data.dtype == xp.float32
    if mask is None:
        mask = xp.broadcast_to(xp.ones((), dtype=xp.bool), data.shape)
    if mask.shape != data.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, data has {tuple(data.shape)}")
    if mask.dtype != xp.bool:
        raise TypeError(f"expected a bool mask, got dtype {mask.dtype}")
    total = int(xp.count_nonzero(mask))
    if total == 0:
        raise ValueError("expected at least one observed voxel, got none")
    mean = scalar(xp.sum(xp.where(mask, data, xp.zeros_like(data)), dtype=xp.float64)) / total
    if not math.isfinite(mean):
        raise ValueError("expected finite numbers at observed voxels")
    centre = mean if centre is None else centre
    if overwrite:
        data -= centre
        return data, mask, centre
    return xp.where(mask, xp.astype(data - centre, xp.float32), xp.zeros(data.shape, dtype=xp.float32)), mask, centre


def completion(
    y: Array,
    mask: Array,
    centre: float,
    sigma: float,
    levels: Sequence[float] | None,
    robust: bool,
    options: PatchOptions,
    sweeps: int,
    drift: Drift,
    inner: Box | None,
) -> Completion:
    """The problem of the sweeps: the norm of the data, and levels if a voxel is missing."""
    xp = namespace_of(y)
    count = int(xp.count_nonzero(mask))
    squares = scalar(xp.sum(y**2, dtype=xp.float64))
    steps: tuple[float, ...] = ()
    norm = math.hypot(math.sqrt(squares), math.sqrt(count) * centre)
    if count < math.prod(y.shape) and levels is not None:
        steps = checked_levels(levels)
    elif count < math.prod(y.shape) and max(sigma, math.sqrt(squares / count)) > ROUNDING * norm / math.sqrt(count):
        steps = default_levels(math.sqrt(squares / count), sigma, sweeps)
    geometry = fitted(options, y.shape, drift)
    coarser = geometry._replace(step=geometry.step + 1)  # the second stage makes up for it
    near = None if inner is None else in_rim(y, inner, SWEPT)
    return Completion(y, mask, norm, steps, robust, coarser, near)


def default_levels(deviation: float, sigma: float, sweeps: int) -> tuple[float, ...]:
    """Levels from a quarter of the standard deviation of the data to the noise, at most a factor of 16 apart."""
    first = max(deviation / 4, sigma)
    return tuple(np.geomspace(first, max(sigma, first / 16), sweeps).tolist())


def checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """The levels given, as Python floats."""
    if not len(levels) or not all(level > 0 and math.isfinite(level) for level in levels):
        raise ValueError(f"expected positive levels, got {tuple(levels)}")
    return tuple(map(float, levels))


def neighbour_mean(y: Array, mask: Array) -> Array:
    """A first guess: a Gaussian mean over measured neighbours, the voxel itself left out.

    Each voxel takes the narrowest of five widths that reaches any neighbour.
    """
    xp = namespace_of(y, mask)
    known = xp.astype(mask, y.dtype)
    guess, missing = xp.zeros_like(y), xp.ones(y.shape, dtype=xp.bool)
    spike = np.zeros((65, 65, 65), np.float32)
    spike[32, 32, 32] = 1

    def blurred(array: Array, width: float) -> Array:  # a mirrored border would bring a voxel back into its own mean
        return ndimage("gaussian_filter", array, width, mode="constant", axes=(-3, -2, -1))

    for width in (0.6, 1.0, 2.0, 4.0, 8.0):
        own = float(blurred(spike, width)[32, 32, 32])
        weight, mean = blurred(known, width), blurred(y, width)
        weight -= own * known
        mean -= own * y
        reached = weight > 0.02
        weight[~reached] = 1
        mean /= weight
        guess = xp.where(missing & reached, mean, guess)
        missing &= ~reached
        if not bool(xp.any(missing)):
            break
    return guess
