"""Parts of a volume that are computed one at a time, so that memory stays small."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

SLAB_VOXELS = 2**18
"""Voxels of a part, unless a single plane has more."""


def plane_slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Slices along the first axis that hold whole planes."""
    planes = max(1, SLAB_VOXELS // math.prod(shape[1:]))
    for start in range(0, shape[0], planes):
        yield slice(start, min(start + planes, shape[0]))


def voxel_slabs(size: int) -> Iterator[slice]:
    """Slices of a flat array of this size."""
    for start in range(0, size, SLAB_VOXELS):
        yield slice(start, start + SLAB_VOXELS)
