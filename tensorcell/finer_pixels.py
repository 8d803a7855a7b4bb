"""Pixels smaller than the measured ones (``lateral_factor``), by interpolation; the error comes from coarser pixels.

A measured pixel is the mean of ``f x f`` pixels of the wanted stack, and its value is that of its middle. Nothing in a
stack tells what lies within its pixels. But pixels of ``f x f`` measured ones can be made of it, and interpolated to
the measured ones: what that misses is the error here, for the same structures seen ``f`` times coarser.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.methods.protocol import Filled
from tensorcell.solvers.calibration import Calibration, calibrated

Array = npt.NDArray[Any]

ORDERS = {1: "linear", 3: "cubic"}
"""Orders of the splines that are tried."""

PLANES = 8
"""Largest number of planes that the error is found at."""

LEAST_COARSE = 4
"""Fewest coarse pixels a side from which the error is found."""

FLOOR = 0.1
"""Part of the shape of the error that does not depend on the slope, as a share of the mean slope."""


class PixelErrors(NamedTuple):
    """Which spline suits a stack, and the error that it makes."""

    order: int
    calibration: Calibration
    floor: float
    rms: float

    def __call__(self, values: Array) -> Array:
        """Standard deviation of the error at interpolated pixels ``(Z, Y, X)``."""
        return self.calibration(values, slopes(values) + self.floor)


def finer_pixels(filled: Filled, factor: int) -> Filled:
    """The stack with pixels of a `factor`-th of the side, and a note on the error."""
    errors = pixel_errors(filled.volume, factor)
    if errors is None:
        order, own = 1, np.full((), float(np.std(filled.volume, dtype=np.float64)))
        note = (
            f"lateral factor {factor}: too few pixels tell the error of linear interpolation; it is the spread of the "
            "stack"
        )
        volume = enlarged(filled.volume, factor, order)
    else:
        order = errors.order
        volume = enlarged(filled.volume, factor, order)
        own = errors(volume)
        note = (
            f"lateral factor {factor}: {ORDERS[order]} interpolation of each plane, which adds no detail; the error "
            f"was found at pixels {factor} times coarser"
        )
    error = np.hypot(enlarged(filled.error, factor, 1), own).astype(filled.error.dtype)
    samples = None if filled.samples is None else np.stack([enlarged(one, factor, order) for one in filled.samples])
    return Filled(volume, error, (*filled.notes, note), samples)


def enlarged(stack: Array, factor: int, order: int = 1) -> Array:
    """Planes ``(Z, Y, X)`` with ``factor`` times as many rows and columns, constant beyond the outermost middles.

    >>> enlarged(np.array([[[0.0, 4.0]]]), 2)[0, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    from scipy.ndimage import zoom

    found: Array = zoom(stack, (1, factor, factor), order=order, mode="nearest", grid_mode=True)
    return found


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


def pixel_errors(stack: Array, factor: int) -> PixelErrors | None:
    """What interpolation misses of pixels `factor` times coarser than those of the stack; None where they are few."""
    if min(stack.shape[1:]) // factor < LEAST_COARSE:
        return None
    planes = np.unique(np.linspace(0, len(stack) - 1, PLANES).round().astype(int))
    coarse = binned(stack[planes].astype(np.float64), factor)
    rows, columns = (factor * size for size in coarse.shape[1:])
    fine = stack[planes, :rows, :columns].astype(np.float64)
    missed = {order: enlarged(coarse, factor, order) - fine for order in ORDERS}
    rms = {order: float(np.sqrt(np.mean(np.square(each)))) for order, each in missed.items()}
    order = min(rms, key=rms.__getitem__)
    values = fine + missed[order]
    shape = slopes(values)
    floor = FLOOR * float(shape.mean()) or 1.0
    calibration = calibrated(missed[order].ravel(), np.zeros(fine.size), (shape + floor).ravel(), values.ravel())
    return PixelErrors(order, calibration, floor, rms[order])
