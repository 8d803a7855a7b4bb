"""Images at another size, by bicubic interpolation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def resized(image: Array, size: tuple[int, int]) -> Array:
    """Bicubic resampling as MATLAB's ``imresize``.

    The kernel (a = -1/2) is widened where the image shrinks, and the image is mirrored at its borders.
    """
    return _resampling(image.shape[0], size[0]) @ image @ _resampling(image.shape[1], size[1]).T


def _resampling(before: int, after: int) -> Array:
    """Matrix ``(after, before)`` of the resampling along one axis."""
    if before == after:
        return np.eye(before)
    scale = after / before
    narrow = min(1.0, scale)
    centre = (np.arange(after) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 / narrow).astype(int)
    index = first[:, None] + np.arange(math.ceil(4 / narrow) + 2)
    distance = np.abs(narrow * (centre[:, None] - index))
    inner = (1.5 * distance - 2.5) * distance**2 + 1
    outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance <= 1, inner, np.where(distance <= 2, outer, 0))
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = index % (2 * before)
    mirrored = np.where(mirrored < before, mirrored, 2 * before - 1 - mirrored)
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after)[:, None], mirrored), weight)
    return matrix
