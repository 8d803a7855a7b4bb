"""CPU kernel of the patch-group filter: matching, a small Tucker model a group, aggregation, all in the cache.

The array twin, for NumPy and CuPy, is ``sums_arrays`` of :mod:`tensorcell.solvers.patch_groups`, where the equations
stand. The kernel releases the interpreter lock; groups whose patches cannot touch each other run on several
threads, in an order that does not depend on their number.

A group is a matrix ``(p^3, K)``, one column a patch, so that all inner loops run along contiguous floats. They run from
0 over slices, since an index that might be negative keeps the compiler from using vector instructions.

Parts of a kernel are compiled in its place (``inline="always"``), and nothing is allocated here: each function of its
own, NumPy's among them, is compiled and optimised once more with every function that calls it, for which a user waits
at the first pass.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

_ARITHMETIC = {"reassoc", "contract", "nsz"}

NONE: Any = np.int64(0)
ONE: Any = np.int64(1)
"""Numba compiles a function anew for every literal number that it is called with, but not for these."""

ROTATIONS = 12
"""Largest number of Jacobi sweeps; matrices of at most 8 rows need about five."""


class Scratch(NamedTuple):
    """Arrays in which :func:`filter_groups` works; Numba would compile a function for each kind that it allocated."""

    keys: Any
    """``(m, n, K)``, for :func:`nearest`, and ``alike`` is what it finds in the frame of the references."""
    alike: Any
    key: Any
    """``(m, n, 1)``, the same for another frame, where ``nearby`` is found."""
    nearby: Any
    held: Any
    """``(m, n)``: how many patches each reference has found."""
    moved: Any
    """``(m, n, frames)``: the number of the move to each frame, of those in ``around``, ``(frames, moves, 3)``."""
    around: Any
    squares: Any
    """Squared differences of whole rows, and the sums of such over the rows of a patch."""
    sums: Any
    distance: Any
    """One float32, and the same bits as an integer."""
    bits: Any
    corners: Any
    groups: Any
    """``(3, p^3, K)``: patches, model and estimate; ``flats`` is the same, ``(3, p^3 K)``."""
    flats: Any
    spare: Any
    factors: Any
    """Three matrices, with their transposes in ``turned``, and both flattened."""
    turned: Any
    flat_factors: Any
    flat_turned: Any
    variances: Any
    """Three vectors, and ``shares`` has the products of their entries."""
    shares: Any


def scratch_for(
    shape: Any, patch: Any, size: int, frames: int, moves: int, references: tuple[int, int], integers: Any
) -> Scratch:
    """Room for bands of ``references`` corners along y and x, and groups of ``size`` patches over some frames."""
    length, distance = math.prod(patch), np.empty(1, np.float32)
    groups = np.empty((3, length, size), np.float32)
    factors, turned = (tuple(np.empty((p, p), np.float32) for p in patch) for _ in range(2))
    return Scratch(
        keys=np.empty((*references, size // frames), np.int64),
        alike=np.empty((*references, size // frames), np.int64),
        key=np.zeros((*references, 1), np.int64),
        nearby=np.zeros((*references, 1), np.int64),
        held=np.empty(references, np.int64),
        moved=np.zeros((*references, frames), np.int64),
        around=np.zeros((frames, moves, 3), np.int64),
        squares=np.empty(shape[-2] * shape[-1], np.float32),
        sums=np.empty(shape[-1], np.float32),
        distance=distance,
        bits=distance.view(np.int32),
        corners=np.empty(size, integers),
        groups=groups,
        flats=groups.reshape(3, -1),
        spare=np.empty(length * size, np.float32),
        factors=factors,
        turned=turned,
        flat_factors=tuple(matrix.reshape(-1) for matrix in factors),
        flat_turned=tuple(matrix.reshape(-1) for matrix in turned),
        variances=tuple(np.empty(p, np.float32) for p in patch),
        shares=np.empty(length, np.float32),
    )


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def add_squares(v: Any, w: Any, out: Any, first: bool) -> None:
    """``out += (v - w)^2``, or ``out = (v - w)^2``."""
    if first:
        for n in range(len(out)):
            d = v[n] - w[n]
            out[n] = d * d
    else:
        for n in range(len(out)):
            d = v[n] - w[n]
            out[n] += d * d


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def add_to(v: Any, out: Any) -> None:
    """``out += v``."""
    for n in range(len(out)):
        out[n] += v[n]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def sift(keys: Any, place: int, count: int) -> None:
    """Let a key sink in the heap of the first ``count`` keys, whose largest one comes first."""
    child = 2 * place + 1
    while child < count:
        if child + 1 < count and keys[child + 1] > keys[child]:
            child += 1
        if keys[place] >= keys[child]:
            break
        keys[place], keys[child] = keys[child], keys[place]
        place, child = child, 2 * child + 1


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def insert(key: Any, found: int, keys: Any) -> int:
    """Put a key among the smallest: a list until it is full, then a heap, from which the largest one falls out."""
    size = len(keys)
    if found < size:
        keys[found] = key
        if found == size - 1:
            for place in range(size // 2 - 1, -1, -1):
                sift(keys, place, size)
        return found + 1
    if key < keys[0]:
        keys[0] = key
        sift(keys, NONE, size)
    return found


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def ascending(keys: Any) -> None:
    """Sort a heap."""
    for count in range(len(keys) - 1, 0, -1):
        keys[0], keys[count] = keys[count], keys[0]
        sift(keys, NONE, count)


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def nearest(
    v: Any, shape: Any, frame: int, later: int, plane: int, seconds: Any, thirds: Any, patch: Any, offsets: Any,
    favour: Any, keys: Any, found: Any, scratch: Any,
) -> None:  # fmt: skip
    """Numbers of the offsets at which the patches nearest to the references ``(plane, seconds[m], thirds[n])`` lie.

    ``v`` is flat, of shape ``shape`` along time, z, y and x. The references are those of a frame, and the patches those
    of the frame ``later`` frames after it, in ascending order of their distance; that at the first offset counts
    ``favour`` times. ``found``, and ``keys`` in int64 as scratch, have at least shape ``(m, n, K)``: a key is the
    squared distance, whose bits as a float32 of at least 0 are in the order of its size, and the number of the offset
    below it. Where fewer than ``K`` patches lie within the volume, the first offset is given.
    Squared differences are computed on whole rows, over which the ends of other rows wrap: patches that would reach
    over a border are left out afterwards. ``scratch`` is that of :func:`filter_groups`.
    """
    depth, rows, columns = shape[1], shape[2], shape[3]
    size, top = keys.shape[2], seconds[0]
    count = (seconds[-1] + patch[1] - top) * columns
    held, squares, sums = scratch.held, scratch.squares, scratch.sums
    distance, bits = scratch.distance, scratch.bits
    for m in range(len(seconds)):
        for n in range(len(thirds)):
            held[m, n] = 0
    for n in range(count):
        squares[n] = np.float32(0)
    for o in range(len(offsets)):
        da, db, dc = offsets[o, 0], offsets[o, 1], offsets[o, 2]
        if plane + da < 0 or plane + da + patch[0] > depth or seconds[-1] + db < 0 or top + db + patch[1] > rows:
            continue  # no reference of this band has such a neighbour
        move = ((later * depth + da) * rows + db) * columns + dc
        for i in range(patch[0]):
            at = ((frame * depth + plane + i) * rows + top) * columns
            first, last = max(0, -at - move), min(count, len(v) - at - move)
            add_squares(v[at + first : at + last], v[at + move + first : at + move + last], squares[first:last], i == 0)
        for m in range(len(seconds)):
            b = seconds[m]
            if b + db < 0 or b + db + patch[1] > rows:
                continue
            at = (b - top) * columns
            copy(squares[at : at + columns], sums)
            for j in range(1, patch[1]):
                add_to(squares[at + j * columns : at + (j + 1) * columns], sums)
            for n in range(len(thirds)):
                c = thirds[n]
                if c + dc < 0 or c + dc + patch[2] > columns:
                    continue
                total = np.float32(0)  # in a register, which an entry of an array is not
                for k in range(patch[2]):
                    total += sums[c + k]
                distance[0] = favour * total if o == 0 else total
                key = (np.int64(bits[0]) << 32) + o
                if held[m, n] < size or key < keys[m, n, 0]:
                    held[m, n] = insert(key, held[m, n], keys[m, n])
    for m in range(len(seconds)):
        for n in range(len(thirds)):
            if held[m, n] < size:
                found[m, n] = 0
                continue
            ascending(keys[m, n])
            for k in range(size):
                found[m, n, k] = keys[m, n, k] & 0xFFFFFFFF


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def place(
    shape: Any, patch: Any, start: int, a: int, b: int, c: int, alike: Any, offsets: Any, moved: Any, moves: Any,
    halving: Any, corners: Any,
) -> None:  # fmt: skip
    """Flat corners of a group in the order of ``halving``: each similar patch in one frame after the other.

    ``(a, b, c)`` is the reference and ``start`` the first frame; ``alike`` has the numbers of the offsets of its group,
    and ``moved`` those of the ``moves`` of each frame. Patches that would reach over a border are moved into the
    volume.
    """
    frames, n = len(moved), 0
    for o in alike:
        for j in range(frames):
            i = moved[j]
            z = min(max(a + offsets[o, 0] + moves[j, i, 0], 0), shape[1] - patch[0])
            y = min(max(b + offsets[o, 1] + moves[j, i, 1], 0), shape[2] - patch[1])
            x = min(max(c + offsets[o, 2] + moves[j, i, 2], 0), shape[3] - patch[2])
            corners[halving[n]] = (((start + j) * shape[1] + z) * shape[2] + y) * shape[3] + x
            n += 1


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def gather(v: Any, corners: Any, inside: Any, out: Any) -> None:
    """Patches as columns of ``out``."""
    for i in range(len(inside)):
        row, move = out[i], inside[i]
        for n in range(len(corners)):
            row[n] = v[np.uintp(corners[n] + move)]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def copy(v: Any, out: Any) -> None:
    """``out = v``."""
    for n in range(len(out)):
        out[n] = v[n]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def dot(v: Any, w: Any) -> Any:
    """``v' w``."""
    total = np.float32(0)
    for n in range(len(v)):
        total += v[n] * w[n]
    return total


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def factor(x: Any, before: int, size: int, gram: Any, u: Any, spare: Any) -> None:
    """``u``: eigenvectors of the Gram matrix of one patch mode; ``x`` is flat, ``(before, size, rest)``.

    Cyclic Jacobi rotations (Golub and Van Loan, Matrix Computations, section 8.5).
    """
    run, row, one = len(x) // (before * size), len(x) // size, np.float32(1)
    unfolded = x
    if before > 1:
        unfolded = spare
        for i in range(before):
            for r in range(size):
                at = (i * size + r) * run
                copy(x[at : at + run], spare[r * row + i * run : r * row + (i + 1) * run])
    for r in range(size):
        for s in range(r + 1):
            gram[r, s] = gram[s, r] = dot(unfolded[r * row : (r + 1) * row], unfolded[s * row : (s + 1) * row])
            u[r, s] = u[s, r] = np.float32(r == s)
    for _ in range(ROTATIONS):
        settled = True
        for r in range(size - 1):
            for s in range(r + 1, size):
                off = gram[r, s]
                if off * off <= np.float32(1e-10) * abs(gram[r, r] * gram[s, s]):
                    continue
                settled = False
                slope = (gram[s, s] - gram[r, r]) / (off + off)  # an integer would make all float64
                tangent = one / (abs(slope) + np.sqrt(slope * slope + one))
                tangent = -tangent if slope < 0 else tangent
                cosine = one / np.sqrt(tangent * tangent + one)
                sine = tangent * cosine
                for k in range(size):
                    p, q = gram[k, r], gram[k, s]
                    gram[k, r], gram[k, s] = cosine * p - sine * q, sine * p + cosine * q
                for k in range(size):
                    p, q = gram[r, k], gram[s, k]
                    gram[r, k], gram[s, k] = cosine * p - sine * q, sine * p + cosine * q
                    p, q = u[k, r], u[k, s]
                    u[k, r], u[k, s] = cosine * p - sine * q, sine * p + cosine * q
        if settled:
            break


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def multiply_3(x: Any, u: Any, before: int) -> None:
    """``multiply`` for modes of three."""
    run = len(x) // (3 * before)
    a0, b0, c0 = u[0], u[3], u[6]
    a1, b1, c1 = u[1], u[4], u[7]
    a2, b2, c2 = u[2], u[5], u[8]
    for i in range(before):
        at = 3 * i * run
        w0, w1, w2 = x[at : at + run], x[at + run : at + 2 * run], x[at + 2 * run : at + 3 * run]
        for n in range(run):
            a, b, c = w0[n], w1[n], w2[n]
            w0[n] = a0 * a + b0 * b + c0 * c
            w1[n] = a1 * a + b1 * b + c1 * c
            w2[n] = a2 * a + b2 * b + c2 * c


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def multiply_4(x: Any, u: Any, before: int) -> None:
    """``multiply`` for modes of four."""
    run = len(x) // (4 * before)
    a0, b0, c0, d0 = u[0], u[4], u[8], u[12]
    a1, b1, c1, d1 = u[1], u[5], u[9], u[13]
    a2, b2, c2, d2 = u[2], u[6], u[10], u[14]
    a3, b3, c3, d3 = u[3], u[7], u[11], u[15]
    for i in range(before):
        at = 4 * i * run
        w0, w1 = x[at : at + run], x[at + run : at + 2 * run]
        w2, w3 = x[at + 2 * run : at + 3 * run], x[at + 3 * run : at + 4 * run]
        for n in range(run):
            a, b, c, d = w0[n], w1[n], w2[n], w3[n]
            w0[n] = a0 * a + b0 * b + c0 * c + d0 * d
            w1[n] = a1 * a + b1 * b + c1 * c + d1 * d
            w2[n] = a2 * a + b2 * b + c2 * c + d2 * d
            w3[n] = a3 * a + b3 * b + c3 * c + d3 * d


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def multiply_5(x: Any, u: Any, before: int) -> None:
    """``multiply`` for modes of five."""
    run = len(x) // (5 * before)
    a0, b0, c0, d0, e0 = u[0], u[5], u[10], u[15], u[20]
    a1, b1, c1, d1, e1 = u[1], u[6], u[11], u[16], u[21]
    a2, b2, c2, d2, e2 = u[2], u[7], u[12], u[17], u[22]
    a3, b3, c3, d3, e3 = u[3], u[8], u[13], u[18], u[23]
    a4, b4, c4, d4, e4 = u[4], u[9], u[14], u[19], u[24]
    for i in range(before):
        at = 5 * i * run
        w0, w1, w2 = x[at : at + run], x[at + run : at + 2 * run], x[at + 2 * run : at + 3 * run]
        w3, w4 = x[at + 3 * run : at + 4 * run], x[at + 4 * run : at + 5 * run]
        for n in range(run):
            a, b, c, d, e = w0[n], w1[n], w2[n], w3[n], w4[n]
            w0[n] = a0 * a + b0 * b + c0 * c + d0 * d + e0 * e
            w1[n] = a1 * a + b1 * b + c1 * c + d1 * d + e1 * e
            w2[n] = a2 * a + b2 * b + c2 * c + d2 * d + e2 * e
            w3[n] = a3 * a + b3 * b + c3 * c + d3 * d + e3 * e
            w4[n] = a4 * a + b4 * b + c4 * c + d4 * d + e4 * e


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def multiply_6(x: Any, u: Any, before: int) -> None:
    """``multiply`` for modes of six."""
    run = len(x) // (6 * before)
    a0, b0, c0, d0, e0, f0 = u[0], u[6], u[12], u[18], u[24], u[30]
    a1, b1, c1, d1, e1, f1 = u[1], u[7], u[13], u[19], u[25], u[31]
    a2, b2, c2, d2, e2, f2 = u[2], u[8], u[14], u[20], u[26], u[32]
    a3, b3, c3, d3, e3, f3 = u[3], u[9], u[15], u[21], u[27], u[33]
    a4, b4, c4, d4, e4, f4 = u[4], u[10], u[16], u[22], u[28], u[34]
    a5, b5, c5, d5, e5, f5 = u[5], u[11], u[17], u[23], u[29], u[35]
    for i in range(before):
        at = 6 * i * run
        w0, w1 = x[at : at + run], x[at + run : at + 2 * run]
        w2, w3 = x[at + 2 * run : at + 3 * run], x[at + 3 * run : at + 4 * run]
        w4, w5 = x[at + 4 * run : at + 5 * run], x[at + 5 * run : at + 6 * run]
        for n in range(run):
            a, b, c, d, e, f = w0[n], w1[n], w2[n], w3[n], w4[n], w5[n]
            w0[n] = a0 * a + b0 * b + c0 * c + d0 * d + e0 * e + f0 * f
            w1[n] = a1 * a + b1 * b + c1 * c + d1 * d + e1 * e + f1 * f
            w2[n] = a2 * a + b2 * b + c2 * c + d2 * d + e2 * e + f2 * f
            w3[n] = a3 * a + b3 * b + c3 * c + d3 * d + e3 * e + f3 * f
            w4[n] = a4 * a + b4 * b + c4 * c + d4 * d + e4 * e + f4 * f
            w5[n] = a5 * a + b5 * b + c5 * c + d5 * d + e5 * e + f5 * f


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def scale_to(weight: Any, v: Any, out: Any) -> None:
    """``out = weight v``."""
    for n in range(len(out)):
        out[n] = weight * v[n]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def add_three(a: Any, b: Any, c: Any, v: Any, w: Any, z: Any, out: Any) -> None:
    """``out += a v + b w + c z``."""
    for n in range(len(out)):
        out[n] += a * v[n] + b * w[n] + c * z[n]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def add_scaled(weight: Any, v: Any, out: Any) -> None:
    """``out += weight v``."""
    for n in range(len(out)):
        out[n] += weight * v[n]


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def multiply(x: Any, u: Any, before: int, size: int, spare: Any) -> None:
    """Mode product ``u' x`` in place; ``x`` is flat, ``(before, size, rest)``, and ``u``, too, ``(size, size)``."""
    if size == 3:
        multiply_3(x, u, before)
    elif size == 4:
        multiply_4(x, u, before)
    elif size == 5:
        multiply_5(x, u, before)
    elif size == 6:
        multiply_6(x, u, before)
    elif size > 1:
        run = len(x) // (before * size)
        for i in range(before):
            at = i * size * run
            copy(x[at : at + size * run], spare[: size * run])
            for r in range(size):
                row = x[at + r * run : at + (r + 1) * run]
                scale_to(u[r], spare[:run], row)
                s = 1
                while s < size:
                    if s + 3 <= size:
                        add_three(
                            u[s * size + r], u[(s + 1) * size + r], u[(s + 2) * size + r],
                            spare[s * run : (s + 1) * run],
                            spare[(s + 1) * run : (s + 2) * run], spare[(s + 2) * run : (s + 3) * run], row,
                        )  # fmt: skip
                        s += 3
                    else:
                        add_scaled(u[s * size + r], spare[s * run : (s + 1) * run], row)
                        s += 1


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def butterflies(x: Any, half: int) -> None:
    """One level of the Haar transform: sums and differences of the first and second ``half`` of each row's start."""
    root = np.float32(np.sqrt(0.5))
    for i in range(len(x)):
        v, w = x[i, :half], x[i, half : 2 * half]
        for n in range(half):
            p, q = v[n], w[n]
            v[n] = root * (p + q)
            w[n] = root * (p - q)


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def to_core(x: Any, flat: Any, u: Any, patch: Any, spare: Any) -> None:
    """``X x_n U_n'`` with the Haar transform along the group, in place; columns stand in the order of ``halving``.

    ``flat`` is ``x``, flattened, as is each matrix of ``u``.
    """
    before = ONE
    for mode in range(3):
        multiply(flat, u[mode], before, patch[mode], spare)
        before *= patch[mode]
    half = x.shape[1] // 2
    while half > 0:
        butterflies(x, half)
        half //= 2


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def from_core(x: Any, flat: Any, t: Any, patch: Any, spare: Any) -> None:
    """The inverse of ``to_core``, from the transposed factors."""
    half = ONE
    while half < x.shape[1]:
        butterflies(x, half)
        half *= 2
    before = ONE
    for mode in range(3):
        multiply(flat, t[mode], before, patch[mode], spare)
        before *= patch[mode]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def threshold(core: Any, least: Any, out: Any) -> Any:
    """``out``: the entries whose square is above ``least``, 0 elsewhere; their number."""
    power, one, zero = np.float32(0), np.float32(1), np.float32(0)
    for n in range(len(core)):
        gain = one if core[n] * core[n] > least else zero
        out[n] = gain * core[n]
        power += gain
    return power


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def shrink(core: Any, model: Any, noise: Any, out: Any) -> Any:
    """``out``: the entries times Wiener's gains, from the model and the variance of the noise; ``sum g^2``."""
    power = np.float32(0)
    for n in range(len(core)):
        energy = model[n] * model[n]
        gain = energy / (energy + noise)
        out[n] = gain * core[n]
        power += gain * gain
    return power


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def variances_of(u: Any, correlation: Any, out: Any) -> None:
    """``out``: the variances ``diag(u' C u)`` of the coefficients of noise of variance 1 and correlation ``C``."""
    for r in range(len(u)):
        out[r] = np.float32(0)
        for i in range(len(u)):
            for j in range(len(u)):
                out[r] += u[i, r] * correlation[i, j] * u[j, r]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def products_of(v0: Any, v1: Any, v2: Any, out: Any) -> None:
    """``out``: the products of one number of each, flat, in C order."""
    n = 0
    for a in v0:
        for b in v1:
            for c in v2:
                out[n] = a * b * c
                n += 1


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def shrunk_rows(core: Any, model: Any, wiener: bool, strength: Any, variance: Any, shares: Any, out: Any) -> Any:
    """``threshold`` or ``shrink``, with ``shares[i]`` times the variance in row ``i``; ``sum shares g^2``."""
    power = np.float32(0)
    for i in range(len(core)):
        own = variance * shares[i]
        if wiener:
            power += shares[i] * shrink(core[i], model[i], strength * own, out[i])
        else:
            power += shares[i] * threshold(core[i], strength * strength * own, out[i])
    return power


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def scatter(x: Any, corners: Any, inside: Any, window: Any, scale: Any, total: Any) -> None:
    """Add the patches, weighted, to where they come from."""
    for i in range(len(inside)):
        row, move, weight = x[i], inside[i], scale * window[i]
        for n in range(len(corners)):
            total[np.uintp(corners[n] + move)] += weight * row[n]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def scatter_squares(
    x: Any, guide: Any, corners: Any, inside: Any, window: Any, scale: Any, total: Any, squares: Any, weights: Any
) -> None:  # fmt: skip
    """``scatter``, and add the weights, and the weighted squares of the differences from the guide."""
    for i in range(len(inside)):
        row, move, weight = x[i], inside[i], scale * window[i]
        for n in range(len(corners)):
            at = np.uintp(corners[n] + move)
            change = row[n] - guide[at]
            total[at] += weight * row[n]
            squares[at] += weight * change * change
            weights[at] += weight


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def bounds_of_used(used: Any, seconds: Any, thirds: Any) -> Any:
    """The ranges of ``seconds`` and ``thirds`` that hold all used references of a plane; all 0 where there are none."""
    top, bottom, left, right = len(seconds), 0, len(thirds), 0
    for m in range(len(seconds)):
        for n in range(len(thirds)):
            if used[seconds[m], thirds[n]]:
                top, bottom = min(top, m), m + 1
                left, right = min(left, n), max(right, n + 1)
    return top, bottom, left, right


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def turn(u: Any, out: Any) -> None:
    """``out = u'``."""
    for i in range(len(u)):
        for j in range(len(u)):
            out[j, i] = u[i, j]


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def take_moves(nearby: Any, elsewhere: bool, moved: Any, j: int) -> None:
    """``moved`` at frame ``j``: the numbers of the moves found, or of the first one in the frame itself."""
    for m in range(moved.shape[0]):
        for n in range(moved.shape[1]):
            moved[m, n, j] = nearby[m, n, 0] if elsewhere else 0


@numba.njit(fastmath=_ARITHMETIC, error_model="numpy", inline="always")
def moves_to(moves: Any, here: Any, there: Any, elsewhere: bool, out: Any) -> None:
    """``out``: the moves to another frame, with that of the specimen."""
    for i in range(len(moves)):
        for k in range(3):
            out[i, k] = moves[i, k] + there[k] - here[k] if elsewhere else 0


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def filter_groups(
    data: Any,
    guide: Any,
    pilot: Any,
    shape: Any,
    wiener: bool,
    variance: Any,
    correlations: Any,
    strengths: Any,
    patch: Any,
    frames: int,
    offsets: Any,
    moves: Any,
    drift: Any,
    favour: Any,
    halving: Any,
    inside: Any,
    window: Any,
    used: Any,
    firsts: Any,
    seconds: Any,
    thirds: Any,
    totals: Any,
    squares: Any,
    weights: Any,
    scratch: Any,
) -> None:
    """Filter the groups of all reference corners that are used, and add them up: see ``patch_groups.sums_arrays``.

    Data, guide, pilot and sums are flat arrays of shape ``shape``, and ``drift`` has where each frame lies. All
    estimates of a group have the weight of the first one. ``correlations`` has matrices of the noise of a patch along
    z, y and x, of which the first is empty where the noise is white. ``scratch`` is that of ``scratch_for``.
    """
    groups, flats, spare = scratch.groups, scratch.flats, scratch.spare
    factors, turned, variances = scratch.factors, scratch.turned, scratch.variances
    keys, alike, moved, around = scratch.keys, scratch.alike, scratch.moved, scratch.around
    nearby, shares, corners = scratch.nearby, scratch.shares, scratch.corners
    sources = data, pilot
    white, models = len(correlations[0]) == 0, 2 if wiener else 1
    x, out, flat, flat_out = groups[0], groups[2], flats[0], flats[2]
    model, flat_model = groups[models - 1], flats[models - 1]
    one, scale = np.float32(1), np.float32(1)
    for number in range(len(firsts)):
        frame, a = firsts[number, 0], firsts[number, 1]
        start = min(max(frame - (frames - 1) // 2, 0), shape[0] - frames)
        here = used[frame, a]
        top, bottom, left, right = bounds_of_used(here, seconds, thirds)
        if bottom == 0:
            continue
        band, side = seconds[top:bottom], thirds[left:right]
        nearest(guide, shape, frame, NONE, a, band, side, patch, offsets, np.float32(0), keys, alike, scratch)
        for j in range(frames):
            elsewhere = start + j != frame
            moves_to(moves, drift[frame], drift[start + j], elsewhere, around[j])
            if elsewhere:
                later = start + j - frame
                nearest(
                    guide, shape, frame, later, a, band, side, patch, around[j], favour, scratch.key, nearby, scratch
                )
            take_moves(nearby, elsewhere, moved, j)
        for m in range(bottom - top):
            for n in range(right - left):
                if not here[band[m], side[n]]:
                    continue
                place(
                    shape,
                    patch,
                    start,
                    a,
                    band[m],
                    side[n],
                    alike[m, n],
                    offsets,
                    moved[m, n],
                    around,
                    halving,
                    corners,
                )
                for each in range(models):
                    gather(sources[each], corners, inside, groups[each])
                before = ONE
                for mode in range(3):
                    factor(flat_model, before, patch[mode], turned[mode], factors[mode], spare)
                    turn(factors[mode], turned[mode])
                    before *= patch[mode]
                    if not white:
                        variances_of(factors[mode], correlations[mode], variances[mode])
                for each in range(models):
                    to_core(groups[each], flats[each], scratch.flat_factors, patch, spare)
                if not white:
                    products_of(variances[0], variances[1], variances[2], shares)
                for which in range(len(strengths)):
                    strength = strengths[which]
                    if not white:
                        power = shrunk_rows(x, model, wiener, strength, variance, shares, out)
                    elif wiener:
                        power = shrink(flat, flat_model, strength * variance, flat_out)
                    else:
                        power = threshold(flat, strength * strength * variance, flat_out)
                    from_core(out, flat_out, scratch.flat_turned, patch, spare)
                    if which == 0:
                        scale = one / max(power, one)
                        scatter_squares(out, guide, corners, inside, window, scale, totals[0], squares, weights)
                    else:
                        scatter(out, corners, inside, window, scale, totals[which])
