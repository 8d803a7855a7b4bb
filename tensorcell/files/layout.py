"""Order of the axes and of the bytes of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def arrange(array: np.ndarray, axes: str, wanted: str) -> np.ndarray:
    """View with the axes in the order ``wanted``; axes that the array lacks get length 1.

    >>> arrange(np.zeros((2, 3, 4)), "ZYX", "TXYZ").shape
    (1, 4, 3, 2)
    """
    missing = [letter for letter in wanted if letter not in axes]
    array = array[(None,) * len(missing) + (...,)]
    now = [*missing, *axes]
    return array.transpose([now.index(letter) for letter in wanted])


def native(array: np.ndarray) -> np.ndarray:
    """The array in the byte order of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def chunk_shape(shape: tuple[int, ...], axes: str, largest: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of a chunk of at most ``largest`` along each axis (1 along others), such that all are nearly equal.

    >>> chunk_shape((3, 20, 300), "TZX", {"Z": 16, "X": 256})
    (1, 10, 150)
    """
    counts = [math.ceil(size / largest.get(letter, 1)) for letter, size in zip(axes, shape, strict=True)]
    return tuple(math.ceil(size / count) for size, count in zip(shape, counts, strict=True))
