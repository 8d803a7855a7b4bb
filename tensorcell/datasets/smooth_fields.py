"""Smooth random fields of unit variance, the same in space whatever the size of the voxels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.intp]


class SplineAxis(NamedTuple):
    """The four cubic B-splines that are not zero at each voxel, scaled such that their squares sum to one."""

    first: Ints
    """(voxels,) index of the first of the four."""
    weights: npt.NDArray[np.float32]
    """(4, voxels) values of the four."""


class SmoothField(NamedTuple):
    """A random field of unit variance: a cubic spline, separable in the axes, with standard normal coefficients."""

    axes: tuple[SplineAxis, SplineAxis, SplineAxis]
    """Along z, y and x."""
    coefficients: npt.NDArray[np.float32]
    """(knots, knots, knots)."""

    def __call__(self, slab: slice) -> npt.NDArray[np.float32]:
        """Values on the planes of a slab, (planes, y, x)."""
        values = self.coefficients
        for axis, (first, weights) in enumerate(self.axes):
            part = slab if axis == 0 else slice(None)
            terms = weights[:, part].reshape(4, *(-1 if a == axis else 1 for a in range(3)))
            values = sum(terms[k] * values.take(first[part] + k, axis) for k in range(4))
        return values


def smooth_field(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    length: float,
    rng: np.random.Generator,
) -> SmoothField:
    """Draw a field whose knots lie ``length`` micrometres from each other, or a voxel where voxels are larger.

    The number of coefficients depends on the extent and on ``length`` alone, so that one seed gives one field in space.
    """
    lengths = [max(length, h) for h in spacing]
    z, y, x = (spline_axis(n, h / d) for n, h, d in zip(shape, spacing, lengths, strict=True))
    knots = [math.ceil(round(n * h / d, 6)) + 3 for n, h, d in zip(shape, spacing, lengths, strict=True)]
    return SmoothField((z, y, x), rng.standard_normal(knots, dtype=np.float32))


def spline_axis(voxels: int, step: float) -> SplineAxis:
    """Cubic B-splines at the centres of voxels, which lie ``step`` knots from each other."""
    position = (np.arange(voxels) + 0.5) * step
    first = np.floor(position).astype(np.intp)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3])
    weights /= np.linalg.norm(weights, axis=0)
    return SplineAxis(first, weights.astype(np.float32))
