"""CPU kernels that compare voxels with the measured ones around them: in the volume, and in their plane.

:mod:`tensorcell.solvers.neighbourhoods` calls them, and loads Numba with the
first call. The kernels release the interpreter lock, so that planes, rows or
voxels are shared among threads. Their NumPy twins, which sort the neighbours of each voxel, are in the tests.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def insert(ordered: Any, count: int, value: Any) -> None:
    """Insert a value into the first ``count`` entries of an ordered row, which has room for one more."""
    place = count
    while place > 0 and ordered[place - 1] > value:
        ordered[place] = ordered[place - 1]
        place -= 1
    ordered[place] = value


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
def around(v: Any, trusted: Any, positions: Any, fewest: int, middle: Any, spread: Any, begin: int, end: int) -> None:
    """For the positions from ``begin`` to ``end``: median of the trusted ones among 26 neighbours, and their spread."""
    ordered = np.empty(26, v.dtype)
    planes, rows, columns = v.shape
    for n in range(begin, end):
        z, rest = divmod(positions[n], rows * columns)
        y, x = divmod(rest, columns)
        count = 0
        for a in range(max(0, z - 1), min(planes, z + 2)):
            for b in range(max(0, y - 1), min(rows, y + 2)):
                for c in range(max(0, x - 1), min(columns, x + 2)):
                    if trusted[a, b, c] and not (a == z and b == y and c == x):
                        insert(ordered, count, v[a, b, c])
                        count += 1
        if count < fewest:
            middle[n] = np.nan
            spread[n] = np.nan
        else:
            m = middle_of(ordered, count)
            middle[n] = m
            spread[n] = distance_within(ordered, count, m, max(1, (4 * count) // 5))


@numba.njit(nogil=True, cache=True)
def far_from_most(v: Any, trusted: Any, wanted: Any, least: Any, found: Any, begin: int, end: int) -> None:
    """Mark the wanted voxels that are further than ``least`` from half of their trusted neighbours, on one side."""
    planes, rows, columns = v.shape
    for z in range(begin, end):
        for y in range(rows):
            for x in range(columns):
                if not wanted[z, y, x]:
                    continue
                below, above = v[z, y, x] - least, v[z, y, x] + least
                count, lower, higher = 0, 0, 0
                for a in range(max(0, z - 1), min(planes, z + 2)):
                    for b in range(max(0, y - 1), min(rows, y + 2)):
                        for c in range(max(0, x - 1), min(columns, x + 2)):
                            if trusted[a, b, c]:
                                count += 1
                                lower += v[a, b, c] < below
                                higher += v[a, b, c] > above
                found[z, y, x] = 2 * max(lower, higher) >= count - 1


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
    ordered = np.empty(8, v.dtype)
    off, levels = np.empty(planes, v.dtype), np.empty(planes, v.dtype)
    kept = np.empty(planes, v.dtype)
    for y in range(begin, end):
        for x in range(columns):
            found, equal = 0, 0
            before = v[0, y, x]
            for z in range(planes):
                if not measured[z, y, x]:
                    continue
                count = 0
                for b in range(max(0, y - 1), min(rows, y + 2)):
                    for c in range(max(0, x - 1), min(columns, x + 2)):
                        if measured[z, b, c] and not (b == y and c == x):
                            insert(ordered, count, v[z, b, c])
                            count += 1
                if count < 3:
                    continue
                m = middle_of(ordered, count)
                kept[found] = v[z, y, x] - m
                insert(off, found, v[z, y, x] - m)
                insert(levels, found, m)
                if found > 0 and v[z, y, x] == before:
                    equal += 1
                before = v[z, y, x]
                found += 1
            used[y, x] = found
            if found == 0:
                excess[y, x], level[y, x], same[y, x], agreeing[y, x] = np.nan, np.nan, 0, 0
                continue
            e = middle_of(off, found)
            excess[y, x], level[y, x] = e, middle_of(levels, found)
            same[y, x] = equal / max(1, found - 1)
            count = 0
            for n in range(found):
                if (e > 0 and 3 * kept[n] >= e) or (e < 0 and 3 * kept[n] <= e):
                    count += 1
            agreeing[y, x] = count / found
