"""CPU kernels that compare voxels with the measured ones around them: in the volume, and in their plane.

:mod:`tensorcell.solvers.neighbourhoods` calls them, and loads Numba with the
first call. The kernels release the interpreter lock, so that planes, rows or
voxels are shared among threads. Their NumPy twins, which sort the neighbours of each voxel, are in the tests.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

TOGETHER = 32
"""Voxels whose neighbours are sorted side by side."""


@numba.njit(nogil=True, cache=True)
def middle_of(ordered: Any, count: int) -> Any:
    """Median of the first ``count`` entries of an ordered row (lower and upper middle averaged)."""
    low, high = ordered[(count - 1) // 2], ordered[count // 2]
    return low + (high - low) / 2


@numba.njit(nogil=True, cache=True)
def distance_within(ordered: Any, count: int, middle: Any, wanted: int) -> Any:
    """The smallest distance from ``middle`` within which ``wanted`` of the first ``count`` entries lie."""
    first, last = 0, count - 1
    for _ in range(count - wanted):  # the entry furthest from the middle is at one of the two ends
        if middle - ordered[first] > ordered[last] - middle:
            first += 1
        else:
            last -= 1
    return max(middle - ordered[first], ordered[last] - middle)


@numba.njit(nogil=True, cache=True)
def sort_columns(table: Any) -> None:
    """Sort each column in place by Batcher's merge exchange, whose comparisons are the same for all columns.

    D. E. Knuth, The Art of Computer Programming 3, Algorithm 5.2.2M. So one instruction compares many columns at once.
    """
    size, columns = table.shape
    width = 1
    while width < size:
        step = width
        while step >= 1:
            for first in range(step % width, size - step, 2 * step):
                for low in range(first, min(first + step, size - step)):
                    if low // (2 * width) != (low + step) // (2 * width):
                        continue
                    for n in range(columns):
                        one, other = table[low, n], table[low + step, n]
                        table[low, n] = one if one < other else other
                        table[low + step, n] = other if one < other else one
            step //= 2
        width *= 2


@numba.njit(nogil=True, cache=True)
def around(v: Any, trusted: Any, positions: Any, middle: Any, spread: Any, number: Any, begin: int, end: int) -> None:
    """For the positions from ``begin`` to ``end``: median of the trusted ones among 26 neighbours, and their spread.

    ``number`` is the number of such neighbours; the others are NaN where there is none.
    """
    table, ordered = np.empty((26, TOGETHER), v.dtype), np.empty(26, v.dtype)
    planes, rows, columns = v.shape
    for first in range(begin, end, TOGETHER):
        table[:] = np.inf
        for n in range(first, min(end, first + TOGETHER)):
            z, rest = divmod(positions[n], rows * columns)
            y, x = divmod(rest, columns)
            slot, count = 0, 0
            if 0 < z < planes - 1 and 0 < y < rows - 1 and 0 < x < columns - 1:  # the usual case, without any branch
                for a in range(3):
                    for b in range(3):
                        for c in range(3):
                            if 9 * a + 3 * b + c == 13:
                                continue
                            known = trusted[z + a - 1, y + b - 1, x + c - 1]
                            table[slot, n - first] = v[z + a - 1, y + b - 1, x + c - 1] if known else np.inf
                            count += known
                            slot += 1
            else:
                for a in range(max(0, z - 1), min(planes, z + 2)):
                    for b in range(max(0, y - 1), min(rows, y + 2)):
                        for c in range(max(0, x - 1), min(columns, x + 2)):
                            if trusted[a, b, c] and not (a == z and b == y and c == x):
                                table[count, n - first] = v[a, b, c]
                                count += 1
            number[n] = count
        sort_columns(table)
        for n in range(first, min(end, first + TOGETHER)):
            count = number[n]
            if count == 0:
                middle[n], spread[n] = np.nan, np.nan
                continue
            for place in range(count):
                ordered[place] = table[place, n - first]
            m = middle_of(ordered, count)
            middle[n] = m
            spread[n] = distance_within(ordered, count, m, max(1, (4 * count) // 5))


@numba.njit(nogil=True, cache=True)
def far_from_most(v: Any, trusted: Any, wanted: Any, least: Any, found: Any, begin: int, end: int) -> None:
    """Mark the wanted voxels that are further than ``least`` from half of their trusted neighbours, on one side.

    The neighbours of a whole row are compared side by side, one step after the other. A voxel is not far from itself.
    """
    planes, rows, columns = v.shape
    counts = np.empty((3, columns), np.int32)  # trusted, and below and above the voxel among them
    for z in range(begin, end):
        for y in range(rows):
            if not wanted[z, y].any():
                continue
            own = v[z, y]
            counts[:] = 0
            for a in range(max(0, z - 1), min(planes, z + 2)):
                for b in range(max(0, y - 1), min(rows, y + 2)):
                    for step in range(-1, 2):
                        first, last = max(0, -step), columns - max(0, step)
                        beside, known = v[a, b, first + step : last + step], trusted[a, b, first + step : last + step]
                        here, sums = own[first:last], counts[:, first:last]
                        for x in range(last - first):
                            sums[0, x] += known[x]
                            sums[1, x] += known[x] & (beside[x] < here[x] - least)
                            sums[2, x] += known[x] & (beside[x] > here[x] + least)
            for x in range(columns):
                others = counts[0, x] - trusted[z, y, x]
                found[z, y, x] = wanted[z, y, x] & (2 * max(counts[1, x], counts[2, x]) >= others)


@numba.njit(nogil=True, cache=True)
def along_columns(
    v: Any, measured: Any, excess: Any, level: Any, same: Any, agreeing: Any, used: Any, begin: int, end: int
) -> None:
    """For the rows from ``begin`` to ``end``: how each pixel differs from its plane in the median of all planes.

    ``excess`` is the median over planes of the value less the median of the measured ones among its 8 neighbours in
    the plane, ``level`` the median of these medians, ``same`` the share of the planes in which the pixel has the
    value of the plane before, ``agreeing`` the share in which the difference has the sign of ``excess`` and at
    least a third of its size; ``used`` is the number of planes with 3 measured neighbours. NaN where there is none.
    """
    planes, rows, columns = v.shape
    beside, number = np.empty((8, columns), v.dtype), np.empty(columns, np.int32)
    off, levels = np.empty((planes, columns), v.dtype), np.empty((planes, columns), v.dtype)
    kept, before, equal = np.empty((planes, columns), v.dtype), np.empty(columns, v.dtype), np.empty(columns, np.int32)
    for y in range(begin, end):
        off[:], levels[:] = np.inf, np.inf
        used[y], equal[:] = 0, 0
        for z in range(planes):
            beside[:], number[:] = np.inf, 0
            slot = 0
            for b in range(max(0, y - 1), min(rows, y + 2)):
                for step in range(-1, 2):
                    if b == y and step == 0:
                        continue
                    first, last = max(0, -step), columns - max(0, step)
                    for x in range(first, last):
                        if measured[z, b, x + step]:
                            beside[slot, x] = v[z, b, x + step]
                            number[x] += 1
                    slot += 1
            sort_columns(beside)
            for x in range(columns):
                if not measured[z, y, x] or number[x] < 3:
                    continue
                m = middle_of(beside[:, x], number[x])
                place = used[y, x]
                off[place, x] = kept[place, x] = v[z, y, x] - m
                levels[place, x] = m
                equal[x] += place > 0 and v[z, y, x] == before[x]
                before[x] = v[z, y, x]
                used[y, x] += 1
        sort_columns(off)
        sort_columns(levels)
        for x in range(columns):
            found = used[y, x]
            if found == 0:
                excess[y, x], level[y, x], same[y, x], agreeing[y, x] = np.nan, np.nan, 0, 0
                continue
            e = middle_of(off[:, x], found)
            excess[y, x], level[y, x] = e, middle_of(levels[:, x], found)
            same[y, x] = equal[x] / max(1, found - 1)
            count = 0
            for n in range(found):
                if (e > 0 and 3 * kept[n, x] >= e) or (e < 0 and 3 * kept[n, x] <= e):
                    count += 1
            agreeing[y, x] = count / found
