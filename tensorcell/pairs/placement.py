"""Where a low-resolution stack lies in a high-resolution stack, and how their voxels correspond.

Positions are in voxels of the high stack, pixel centres at whole numbers. With the axial factor ``a`` and the lateral
factor ``f``, voxel ``(i, u, v)`` of the low stack is nominally at

    q = (a i, f u + (f - 1) / 2, f v + (f - 1) / 2):

plane ``i`` lies on plane ``a i`` of the high stack, and a pixel covers ``f x f`` pixels of it. A placement moves it to

    p = (q_z + t_z, c + s R (q_yx - c) + t_yx),      R = ((cos r, -sin r), (sin r, cos r)) on (y, x),

with the shift ``t``, the scale ``s``, the rotation ``r`` and the centre ``c``. A positive ``r`` turns the low stack
counter-clockwise on a screen, where y points down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Box = tuple[slice, slice, slice]
"""Voxels of a stack: from ``start`` to before ``stop`` along z, y and x."""


class Factors(NamedTuple):
    """Voxels of the high stack in one step of the low stack."""

    axial: int
    lateral: int

    @property
    def steps(self) -> Floats:
        """Along z, y and x."""
        return np.array([self.axial, self.lateral, self.lateral], float)

    @property
    def first(self) -> Floats:
        """Nominal position of the first voxel of the low stack."""
        return np.array([0, (self.lateral - 1) / 2, (self.lateral - 1) / 2])


@dataclass(frozen=True)
class Placement:
    """Where the low stack lies in the high stack."""

    centre: tuple[float, float]
    """Centre of rotation and scale (y, x)."""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: float = 0.0
    """In radians."""
    scale: float = 1.0

    def turned(self) -> Floats:
        """The matrix ``s R``, with a row and a column for z: (3, 3)."""
        cosine, sine = self.scale * math.cos(self.rotation), self.scale * math.sin(self.rotation)
        return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])

    def from_low(self, factors: Factors) -> tuple[Floats, Floats]:
        """``matrix`` (3, 3) and ``offset`` (3,): ``position in high = matrix @ index in low + offset``."""
        turned, centre = self.turned(), np.array([0, *self.centre])
        return turned * factors.steps, turned @ (factors.first - centre) + centre + self.shift

    def to_low(self, factors: Factors) -> tuple[Floats, Floats]:
        """``matrix`` and ``offset`` of the inverse: ``index in low = matrix @ position in high + offset``."""
        matrix, offset = self.from_low(factors)
        inverse = np.linalg.inv(matrix)
        return inverse, -inverse @ offset

    def binned(self, bins: int) -> Placement:
        """The same placement where ``bins x bins`` pixels of both stacks were averaged to one."""
        y, x = ((each - (bins - 1) / 2) / bins for each in self.centre)
        return replace(self, centre=(y, x), shift=(self.shift[0], self.shift[1] / bins, self.shift[2] / bins))

    def enlarged(self, bins: int, centre: tuple[float, float]) -> Placement:
        """The placement of single pixels, around the given centre, whose binned one this is."""
        z, y, x = self.shift
        return replace(self, centre=centre, shift=(z, y * bins, x * bins))

    def moved(self, step: Floats, radius: float) -> Placement:
        """The placement after a step along (z, y, x, rotation, scale), the last two in voxels at the radius."""
        z, y, x = (float(old + new) for old, new in zip(self.shift, step, strict=False))
        turn, growth = (float(each) / radius for each in step[3:]) if len(step) > 3 else (0.0, 0.0)
        return Placement(self.centre, (z, y, x), self.rotation + turn, self.scale * math.exp(growth))


def binned(stack: Floats, planes: int, bins: int) -> Floats:
    """Every ``planes``-th plane, averaged over ``bins x bins`` pixels; pixels that fill no bin are cut off."""
    chosen = stack[::planes]
    if bins == 1:
        return chosen
    depth, height, width = chosen.shape[0], chosen.shape[1] // bins, chosen.shape[2] // bins
    cut = chosen[:, : height * bins, : width * bins].reshape(depth, height, bins, width, bins)
    return np.asarray(cut.mean((2, 4), dtype=np.float32))


def covered(matrix: Floats, offset: Floats, shape: tuple[int, ...], size: tuple[int, ...], margin: Floats) -> Box:
    """Indices of a stack of the given shape that a map takes into a stack of the given size.

    Parameters
    ----------
    matrix, offset : (3, 3) and (3,)
        ``position = matrix @ index + offset``; z is not mixed with y and x.
    shape, size : (3,)
        Shapes of the stack of the indices and of the stack of the positions.
    margin : (3,)
        A position is inside from ``margin`` to ``size - 1 - margin``.

    Returns
    -------
    Box
        Slices along z, y and x, empty where nothing is covered. Laterally it is a large rectangle, not always the
        largest.
    """
    low, high = margin - 1e-6, np.array(size) - 1 - margin + 1e-6
    z = matrix[0, 0] * np.arange(shape[0]) + offset[0]
    planes = np.flatnonzero((low[0] <= z) & (z <= high[0]))
    rows, columns = np.ogrid[: shape[1], : shape[2]]
    inside = np.ones(shape[1:], bool)
    for axis in (1, 2):
        position = matrix[axis, 1] * rows + matrix[axis, 2] * columns + offset[axis]
        inside &= (low[axis] <= position) & (position <= high[axis])
    depth = slice(int(planes[0]), int(planes[-1]) + 1) if planes.size else slice(0, 0)
    return (depth, *rectangle(inside))


def rectangle(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """A large rectangle within a convex region, which loses the border line that is outside for the largest part."""
    if not inside.any():
        return slice(0, 0), slice(0, 0)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    while top < bottom and left < right:
        part = inside[top:bottom, left:right]
        outside = [1 - float(line.mean()) for line in (part[0], part[-1], part[:, 0], part[:, -1])]
        worst = int(np.argmax(outside))
        if outside[worst] == 0:
            break
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def voxels(box: Box) -> int:
    """Number of voxels in a box."""
    return math.prod(max(0, part.stop - part.start) for part in box)
