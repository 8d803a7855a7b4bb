"""CPU kernels of fills from measured neighbours: weighted means, and the bending of a thin plate.

They round as their twins of array operations do, step by step, so that both give the same numbers bit for bit: no
arithmetic is reordered or contracted. Rows are copied between margins that hold what lies outside, so that the inner
loops have no branches and run along many rows at once.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

BLOCK = 2048
"""Voxels whose sums are formed at a time: what is needed for them stays in the first-level cache."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def weighted(entries: Any, weight: Any, total: Any) -> None:
    """``total = weight entries``, in float64."""
    for k in range(len(total)):
        total[k] = weight * np.float64(entries[k])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_weighted(one: Any, other: Any, weight: Any, total: Any) -> None:
    """``total += weight (one + other)``, in float64."""
    for k in range(len(total)):
        total[k] += weight * (np.float64(one[k]) + np.float64(other[k]))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def copy(entries: Any, out: Any) -> None:
    """The entries in the precision of ``out``."""
    for k in range(len(out)):
        out[k] = entries[k]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_shifted(padded: Any, step: int, weights: Any, total: Any) -> None:
    """``total``: the sums over neighbours that lie multiples of a step apart; the first one has ``reach`` before it.

    ``weights`` are those of the entry itself and of the neighbours on either side, the nearest first. The most distant
    ones are added first, as in scipy.ndimage.
    """
    reach, size = len(weights) - 1, len(total)
    weighted(padded[reach * step : reach * step + size], weights[0], total)
    for r in range(reach, 0, -1):
        before, after = (reach - r) * step, (reach + r) * step
        add_weighted(padded[before : before + size], padded[after : after + size], weights[r], total)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sums_within_planes(values: Any, weights: Any, sums: Any, begin: int, end: int) -> None:
    """Sums along y, then along x, on the planes from ``begin`` to ``end``; nothing lies outside."""
    rows, columns = values.shape[1:]
    reach = len(weights) - 1
    width = columns + 2 * reach  # of a row between its margins
    most = min(rows, max(1, BLOCK // width))
    block, sums_of_block = np.zeros((most + 2 * reach) * width), np.empty(most * width)
    rounded = np.zeros(most * width + 2 * reach, values.dtype)
    for z in range(begin, end):
        for first in range(0, rows, most):
            size = min(most, rows - first) * width
            total, between = sums_of_block[:size], rounded[: size + 2 * reach]
            for y in range(first - reach, first + size // width + reach):
                start = (y - first + reach) * width + reach
                if 0 <= y < rows:
                    copy(values[z, y], block[start : start + columns])
                else:
                    block[start : start + columns] = 0
            add_shifted(block, width, weights, total)
            copy(total, between[reach : reach + size])  # rounded between the axes
            between[reach + size :] = 0
            add_shifted(between, 1, weights, total)
            for y in range(size // width):
                copy(total[y * width + reach : y * width + reach + columns], sums[z, first + y])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sums_along_z(planes: Any, z: int, first: int, last: int, weights: Any, nothing: Any, total: Any) -> None:
    """``total``: the sums along z at some pixels of a plane; nothing lies outside. ``planes`` are flat."""
    weighted(planes[z, first:last], weights[0], total)
    for r in range(len(weights) - 1, 0, -1):
        one = planes[z - r, first:last] if z >= r else nothing
        other = planes[z + r, first:last] if z + r < len(planes) else nothing
        add_weighted(one, other, weights[r], total)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def means_along_z(
    values: Any, known: Any, sums: Any, counts: Any, column: Any, weights: Any, own: Any, least: Any, means: Any,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Sums over counts, both summed along z and without the share ``own`` of the voxel itself; 0 where none are left.

    All planes are flat. ``values`` and ``known`` are the voxels, ``sums`` and ``counts`` those within planes. Counts of
    one plane are those of all, and ``column`` has their sums along z at a pixel that was measured everywhere.
    """
    zero, pixels = own - own, values.shape[1]
    alike = len(counts) < len(values)
    for first in range(0, pixels, BLOCK):
        last = min(pixels, first + BLOCK)
        nothing = np.zeros_like(values[0, first:last])
        number = np.zeros_like(nothing)
        total, many = np.empty(last - first), np.empty(last - first)
        for z in range(begin, end):
            sums_along_z(sums, z, first, last, weights, nothing, total)
            if alike:
                of_all, here = counts[0, first:last], column[z]
                for k in range(len(number)):
                    number[k] = of_all[k] * here
            else:
                sums_along_z(counts, z, first, last, weights, nothing, many)
                for k in range(len(number)):
                    number[k] = many[k]
            value, one, out = values[z, first:last], known[z, first:last], means[z, first:last]
            for k in range(len(number)):
                left = number[k] - own * one[k]
                mean = (values.dtype.type(total[k]) - own * value[k]) / left
                out[k] = mean if left > least else zero


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_margins(plane: Any) -> None:
    """Repeat the outermost rows and columns of a plane in the margin of one voxel around them."""
    end, last = plane.shape[0] - 1, plane.shape[1] - 1
    for y in range(1, end):
        plane[y, 0], plane[y, last] = plane[y, 1], plane[y, last - 1]
    plane[0], plane[end] = plane[1], plane[end - 1]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def second_differences(below: Any, own: Any, above: Any, width: int, weights: Any, out: Any) -> None:
    """``sum_a w_a G_a u`` of a plane between margins, with the sign of ``-u``.

    The planes are flat, and ``width`` is the length of a row with its margins. What the margins get is of no use.
    """
    wz, wy, wx = weights
    zero, first, last = wx - wx, width, len(own) - width
    at, found = own[first:last], out[first:last]
    down, up = below[first:last], above[first:last]
    front, back = own[first - width : last - width], own[first + width : last + width]
    left, right = own[first - 1 : last - 1], own[first + 1 : last + 1]
    for k in range(len(found)):
        value = zero - wz * (up[k] - at[k])
        value += wz * (at[k] - down[k])
        value -= wy * (back[k] - at[k])
        value += wy * (at[k] - front[k])
        value -= wx * (right[k] - at[k])
        found[k] = value + wx * (at[k] - left[k])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def without_step(out: Any, inner: Any, edge: Any, beside: Any, square: Any) -> None:
    """Take the steps between a row at a border and the one beside it off the bending of both of them."""
    for k in range(len(out)):
        step = square * (edge[k] - beside[k])
        out[k] -= step
        inner[k] += step


@numba.njit(nogil=True, cache=True, error_model="numpy")
def without_borders(u: Any, z: int, weights: Any, out: Any) -> None:
    """Take the steps of the first and last voxel of each line to their neighbours off the bending of one plane.

    ``weights`` are squares of those of the axes.
    """
    planes, rows, columns = u.shape
    unused = np.empty_like(out[0])
    if planes > 1:
        for edge, inner in ((0, 1), (planes - 1, planes - 2)):
            for y in range(rows):
                if z == edge:
                    without_step(out[y], unused, u[edge, y], u[inner, y], weights[0])
                if z == inner:
                    without_step(unused, out[y], u[edge, y], u[inner, y], weights[0])
    if rows > 1:
        for edge, inner in ((0, 1), (rows - 1, rows - 2)):
            without_step(out[edge], out[inner], u[z, edge], u[z, inner], weights[1])
    if columns > 1:
        for edge, inner in ((0, 1), (columns - 1, columns - 2)):
            for y in range(rows):
                step = weights[2] * (u[z, y, edge] - u[z, y, inner])
                out[y, edge] -= step
                out[y, inner] += step


@numba.njit(nogil=True, cache=True, error_model="numpy")
def bend(u: Any, weights: Any, squares: Any, bending: Any, begin: int, end: int) -> None:
    """Half of the gradient of the energy of a thin plate, on the planes from ``begin`` to ``end``.

    Three planes of the volume and of its second differences are held at a time, between margins.
    """
    planes, rows, columns = u.shape
    width, last = columns + 2, planes - 1
    volume, second = np.zeros((3, rows + 2, width), u.dtype), np.zeros((3, rows + 2, width), u.dtype)
    volumes, seconds = volume.reshape(3, -1), second.reshape(3, -1)
    found = np.zeros((rows + 2, width), u.dtype)
    held, done = max(begin - 2, 0), max(begin - 1, 0)  # next planes to be read, and to be differenced
    for z in range(begin, end):
        while done <= min(z + 1, last):
            while held <= min(done + 1, last):
                volume[held % 3, 1:-1, 1:-1] = u[held]
                add_margins(volume[held % 3])
                held += 1
            below, above = volumes[max(done - 1, 0) % 3], volumes[min(done + 1, last) % 3]
            second_differences(below, volumes[done % 3], above, width, weights, seconds[done % 3])
            add_margins(second[done % 3])
            done += 1
        below, above = seconds[max(z - 1, 0) % 3], seconds[min(z + 1, last) % 3]
        second_differences(below, seconds[z % 3], above, width, weights, found.reshape(-1))
        bending[z] = found[1:-1, 1:-1]
        without_borders(u, z, squares, bending[z])
