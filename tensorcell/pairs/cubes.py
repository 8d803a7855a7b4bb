"""Regions for training, validation and test that share no voxel, and the cubes that lie in them.

Neighbouring voxels hold the same structures, so that pieces drawn at random would let a network see what it is tested
on. The regions are blocks along y instead, with rows between them that belong to none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorcell.arguments import is_number, whole_number
from tensorcell.errors import InputError
from tensorcell.plain_arrays import as_array
from tensorcell.volume import Volume

AXES = "z, y, x"


class Regions(NamedTuple):
    """Rows (y) of a stack; a region whose share is 0 is empty."""

    train: slice
    validation: slice
    test: slice


class Cubes(NamedTuple):
    """Cubes of a low and a high stack at the same places."""

    low: NDArray[np.floating]
    """Shape ``(n, d, h, w)``."""
    high: NDArray[np.floating]
    """Shape ``(n, d * axial_factor, h, w)``."""
    positions: NDArray[np.integer]
    """Index (z, y, x) of the first voxel of each cube in the high stack: ``(n, 3)``."""


def split_regions(
    shape: Sequence[int],
    share: Sequence[float] = (0.7, 0.1, 0.2),
    piece: Sequence[int] = (20, 256, 256),
    *,
    gap: int = 1,
) -> Regions:
    """Split a stack into blocks of rows for training, validation and test.

    Parameters
    ----------
    shape : three integers
        Of the stack (z, y, x).
    share : three numbers
        Shares of training, validation and test; their sum is 1.
    piece : three integers
        Shape of the cubes (z, y, x) that the regions are for; a region holds a whole number of them along y.
    gap : int
        Rows between two regions, at least. Rows that fill no cube are added to the gaps.

    Returns
    -------
    Regions
        Slices along y, in the order of training, validation and test. Their numbers of cubes are as close to the
        shares as whole numbers can be, but at least 1 where the share is not 0.

    Raises
    ------
    InputError
        If the stack is too small for one cube in each region, or an argument does not fit.

    Examples
    --------
    >>> split_regions((20, 1100, 256), (0.5, 0.25, 0.25), (20, 256, 256))
    Regions(train=slice(0, 512, None), validation=slice(550, 806, None), test=slice(844, 1100, None))
    """
    sizes, side = _sides("shape", shape), _sides("piece", piece)
    shares, gap = _shares(share), whole_number("gap", gap)
    used = [index for index, each in enumerate(shares) if each > 0]
    rows = (sizes[1] - gap * (len(used) - 1)) // side[1]
    if rows < len(used) or any(one > other for one, other in zip(side, sizes, strict=True)):
        raise InputError(
            f"shape {sizes} is too small for {len(used)} regions with cubes of {side} and {gap} rows between them, "
            f"expected at least {(side[0], len(used) * side[1] + gap * (len(used) - 1), side[2])}"
        )
    counts = _apportioned(shares, rows)
    spare = sizes[1] - rows * side[1]
    regions, start = [], 0
    for index in range(3):
        stop = start + counts[index] * side[1]
        regions.append(slice(start, stop))
        if index in used[:-1]:
            place = used.index(index)
            stop += spare * (place + 1) // (len(used) - 1) - spare * place // (len(used) - 1)
        start = stop
    return Regions(*regions)


def cubes_of(
    low: Any, high: Any, piece: Sequence[int] = (20, 256, 256), *,
    axial_factor: int = 1, rows: slice = slice(None),
) -> Cubes:  # fmt: skip
    """Cut cubes that do not overlap out of a low and a high stack.

    Parameters
    ----------
    low : array or Volume, shape (m, y, x)
        Plane ``i`` lies on plane ``axial_factor * i`` of the high stack.
    high : array or Volume, shape (z, y, x)
        Has at most ``axial_factor * m`` planes.
    piece : three integers
        Shape of the cubes of the high stack; its depth is a multiple of ``axial_factor``.
    axial_factor : int
        Planes of the high stack in one step of the low stack.
    rows : slice
        Rows that the cubes lie in, such as ``split_regions(...).train``.

    Returns
    -------
    Cubes
        They are copies. Voxels at the far borders that fill no cube are left out.

    Raises
    ------
    InputError
        If the stacks do not fit to each other, or no cube fits into the rows.
    """
    low, high = (
        as_array(stack.data if isinstance(stack, Volume) else stack, name)
        for stack, name in ((low, "low"), (high, "high"))
    )
    depth, height, width = side = _sides("piece", piece)
    factor = whole_number("axial_factor", axial_factor)
    if low.ndim != 3 or high.ndim != 3 or low.shape[1:] != high.shape[1:]:
        raise InputError(f"low has shape {low.shape}, high {high.shape}, expected three axes and the same y and x")
    if depth % factor:
        raise InputError(f"piece has {depth} planes, expected a multiple of axial_factor {factor}")
    first, last, step = rows.indices(high.shape[1])
    if step != 1:
        raise InputError(f"rows has step {step}, expected 1")
    planes = min(len(high), len(low) * factor)
    starts = [
        range(begin, end - length + 1, length)
        for begin, end, length in zip((0, first, 0), (planes, last, high.shape[2]), side, strict=True)
    ]
    if not all(starts):
        raise InputError(
            f"no cube of {side} fits into {planes} planes, {max(0, last - first)} rows and {high.shape[2]} columns"
        )
    positions = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)
    cut = [
        (
            low[z // factor : (z + depth) // factor, y : y + height, x : x + width],
            high[z : z + depth, y : y + height, x : x + width],
        )
        for z, y, x in positions
    ]
    return Cubes(np.stack([one for one, _ in cut]), np.stack([other for _, other in cut]), positions)


def _sides(name: str, given: Sequence[int]) -> tuple[int, int, int]:
    if np.ndim(given) != 1 or len(given) != 3:
        raise InputError(f"{name} is {given}, expected three numbers ({AXES})")
    z, y, x = (whole_number(f"{name} along {axis}", each) for axis, each in zip("zyx", given, strict=True))
    return z, y, x


def _shares(share: Sequence[float]) -> tuple[float, ...]:
    numbers = np.ndim(share) == 1 and len(share) == 3 and all(is_number(each) and each >= 0 for each in share)
    if not numbers or not math.isclose(sum(share), 1, abs_tol=1e-6):
        raise InputError(f"share is {share}, expected three numbers that are not negative and make 1")
    return tuple(float(each) for each in share)


def _apportioned(shares: Sequence[float], count: int) -> list[int]:
    """Whole numbers that make the count, each at least 1 where its share is not 0, by the largest remainder."""
    counts = [max(1, math.floor(share * count + 1e-9)) if share > 0 else 0 for share in shares]
    while sum(counts) != count:
        sign = 1 if sum(counts) < count else -1
        open_ = [index for index, share in enumerate(shares) if share > 0 and (sign > 0 or counts[index] > 1)]
        worst = max(open_, key=lambda index: sign * (shares[index] * count - counts[index]))
        counts[worst] += sign
    return counts
