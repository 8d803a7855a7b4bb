"""Fourier coefficients and the shells of equal frequency that they belong to."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Shells(NamedTuple):
    """The shell of each coefficient of a real transform, and what the shells hold."""

    axes: tuple[int, ...]
    """Axes of the transform; the coefficients of negative frequency along the last one are not stored."""
    number: NDArray[np.int64]
    """Shell of each coefficient from 1, shaped like the transform along its axes (others 1); 0 = none."""
    weight: Array
    """Coefficients of the full transform that each stored one represents: 1 or 2."""
    radius: Array
    """Frequency of each shell."""
    coefficients: Array
    """Number of coefficients of the full transform in each shell."""


def shells_up_to(limit: float, shape: tuple[int, ...], axes: tuple[int, ...], steps: tuple[float, ...]) -> Shells:
    """Shells around the zero frequency, as thick as the coarsest step of frequency among the axes.

    Parameters
    ----------
    limit
        Largest frequency, in cycles per unit of ``steps``; coefficients beyond it are in no shell.
    shape
        Shape of the data.
    axes
        Axes of the transform.
    steps
        Distance of the voxels along each of these axes.
    """
    squares = np.zeros((1,) * len(shape))
    weight = np.ones((1,) * len(shape))
    for axis, step in zip(axes, steps, strict=True):
        length = shape[axis]
        halved = axis == axes[-1]
        frequency = scipy.fft.rfftfreq(length, step) if halved else scipy.fft.fftfreq(length, step)
        squares = squares + along(frequency**2, axis, len(shape))
        if halved:
            twice = np.full(len(frequency), 2.0)
            twice[0] = 1
            if length % 2 == 0:
                twice[-1] = 1
            weight = np.broadcast_to(along(twice, axis, len(shape)), squares.shape)
    thickness = max((1 / (shape[a] * s) for a, s in zip(axes, steps, strict=True) if shape[a] > 1), default=2 * limit)
    # A side is a whole number of steps, so a limit that is one up to rounding must not lose its shell.
    last = math.floor(limit / thickness * (1 + 1e-12))
    number = np.round(np.sqrt(squares) / thickness).astype(np.int64)
    number[number > last] = 0
    coefficients = np.bincount(number.ravel(), weight.ravel(), minlength=last + 1)[1:].astype(np.float64)
    return Shells(axes, number, np.asarray(weight), thickness * np.arange(1.0, last + 1), coefficients)


def sums_in_shells(values: Array, shells: Shells) -> Array:
    """Sum of the values over all coefficients of the full transform in each shell, and over the other axes."""
    others = tuple(a for a in range(values.ndim) if a not in shells.axes)
    values = values.sum(axis=others, keepdims=True) * shells.weight
    sums = np.bincount(shells.number.ravel(), values.ravel(), minlength=len(shells.radius) + 1)
    return sums[1:].astype(np.float64)


def transformed(array: NDArray[Any], axes: tuple[int, ...], taper: bool) -> NDArray[np.complex128]:
    """Real Fourier transform along the axes after the mean is subtracted; ``taper`` applies a Hann window first."""
    values = array.astype(np.float64)
    values -= values.mean(axis=axes, keepdims=True)
    if taper:
        for axis in axes:
            length = values.shape[axis]
            if length > 2:  # in a shorter axis the window would leave nothing but the borders
                hann = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
                values *= along(hann, axis, values.ndim)
        values -= values.mean(axis=axes, keepdims=True)
    return np.asarray(scipy.fft.rfftn(values, axes=axes))


def along(line: Array, axis: int, ndim: int) -> Array:
    """A 1-D array along one axis of an array of ``ndim`` axes, for broadcasting."""
    shape = [1] * ndim
    shape[axis] = len(line)
    return line.reshape(shape)
