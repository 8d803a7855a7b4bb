"""What the high-resolution stack predicts for the voxels of the low-resolution stack, and how well both agree.

A low pixel is the mean of ``f x f`` pixels of the high stack around its position: the mean is taken on the grid of the
high stack, and its cubic spline is evaluated at the positions. Prediction and low stack are compared after the same
filter on the grid of the low stack, so that the comparison holds whatever the sampling aliases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tensorcell.pairs.placement import Box, Factors, Floats, Placement, covered

SMOOTHING = 1.0
"""Standard deviation of the Gaussian that smooths both before they are compared, in voxels of the low stack.

Interpolation reduces noise the more, the further a position is from a voxel. Noise that was not smoothed would draw
shifts to half voxels: by 0.1 to 0.2 voxels where it is half the standard deviation of the intensities.
"""

BACKGROUND = 27
"""Side of the square whose mean is the background, in pixels of the low stack; uneven light is part of it."""

AXIAL_SMOOTHING = 0.6
"""Standard deviation, in planes, of the Gaussian that smooths the high stack along z for the same reason, where the low
stack has only some of its planes and cannot be smoothed along z."""

BORDER = 2
"""Coefficients of the spline that are mirrored beyond each face of the stack."""


class Taps(NamedTuple):
    """The four coefficients around each position: their indices, weights, and the derivatives of the weights."""

    indices: NDArray[np.intp]
    weight: Floats
    slope: Floats

    @staticmethod
    def of(position: Floats, size: int) -> Taps:
        """Taps of the cubic B-spline for positions of any shape; each array has a first axis of length 4."""
        base = np.floor(position).astype(np.intp)
        t = (position - base).astype(np.float32)
        weight = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        slope = np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2]) / 2
        around = base + np.arange(-1, 3).reshape(-1, *[1] * position.ndim)
        return Taps(np.clip(around, 0, size - 1), weight, slope)


class Prediction(NamedTuple):
    """Predicted voxels of the low stack, and their derivatives along the position (z, y, x) in the high stack."""

    value: Floats
    slopes: tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class Predictor:
    """The spline of the means over ``f x f`` pixels of the high stack.

    The mean over the pixels from (y, x) on has index (y, x), and its centre lies ``(f - 1) / 2`` further.
    """

    spline: Floats
    factors: Factors

    @staticmethod
    def of(high: Floats, factors: Factors) -> Predictor:
        """The predictor of a stack with at least ``f x f`` pixels."""
        means = high if factors.axial == 1 else ndimage.gaussian_filter1d(high, AXIAL_SMOOTHING, 0, mode="nearest")
        for axis in (1, 2):
            size = high.shape[axis] - factors.lateral + 1
            parts = (np.take(means, range(first, first + size), axis) for first in range(factors.lateral))
            means = sum(parts, np.zeros((), np.float32)) / np.float32(factors.lateral)
        spline = ndimage.spline_filter(means, order=3, output=np.float32, mode="mirror")
        return Predictor(np.pad(spline, BORDER, mode="reflect"), factors)

    def box(self, placement: Placement, shape: tuple[int, ...], margin: float = 0.0) -> Box:
        """Voxels of a low stack of that shape that are predicted from within the high stack.

        The margin, in pixels of the low stack, is left free on each side along y and x.
        """
        matrix, offset = self._map(placement)
        edge = np.array([0, 1, 1]) * margin * self.factors.lateral
        size = tuple(length - 2 * BORDER for length in self.spline.shape)
        return covered(matrix, offset, shape, size, edge)

    def at(self, placement: Placement, box: Box) -> Prediction:
        """Prediction of the voxels of the low stack in the box."""
        depth, height, width = self.spline.shape
        z, y, x = self.positions(placement, box)
        along_z, along_y, along_x = Taps.of(z, depth), Taps.of(y, height), Taps.of(x, width)
        planes, steps = (
            sum(each[:, None, None] * self.spline[index] for each, index in zip(weight, along_z.indices, strict=True))
            for weight in (along_z.weight, along_z.slope)
        )
        value, slope_z, slope_y, slope_x = np.zeros((4, len(z), *y.shape), np.float32)
        for row in range(4):
            for column in range(4):
                pixels = along_y.indices[row] * width + along_x.indices[column]
                part = np.take(planes.reshape(len(z), -1), pixels, axis=1)
                both = along_y.weight[row] * along_x.weight[column]
                value += both * part
                slope_y += along_y.slope[row] * along_x.weight[column] * part
                slope_x += along_y.weight[row] * along_x.slope[column] * part
                slope_z += both * np.take(steps.reshape(len(z), -1), pixels, axis=1)
        return Prediction(value, (slope_z, slope_y, slope_x))

    def centre(self, placement: Placement) -> tuple[float, float]:
        """Index (y, x) into the spline of the point that rotation and scale leave where it is."""
        place = BORDER - (self.factors.lateral - 1) / 2
        return placement.centre[0] + placement.shift[1] + place, placement.centre[1] + placement.shift[2] + place

    def positions(self, placement: Placement, box: Box) -> tuple[Floats, Floats, Floats]:
        """Indices into the spline: z of the planes, y and x of the pixels of a plane."""
        matrix, offset = self._map(placement)
        rows, columns = np.ogrid[box[1], box[2]]
        planes = np.arange(box[0].start, box[0].stop)
        y, x = (matrix[axis, 1] * rows + matrix[axis, 2] * columns + offset[axis] + BORDER for axis in (1, 2))
        return matrix[0, 0] * planes + offset[0] + BORDER, y, x

    def _map(self, placement: Placement) -> tuple[Floats, Floats]:
        matrix, offset = placement.from_low(self.factors)
        return matrix, offset - self.factors.first


def filtered(planes: Floats, depth: float = 0.0) -> Floats:
    """Planes with less noise and without their background, of mean 0; ``depth`` is the smoothing along z; float64."""
    side = min(BACKGROUND, max(planes.shape[1:]))
    smooth = ndimage.gaussian_filter(planes, (depth, SMOOTHING, SMOOTHING), mode="nearest", output=np.float64)
    smooth -= ndimage.uniform_filter(planes, (1, side, side), mode="nearest", output=np.float64)
    return np.asarray(smooth - smooth.mean())


def correlation(one: Floats, other: Floats) -> float:
    """Normalised cross-correlation of two arrays of mean 0; 0 where one of them is constant."""
    norms = float(np.sqrt(np.vdot(one, one) * np.vdot(other, other)))
    return float(np.vdot(one, other)) / norms if norms > 0 else 0.0
