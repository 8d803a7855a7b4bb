"""The common region of a placed low stack and a high stack, with the low stack on the pixels of the high one."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tensorcell.errors import InputError
from tensorcell.pairs.placement import Factors, Floats, Placement, covered

LEAST_SHARE = 0.5
"""Part of the smaller stack that the common region must have."""


class Common(NamedTuple):
    """Both stacks in the common region: plane ``i`` of ``low`` on plane ``a i`` of ``high``, on the same pixels."""

    low: Floats
    high: Floats
    first: tuple[int, int, int]
    """Index (z, y, x) in the high stack of the first voxel."""
    share: float
    """Voxels of ``high``, divided by those of the smaller stack."""


def common_region(low: Floats, high: Floats, factors: Factors, placement: Placement) -> Common:
    """The low stack interpolated by cubic splines, the high stack cut; an `InputError` if it is too small.

    The planes of ``high`` that ``low`` lies on are those nearest to its planes. The region reaches to the outer edges
    of the outermost pixels of the low stack, which is mirrored there.
    """
    nearest = round(placement.shift[0])
    earliest, latest = max(0, math.ceil(-nearest / factors.axial)), (len(high) - 1 - nearest) // factors.axial
    matrix, offset = placement.to_low(factors)
    start = np.array([nearest + factors.axial * earliest, 0, 0])
    steps = matrix * np.array([factors.axial, 1, 1])
    shape = (max(0, latest - earliest + 1), *high.shape[1:])
    edges = np.array([-0.5 / factors.axial, -0.5, -0.5])
    planes, rows, columns = box = covered(steps, matrix @ start + offset, shape, low.shape, edges)
    first = (int(start[0]) + factors.axial * planes.start, rows.start, columns.start)
    last = min(len(high), first[0] + factors.axial * (planes.stop - planes.start))
    cut = high[first[0] : last, rows, columns]
    share = cut.size / min(high.size, low.size * math.prod(factors.steps))
    if share < LEAST_SHARE:
        raise InputError(
            f"low and high have {share:.0%} of the smaller stack in common after a shift of "
            f"{_listed(placement.shift)} voxels (z, y, x), expected at least {LEAST_SHARE:.0%}"
        )
    moved = ndimage.affine_transform(
        low, steps, steps @ [part.start for part in box] + matrix @ start + offset,
        output_shape=tuple(part.stop - part.start for part in box), output=np.float32, order=3, mode="reflect",
    )  # fmt: skip
    return Common(moved, cut.copy(), first, share)


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)
