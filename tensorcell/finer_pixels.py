"""Pixels smaller than the measured ones (``lateral_factor``): their means are the measured values.

A measured pixel is the mean of ``f x f`` pixels of the wanted stack. Nothing in a stack tells what lies within its
pixels, but the sums of the wanted pixels are known at every edge between measured ones. A cubic spline through these
sums has differences with the right means (a histospline: Boneva, Kendall & Stefanov, 1971), so that a spot of one pixel
keeps its light. Its slopes are bounded so that the sums never fall, and no pixel lies below the lowest one. Where noise
is all that parts a pixel from what its neighbours say, it is not followed (`followed`).

The error is that at coarser pixels, of ``f x f`` measured ones, which are known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.methods.protocol import Filled
from tensorcell.solvers.calibration import Calibration, calibrated

Array = npt.NDArray[Any]

PLANES = 8
"""Largest number of planes that the error is found at."""

LEAST_COARSE = 4
"""Fewest coarse pixels a side from which the error is found."""

FLOOR = 0.1
"""Part of the shape of the error that does not depend on the slope, as a share of the mean slope."""


class PixelErrors(NamedTuple):
    """The error that finer pixels have."""

    calibration: Calibration
    floor: float

    def __call__(self, values: Array) -> Array:
        """Standard deviation of the error at finer pixels ``(Z, Y, X)``."""
        widths: Array = self.calibration(values, slopes(values) + self.floor)
        return widths


def finer_pixels(filled: Filled, factor: int) -> Filled:
    """The stack with pixels of a `factor`-th of the side, and a note on the error."""
    errors = pixel_errors(filled.volume, filled.error, factor)
    volume = divided(followed(filled.volume, filled.error, factor), factor)
    note = f"lateral factor {factor}: finer pixels have the means of the measured ones and add no detail; "
    if errors is None:
        own = np.full((), float(np.std(filled.volume, dtype=np.float64)))
        note += "too few tell their error, it is the spread of the stack"
    else:
        own = errors(volume)
        note += f"the error was found at pixels {factor} times coarser"
    error = np.hypot(enlarged(filled.error, factor), own).astype(filled.error.dtype)
    samples = filled.samples
    if samples is not None:
        samples = np.stack([divided(followed(one, filled.error, factor), factor) for one in samples])
    return Filled(volume, error, (*filled.notes, note), samples)


def enlarged(stack: Array, factor: int, order: int = 1) -> Array:
    """Planes ``(Z, Y, X)`` with ``factor`` times as many rows and columns: splines through the middles of pixels.

    Beyond the outermost middles they are constant. The means of ``factor x factor`` pixels are not those of `stack`.

    >>> enlarged(np.array([[[0.0, 4.0]]]), 2)[0, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    from scipy.ndimage import zoom

    found: Array = zoom(stack, (1, factor, factor), order=order, mode="nearest", grid_mode=True)
    return found


def followed(stack: Array, error: Array, factor: int) -> Array:
    """Means that the finer pixels shall have: those of linear interpolation, and what parts the stack from them.

    A difference ``d`` at a pixel of error ``e`` is taken ``max(0, 1 - e^2 / d^2)`` times, the non-negative garrote
    (Breiman, doi:10.1080/00401706.1995.10484371): a spot far above its error is kept whole, noise is not sharpened.

    >>> spot = np.zeros((1, 3, 3)); spot[0, 1, 1] = 100
    >>> round(float(followed(spot, np.ones(spot.shape), 2)[0, 1, 1]), 2)
    99.98
    """
    smooth = np.concatenate([binned(enlarged(plane[None], factor), factor) for plane in stack])
    parts = stack - smooth
    square = np.square(parts)
    share = np.divide(np.square(error), square, out=np.ones_like(square), where=square > 0)
    return np.asarray(smooth + np.maximum(0, 1 - share) * parts, stack.dtype)


def divided(stack: Array, factor: int) -> Array:
    """Planes ``(Z, Y, X)`` with ``factor`` times as many rows and columns, whose means are the values of `stack`.

    >>> divided(np.array([[[0.0, 4.0, 0.0]]]), 2).round(9)[0, 0].tolist()
    [0.0, 0.0, 4.0, 4.0, 0.0, 0.0]
    """
    lowest = stack.min()
    planes, rows, columns = stack.shape
    found = np.empty((planes, factor * rows, factor * columns), stack.dtype)
    for to, plane in zip(found, stack, strict=True):
        above = np.subtract(plane, lowest, dtype=np.float64)
        to[...] = divided_rows(divided_rows(above, factor).T, factor).T + lowest
    return found


def divided_rows(plane: Array, factor: int) -> Array:
    """Rows divided into `factor` each, by a cubic spline through the sums of the rows above; no value below 0.

    A cubic between two sums rises all the way if its slopes at both are at most three times its mean slope (Fritsch &
    Carlson, doi:10.1137/0717021).
    """
    from scipy.interpolate import CubicHermiteSpline, CubicSpline

    edges = np.arange(len(plane) + 1.0)
    sums = np.concatenate([np.zeros_like(plane[:1]), plane.cumsum(0)])
    slopes = CubicSpline(edges, sums, bc_type="natural")(edges, 1)
    lower = np.minimum(np.concatenate([plane[:1], plane]), np.concatenate([plane, plane[-1:]]))
    through = CubicHermiteSpline(edges, sums, slopes.clip(0, 3 * lower))
    return np.asarray(factor * np.diff(through(np.arange(factor * len(plane) + 1) / factor), axis=0))


def binned(stack: Array, factor: int) -> Array:
    """Means of ``factor x factor`` pixels of each plane; rows and columns that are left over are dropped."""
    planes, rows, columns = stack.shape[0], stack.shape[1] // factor, stack.shape[2] // factor
    whole = stack[:, : rows * factor, : columns * factor]
    return np.asarray(whole.reshape(planes, rows, factor, columns, factor).mean(axis=(2, 4)))


def slopes(stack: Array) -> Array:
    """Largest difference from a neighbour along y or x, a measure of what interpolation may miss."""
    found = np.zeros(stack.shape)
    for axis in (1, 2):
        step = np.abs(np.diff(stack, axis=axis))
        here, there = np.moveaxis(found, axis, 0), np.moveaxis(step, axis, 0)
        here[:-1] = np.maximum(here[:-1], there)
        here[1:] = np.maximum(here[1:], there)
    return found


def pixel_errors(stack: Array, error: Array, factor: int) -> PixelErrors | None:
    """What is missed of pixels `factor` times coarser than those of the stack; None where they are few.

    The errors of measured pixels are taken as independent, so that those of their means are `factor` times smaller.
    """
    if min(stack.shape[1:]) // factor < LEAST_COARSE:
        return None
    planes = np.unique(np.linspace(0, len(stack) - 1, PLANES).round().astype(int))
    coarse = binned(stack[planes].astype(np.float64), factor)
    means = followed(coarse, np.sqrt(binned(np.square(error[planes], dtype=np.float64), factor)) / factor, factor)
    rows, columns = (factor * size for size in coarse.shape[1:])
    fine = stack[planes, :rows, :columns].astype(np.float64)
    missed = divided(means, factor) - fine
    values = fine + missed
    shape = slopes(values)
    floor = FLOOR * float(shape.mean()) or 1.0
    return PixelErrors(calibrated(missed.ravel(), np.zeros(fine.size), (shape + floor).ravel(), values.ravel()), floor)
