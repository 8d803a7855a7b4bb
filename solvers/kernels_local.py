"""CPU kernel of the patch-group filter: matching, a small Tucker model a group, aggregation, all in the cache.

The array twin, for NumPy and CuPy, is ``sums_arrays`` of :mod:`tensorcell.solvers.patch_groups`, where the equations
stand. The kernel releases the interpreter lock; groups whose patches cannot touch each other run on several
threads, in an order that does not depend on their number.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_ARITHMETIC = {"reassoc", "contract", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def nearest(v: Any, at: Any, patch: Any, reach: Any, corners: Any, distances: Any) -> None:
    """Corners of the patches nearest to the one at ``at``, itself first, in ascending order of ``distances``."""
    size = len(distances)
    found = 0
    a0, b0, c0 = at[0], at[1], at[2]
    for a in range(max(0, a0 - reach[0]), min(v.shape[0] - patch[0], a0 + reach[0]) + 1):
        for b in range(max(0, b0 - reach[1]), min(v.shape[1] - patch[1], b0 + reach[1]) + 1):
            for c in range(max(0, c0 - reach[2]), min(v.shape[2] - patch[2], c0 + reach[2]) + 1):
                d = np.float32(0)
                if a == a0 and b == b0 and c == c0:
                    d = np.float32(-1)
                else:
                    for i in range(patch[0]):
                        for j in range(patch[1]):
                            for k in range(patch[2]):
                                t = v[a0 + i, b0 + j, c0 + k] - v[a + i, b + j, c + k]
                                d += t * t
                        if found == size and d >= distances[size - 1]:
                            break
                if found == size and d >= distances[size - 1]:
                    continue
                place = min(found, size - 1)
                found = min(found + 1, size)
                while place > 0 and distances[place - 1] > d:
                    distances[place] = distances[place - 1]
                    corners[place, 0] = corners[place - 1, 0]
                    corners[place, 1] = corners[place - 1, 1]
                    corners[place, 2] = corners[place - 1, 2]
                    place -= 1
                distances[place] = d
                corners[place, 0], corners[place, 1], corners[place, 2] = a, b, c


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def gather(v: Any, corners: Any, patch: Any, out: Any) -> None:
    """Patches as columns of ``out``: the long axis of a group last, so that all else runs along it."""
    for n in range(len(corners)):
        a, b, c = corners[n, 0], corners[n, 1], corners[n, 2]
        at = 0
        for i in range(patch[0]):
            for j in range(patch[1]):
                for k in range(patch[2]):
                    out[at, n] = v[a + i, b + j, c + k]
                    at += 1


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def factor(x: Any, before: int, size: int, after: int) -> Any:
    """Eigenvectors of the Gram matrix of one patch mode; ``x`` is ``(before * size * after, K)``."""
    gram = np.zeros((size, size), np.float32)
    for i in range(before):
        for r in range(size):
            for s in range(r + 1):
                total = np.float32(0)
                for k in range(after):
                    left, right = x[(i * size + r) * after + k], x[(i * size + s) * after + k]
                    for n in range(len(left)):
                        total += left[n] * right[n]
                gram[r, s] += total
    for r in range(size):
        for s in range(r):
            gram[s, r] = gram[r, s]
    return np.linalg.eigh(gram)[1]


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def multiply(x: Any, u: Any, before: int, size: int, after: int, inverse: bool, out: Any) -> None:
    """Mode product with ``u'`` (``u`` with ``inverse``)."""
    for i in range(before):
        for r in range(size):
            for k in range(after):
                row = out[(i * size + r) * after + k]
                for n in range(len(row)):
                    row[n] = np.float32(0)
                for s in range(size):
                    weight = u[r, s] if inverse else u[s, r]
                    other = x[(i * size + s) * after + k]
                    for n in range(len(row)):
                        row[n] += weight * other[n]


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def haar(x: Any, inverse: bool, spare: Any) -> None:
    """Orthonormal Haar transform along the last axis, a power of two, in place."""
    half = np.float32(np.sqrt(0.5))
    size = x.shape[1]
    for i in range(len(x)):
        row = x[i]
        length = 2 if inverse else size
        while 2 <= length <= size:
            middle = length // 2
            if inverse:
                for n in range(middle):
                    spare[2 * n] = half * (row[n] + row[middle + n])
                    spare[2 * n + 1] = half * (row[n] - row[middle + n])
            else:
                for n in range(middle):
                    spare[n] = half * (row[2 * n] + row[2 * n + 1])
                    spare[middle + n] = half * (row[2 * n] - row[2 * n + 1])
            for n in range(length):
                row[n] = spare[n]
            length = length * 2 if inverse else length // 2


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def to_core(x: Any, u0: Any, u1: Any, u2: Any, patch: Any, line: Any, spare: Any, core: Any) -> None:
    """``core = X x_n U_n'`` with the Haar transform along the group."""
    multiply(x, u0, 1, patch[0], patch[1] * patch[2], False, core)
    multiply(core, u1, patch[0], patch[1], patch[2], False, spare)
    multiply(spare, u2, patch[0] * patch[1], patch[2], 1, False, core)
    haar(core, False, line)


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def filter_groups(
    data: Any,
    guide: Any,
    pilot: Any,
    wiener: bool,
    variance: Any,
    strength: float,
    patch: Any,
    reach: Any,
    size: int,
    window: Any,
    used: Any,
    firsts: Any,
    seconds: Any,
    thirds: Any,
    total: Any,
    squares: Any,
    weights: Any,
) -> None:
    """Filter the groups of all reference corners that are used, and add them up: see ``patch_groups.sums_arrays``."""
    length = patch[0] * patch[1] * patch[2]
    corners, distances, at = np.zeros((size, 3), np.int64), np.zeros(size, np.float32), np.zeros(3, np.int64)
    groups, line = np.zeros((5, length, size), np.float32), np.zeros(size, np.float32)
    x, spare, core, model, model_core = groups[0], groups[1], groups[2], groups[3], groups[4]
    one, zero = np.float32(1), np.float32(0)
    noise, least = np.float32(strength) * variance, np.float32(strength) ** 2 * variance
    for a in firsts:
        for b in seconds:
            for c in thirds:
                if not used[a, b, c]:
                    continue
                at[0], at[1], at[2] = a, b, c
                nearest(guide, at, patch, reach, corners, distances)
                gather(data, corners, patch, x)
                if wiener:
                    gather(pilot, corners, patch, model)
                else:
                    model = x
                u0 = factor(model, 1, patch[0], patch[1] * patch[2])
                u1 = factor(model, patch[0], patch[1], patch[2])
                u2 = factor(model, patch[0] * patch[1], patch[2], 1)
                to_core(x, u0, u1, u2, patch, line, spare, core)
                power = zero
                if wiener:
                    to_core(model, u0, u1, u2, patch, line, spare, model_core)
                    for i in range(length):
                        for n in range(size):
                            energy = model_core[i, n] * model_core[i, n]
                            gain = energy / (energy + noise)
                            core[i, n] *= gain
                            power += gain * gain
                else:
                    for i in range(length):
                        for n in range(size):
                            kept = one if core[i, n] * core[i, n] > least else zero
                            core[i, n] *= kept
                            power += kept
                haar(core, True, line)
                multiply(core, u0, 1, patch[0], patch[1] * patch[2], True, spare)
                multiply(spare, u1, patch[0], patch[1], patch[2], True, core)
                multiply(core, u2, patch[0] * patch[1], patch[2], 1, True, spare)
                scale = one / max(power, one)
                for n in range(size):
                    a1, b1, c1 = corners[n, 0], corners[n, 1], corners[n, 2]
                    place = 0
                    for i in range(patch[0]):
                        for j in range(patch[1]):
                            for k in range(patch[2]):
                                weight = scale * window[place]
                                change = spare[place, n] - guide[a1 + i, b1 + j, c1 + k]
                                total[a1 + i, b1 + j, c1 + k] += weight * change
                                squares[a1 + i, b1 + j, c1 + k] += weight * change * change
                                weights[a1 + i, b1 + j, c1 + k] += weight
                                place += 1
