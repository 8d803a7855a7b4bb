"""Statistics in which natural images differ from distorted ones: contrast-normalised pixels and fits to them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import gammaln

Array = NDArray[np.float64]


def contrast_normalized(image: Array) -> Array:
    """Pixels minus their local mean, over their local standard deviation plus 1.

    Local moments have a Gaussian window of 7 x 7 pixels with a standard deviation of 7/6.
    """
    local, square = (gaussian_filter(part, 7 / 6, mode="nearest", radius=3) for part in (image, image * image))
    deviation = np.sqrt(np.abs(square - local * local))
    return np.asarray((image - local) / (deviation + 1))


def whole_blocks(image: Array, side: int) -> Array:
    """Blocks ``(blocks, side, side)``, row by row; an incomplete last row or column of blocks is dropped."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    cut = image[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return cut.swapaxes(1, 2).reshape(-1, side, side)


_SYMMETRIC_SHAPES = np.arange(30, 10001) / 1000
_SYMMETRIC_RATIOS = np.exp(
    gammaln(1 / _SYMMETRIC_SHAPES) + gammaln(3 / _SYMMETRIC_SHAPES) - 2 * gammaln(2 / _SYMMETRIC_SHAPES)
)
"""Variance over squared mean deviation of a generalised Gaussian with each shape; decreasing."""


def gaussian_shape(values: Array) -> Array:
    """Shapes of generalised Gaussians along the last axis, fitted by the moments."""
    deviation = np.abs(values - values.mean(axis=-1, keepdims=True)).mean(axis=-1)
    ratio = values.var(axis=-1, ddof=1) / (deviation**2 + 1e-7)
    index = len(_SYMMETRIC_RATIOS) - 1 - _nearest(_SYMMETRIC_RATIOS[::-1], np.atleast_1d(ratio))
    return _SYMMETRIC_SHAPES[index]


_ASYMMETRIC_SHAPES = np.arange(200, 10001) / 1000
_ASYMMETRIC_RATIOS = np.exp(
    2 * gammaln(2 / _ASYMMETRIC_SHAPES) - gammaln(1 / _ASYMMETRIC_SHAPES) - gammaln(3 / _ASYMMETRIC_SHAPES)
)
"""(mean |x|)^2 / mean x^2 of a generalised Gaussian with each shape; increasing."""


def asymmetric_gaussian(values: Array) -> tuple[float, float, float]:
    """Shape, left and right scale of an asymmetric generalised Gaussian, fitted by the moments.

    All three are NaN where no value is negative or none is positive. The fit is that of Lasmar, Stitou, Berthoumieu
    2009, ICIP.
    """
    negative, positive = values[values < 0], values[values > 0]
    if negative.size == 0 or positive.size == 0:
        return (math.nan,) * 3
    left, right = math.sqrt(np.square(negative).mean()), math.sqrt(np.square(positive).mean())
    ratio = left / right
    moment = np.abs(values).mean() ** 2 / np.square(values).mean()
    moment *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = float(_ASYMMETRIC_SHAPES[_nearest(_ASYMMETRIC_RATIOS, np.array([moment]))[0]])
    scale = math.exp(0.5 * (gammaln(1 / shape) - gammaln(3 / shape)))
    return shape, left * scale, right * scale


def _nearest(increasing: Array, values: Array) -> NDArray[np.intp]:
    """Index of the entry of an increasing array that is nearest to each value."""
    after = np.clip(np.searchsorted(increasing, values), 1, len(increasing) - 1)
    return after - (values - increasing[after - 1] <= increasing[after] - values)
