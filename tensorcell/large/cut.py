"""The parts of a stack that does not fit into memory: boxes side by side, each with a rim that is read with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tensorcell.errors import InputError

Box = tuple[slice, slice, slice]
Sides = tuple[int, int, int]

GRID = 12
"""Parts are read from multiples of this number of voxels on: patches then lie where they lie in the whole stack, 3
voxels apart where they denoise and 4 where they complete."""

SMALLEST = 24
"""Fewest voxels along a side that is cut, without the rim."""


class Part(NamedTuple):
    """A box of a stack."""

    inner: Box
    """What is taken from the result."""
    outer: Box
    """What is read: the inner box with its rim."""

    @property
    def within(self) -> Box:
        """The inner box inside the outer one."""
        z, y, x = (
            slice(inner.start - outer.start, inner.stop - outer.start)
            for inner, outer in zip(self.inner, self.outer, strict=True)
        )
        return z, y, x


class Cut(NamedTuple):
    """How a stack is cut."""

    shape: Sides
    sides: Sides
    """Of the inner boxes; those at the end are smaller."""
    rim: int

    def parts(self) -> Iterator[Part]:
        """The parts, one plane of them after the other.

        >>> [part.outer[2] for part in Cut((8, 60, 100), (8, 60, 48), 10).parts()]
        [slice(0, 58, None), slice(36, 100, None), slice(84, 100, None)]
        """
        for inner in boxes(self.shape, self.sides):
            z, y, x = (with_rim(each, self.rim, size) for each, size in zip(inner, self.shape, strict=True))
            yield Part(inner, (z, y, x))

    @property
    def number(self) -> int:
        """Number of parts."""
        return math.prod(-(-size // side) for size, side in zip(self.shape, self.sides, strict=True))

    @property
    def largest(self) -> int:
        """Voxels of the largest part, with its rim."""
        return math.prod(longest for longest, _ in self._extents)

    @property
    def total(self) -> int:
        """Voxels of all parts, with their rims."""
        return math.prod(total for _, total in self._extents)

    @property
    def _extents(self) -> list[tuple[int, int]]:
        return [extent(size, side, self.rim) for size, side in zip(self.shape, self.sides, strict=True)]


def cut(
    shape: Sequence[int], most: float, rim: int, *, whole_z: bool = False, chunks: Sequence[int] = (1, 1, 1)
) -> Cut:
    """The cut of a stack that reads and computes the least.

    Parameters
    ----------
    shape : three ints
        Sides of the stack along z, y and x.
    most : float
        Largest number of voxels of a part, with its rim.
    rim : int
        Voxels on each side of a part that are read with it, where there are any.
    whole_z : bool
        Whether every part has all planes.
    chunks : three ints
        Borders between parts are multiples of these numbers, so that no two parts write to one chunk of a file.

    Raises
    ------
    InputError
        If parts that small would be all rim.

    Examples
    --------
    >>> cut((100, 1000, 1000), 2e7, 16)
    Cut(shape=(100, 1000, 1000), sides=(100, 504, 336), rim=16)
    >>> cut((100, 1000, 1000), 1e9, 16).number
    1
    """
    tried = [sides_of(size, chunk) for size, chunk in zip(shape, chunks, strict=True)]
    if whole_z:
        tried[0] = [shape[0]]
    extents = [{side: extent(size, side, rim) for side in sides} for size, sides in zip(shape, tried, strict=True)]
    best, fewest = None, math.inf
    for sides in itertools.product(*tried):
        each = [of_axis[side] for of_axis, side in zip(extents, sides, strict=True)]
        total = math.prod(total for _, total in each)
        if math.prod(largest for largest, _ in each) <= most and total < fewest:
            best, fewest = sides, total
    if best is None:
        least = math.prod(min(largest for largest, _ in of_axis.values()) for of_axis in extents)
        raise InputError(f"expected memory for parts of at least {least} voxels of the stack, got it for {most:.0f}")
    return Cut(tuple(shape), best, rim)  # type: ignore[arg-type]


def extent(size: int, side: int, rim: int) -> tuple[int, int]:
    """The longest range of a length that is cut, with its rim, and the sum of all of them.

    >>> extent(72, 36, 16)
    (60, 112)
    """
    lengths = [each.stop - each.start for each in (with_rim(inner, rim, size) for inner in ranges(size, side))]
    return max(lengths), sum(lengths)


def sides_of(size: int, chunk: int) -> list[int]:
    """The sides of equal parts of a length, in whole chunks; the length itself is the first.

    >>> sides_of(100, 1), sides_of(1000, 64)[:4]
    ([100, 60, 36], [1000, 512, 384, 256])
    """
    unit = chunk if chunk > 1 else GRID
    found = [size]
    for count in range(2, size // SMALLEST + 1):
        side = -(-size // (count * unit)) * unit
        if SMALLEST <= side < found[-1]:
            found.append(side)
    return found


def boxes(shape: Sides, sides: Sides) -> Iterator[Box]:
    """Boxes side by side that fill a stack, the last ones smaller."""
    yield from itertools.product(*(ranges(size, side) for size, side in zip(shape, sides, strict=True)))


def ranges(size: int, side: int) -> list[slice]:
    """Successive ranges of a length."""
    return [slice(first, min(size, first + side)) for first in range(0, size, side)]


def with_rim(inner: slice, rim: int, size: int) -> slice:
    """A range with its rim, which begins at a multiple of `GRID`."""
    return slice(max(0, inner.start - rim) // GRID * GRID, min(size, inner.stop + rim))


def voxels(box: Box) -> int:
    """Number of voxels of a box."""
    return math.prod(side.stop - side.start for side in box)
