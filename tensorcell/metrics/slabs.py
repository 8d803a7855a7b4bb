"""Parts of large arrays that are converted to float64 one after the other, so that no whole copy is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLAB_VOXELS = 2**20
"""Voxels of a slab, about; a slab holds at least one whole plane along the first axis."""


def plane_slabs(shape: tuple[int, ...], smallest: int = 1) -> Iterator[slice]:
    """Slices of at least ``smallest`` whole planes along the first axis, which cover it once."""
    planes = max(smallest, SLAB_VOXELS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], planes):
        yield slice(start, min(start + planes, shape[0]))


def transform_slabs(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of an array that hold the axes of a Fourier transform whole: slices along the first of the other axes."""
    others = [a for a in range(len(shape)) if a not in axes]
    if not others:
        yield (slice(None),)
        return
    lead = others[0]
    step = max(1, SLAB_VOXELS * shape[lead] // max(1, math.prod(shape)))
    for start in range(0, shape[lead], step):
        yield (slice(None),) * lead + (slice(start, start + step),)


def scored_slabs(*arrays: NDArray[Any], mask: NDArray[np.bool_] | None) -> Iterator[tuple[NDArray[Any], ...]]:
    """The scored voxels of arrays of one shape, a slab at a time; slabs without a scored voxel are left out."""
    for slab in plane_slabs(arrays[0].shape):
        chosen = ... if mask is None else mask[slab]
        parts = tuple(array[slab][chosen] for array in arrays)
        if parts[0].size:
            yield parts
