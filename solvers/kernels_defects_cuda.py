"""CUDA kernels that compare voxels with the measured ones around them: in the volume, and in their plane.

The twins for the host are those of :mod:`tensorcell.solvers.kernels_defects`, whose names they bear. The results are
the same bit for bit: they are counts, order statistics and differences, and what the host computes in double precision
is computed so here.

======================= ==================== ==============================================================
kernel                  a thread             cost
======================= ==================== ==============================================================
``far_from_most``       a voxel              27 voxels, most of them from the cache
``around``              a position           26 voxels, sorted by insertion
``along_columns``       a pixel              9 voxels a plane, and 128 readings of what they give (double: 256)
======================= ==================== ==============================================================

A median along z is found one bit after the other, from the highest to the lowest: whether a bit is set is told by how
many numbers are smaller. So a thread holds no column, and neighbouring threads read neighbouring numbers.
"""

from __future__ import annotations

import numpy as np

from .arrays import Array, contiguous, namespace_of
from .cuda import STANDARD, Launch, Program, launch

THREADS = 256

BLOCKS = 1 << 16
"""Largest grid; each thread takes one voxel, position or pixel after the other."""

CHUNK_VOXELS = 1 << 24
"""Voxels of the rows whose differences from their planes are held at a time."""

SOURCE = (
    f"enum {{ THREADS = {THREADS} }};\n"
    r"""
struct Volume {
    int planes, rows, columns;
};

// Put a value in its place behind or among `count` ordered ones.
template <typename T>
__device__ inline void insert(T* ordered, int count, T value) {
    int place = count;
    for (; place > 0 && ordered[place - 1] > value; --place) ordered[place] = ordered[place - 1];
    ordered[place] = value;
}

template <typename T>
__device__ inline double between(T low, T high) {
    return low + (double)(high - low) / 2;
}

// The smallest distance from the middle within which `wanted` of the ordered values lie.
template <typename T>
__device__ inline double distance_within(const T* ordered, int count, double middle, int wanted) {
    int first = 0, last = count - 1;
    for (int k = wanted; k < count; ++k) {  // the one furthest from the middle is at one of the two ends
        if (middle - ordered[first] > ordered[last] - middle)
            ++first;
        else
            --last;
    }
    const double below = middle - ordered[first], above = ordered[last] - middle;
    return below > above ? below : above;
}

// middle and spread are NaN before, and stay so where there is no trusted neighbour.
template <typename T>
__global__ void __launch_bounds__(THREADS)
around(const T* v, const unsigned char* trusted, const long long* positions, T* middle, T* spread,
       unsigned char* number, long long size, int planes, int rows, int columns) {
    const long long stride = gridDim.x * (long long)THREADS;
    for (long long n = blockIdx.x * (long long)THREADS + threadIdx.x; n < size; n += stride) {
        const long long own = positions[n], line = own / columns;
        const int x = own % columns, y = line % rows, z = line / rows;
        T ordered[26];
        int count = 0;
        for (int a = z > 0 ? z - 1 : 0; a < planes && a <= z + 1; ++a)
            for (int b = y > 0 ? y - 1 : 0; b < rows && b <= y + 1; ++b)
                for (int c = x > 0 ? x - 1 : 0; c < columns && c <= x + 1; ++c) {
                    const long long other = (a * (long long)rows + b) * columns + c;
                    if (other != own && trusted[other]) insert(ordered, count++, v[other]);
                }
        number[n] = count;
        if (count == 0) continue;
        const double m = between(ordered[(count - 1) / 2], ordered[count / 2]);
        const int most = 4 * count / 5;
        middle[n] = (T)m;
        spread[n] = (T)distance_within(ordered, count, m, most > 1 ? most : 1);
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
far_from_most(const T* v, const unsigned char* trusted, const unsigned char* wanted, T least, unsigned char* found,
              int planes, int rows, int columns) {
    const long long size = (long long)planes * rows * columns, stride = gridDim.x * (long long)THREADS;
    for (long long own = blockIdx.x * (long long)THREADS + threadIdx.x; own < size; own += stride) {
        found[own] = 0;
        if (!wanted[own]) continue;
        const long long line = own / columns;
        const int x = own % columns, y = line % rows, z = line / rows;
        const T low = v[own] - least, high = v[own] + least;
        int others = 0, below = 0, above = 0;
        for (int a = z > 0 ? z - 1 : 0; a < planes && a <= z + 1; ++a)
            for (int b = y > 0 ? y - 1 : 0; b < rows && b <= y + 1; ++b)
                for (int c = x > 0 ? x - 1 : 0; c < columns && c <= x + 1; ++c) {
                    const long long other = (a * (long long)rows + b) * columns + c;
                    if (other == own || !trusted[other]) continue;
                    ++others;
                    below += v[other] < low;
                    above += v[other] > high;
                }
        found[own] = 2 * (below > above ? below : above) >= others;
    }
}

template <typename T>
struct Bits;

template <>
struct Bits<float> {
    typedef unsigned int Key;
};

template <>
struct Bits<double> {
    typedef unsigned long long Key;
};

template <typename T>
__device__ inline typename Bits<T>::Key highest_bit() {
    return typename Bits<T>::Key(1) << (8 * sizeof(T) - 1);
}

// A whole number that is the greater, the greater the value is; and the value of such a number.
template <typename T>
__device__ inline typename Bits<T>::Key key_of(T value) {
    typename Bits<T>::Key bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & highest_bit<T>() ? ~bits : bits | highest_bit<T>();
}

template <typename T>
__device__ inline T value_of(typename Bits<T>::Key key) {
    const typename Bits<T>::Key bits = key & highest_bit<T>() ? key & ~highest_bit<T>() : ~key;
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// What would stand at a place of a column of `count` numbers, `step` apart, if it were sorted.
template <typename T>
__device__ inline T order_statistic(const T* column, int count, long long step, int place) {
    typename Bits<T>::Key found = 0;
    for (typename Bits<T>::Key bit = highest_bit<T>(); bit; bit >>= 1) {
        int below = 0;
        for (int n = 0; n < count; ++n) below += key_of(column[n * step]) < (found | bit);
        if (below <= place) found |= bit;
    }
    return value_of<T>(found);
}

template <typename T>
__device__ inline double median(const T* column, int count, long long step) {
    const T low = order_statistic(column, count, step, (count - 1) / 2);
    return count % 2 ? (double)low : between(low, order_statistic(column, count, step, count / 2));
}

// For the rows from begin to end. off and levels have room for them in all planes; excess and level are NaN before,
// same and agreeing 0, and stay so where no plane has three measured neighbours.
template <typename T>
__global__ void __launch_bounds__(THREADS)
along_columns(const T* v, const unsigned char* measured, T* excess, T* level, T* same, T* agreeing, long long* used,
              T* off, T* levels, int begin, int end, int planes, int rows, int columns) {
    const long long pixels = (end - begin) * (long long)columns, stride = gridDim.x * (long long)THREADS;
    for (long long pixel = blockIdx.x * (long long)THREADS + threadIdx.x; pixel < pixels; pixel += stride) {
        const int y = begin + pixel / columns, x = pixel % columns;
        int count = 0, equal = 0, agree = 0;
        T before = 0;
        for (int z = 0; z < planes; ++z) {
            const long long own = ((long long)z * rows + y) * columns + x;
            if (!measured[own]) continue;
            T ordered[8];
            int beside = 0;
            for (int b = y > 0 ? y - 1 : 0; b < rows && b <= y + 1; ++b)
                for (int c = x > 0 ? x - 1 : 0; c < columns && c <= x + 1; ++c) {
                    const long long other = ((long long)z * rows + b) * columns + c;
                    if (other != own && measured[other]) insert(ordered, beside++, v[other]);
                }
            if (beside < 3) continue;
            const double m = between(ordered[(beside - 1) / 2], ordered[beside / 2]);
            off[count * pixels + pixel] = (T)(v[own] - m);
            levels[count * pixels + pixel] = (T)m;
            equal += count > 0 && v[own] == before;
            before = v[own];
            ++count;
        }
        const long long place = (long long)y * columns + x;
        used[place] = count;
        if (count == 0) continue;
        const double e = median(off + pixel, count, pixels);
        excess[place] = (T)e;
        level[place] = (T)median(levels + pixel, count, pixels);
        for (int n = 0; n < count; ++n) {
            const double three = 3 * (double)off[n * pixels + pixel];
            agree += (e > 0 && three >= e) || (e < 0 && three <= e);
        }
        same[place] = (T)(equal / (double)(count > 1 ? count - 1 : 1));
        agreeing[place] = (T)(agree / (double)count);
    }
}
"""
)

PROGRAM = Program(SOURCE, THREADS, (STANDARD, "--fmad=false"))
"""Sums are rounded as the host rounds them, so that thresholds fall alike."""


def around_cuda(
    volume: Array, trusted: Array, positions: Array, *, launch: Launch = launch
) -> tuple[Array, Array, Array]:
    """Median, spread and number of the trusted ones among the 26 neighbours of each position (flat, C order).

    Parameters
    ----------
    volume, trusted : arrays ``(Z, Y, X)``
        Float32 or float64, and bool.
    positions : int array ``(n,)``
    launch : callable
        What launches the kernel (another one in tests without a GPU).
    """
    xp, size = namespace_of(volume, trusted, positions), positions.shape[0]
    middle, spread = (xp.full((size,), xp.nan, dtype=volume.dtype) for _ in range(2))
    number = xp.zeros((size,), dtype=xp.uint8)
    if size:
        given = contiguous(volume), contiguous(trusted), contiguous(xp.astype(positions, xp.int64, copy=False))
        numbers = np.int64(size), *map(np.int32, volume.shape)
        launch(PROGRAM, instance("around", volume), blocks_of(size), (*given, middle, spread, number, *numbers), 0)
    return middle, spread, number


def far_from_most_cuda(
    volume: Array, trusted: Array, wanted: Array, least: float, *, launch: Launch = launch
) -> Array:  # fmt: skip
    """True at the wanted voxels that are further than ``least`` from half of their trusted neighbours, on one side."""
    xp = namespace_of(volume, trusted, wanted)
    found = xp.empty(volume.shape, dtype=xp.bool)
    arrays = tuple(map(contiguous, (volume, trusted, wanted)))
    numbers = map(np.int32, volume.shape)
    step = volume.dtype.type(least)
    launch(PROGRAM, instance("far_from_most", volume), blocks_of(volume.size), (*arrays, step, found, *numbers), 0)
    return found


def along_columns_cuda(
    volume: Array, measured: Array, *, voxels: int = CHUNK_VOXELS, launch: Launch = launch
) -> tuple[Array, Array, Array, Array, Array]:
    """``excess, level, same, agreeing, used`` of every pixel, ``(Y, X)``; see ``along_columns`` for the host.

    Parameters
    ----------
    volume, measured : arrays ``(Z, Y, X)``
        Float32 or float64, and bool.
    voxels : int
        About so many are handled at a time, at least one row: two numbers are held for each.
    launch : callable
        What launches the kernel (another one in tests without a GPU).
    """
    xp, (planes, rows, columns) = namespace_of(volume, measured), volume.shape
    excess, level = (xp.full((rows, columns), xp.nan, dtype=volume.dtype) for _ in range(2))
    same, agreeing = (xp.zeros((rows, columns), dtype=volume.dtype) for _ in range(2))
    used = xp.zeros((rows, columns), dtype=xp.int64)
    step = max(1, min(rows, voxels // (planes * columns)))
    held = [xp.empty((planes * step * columns,), dtype=volume.dtype) for _ in range(2)]
    arrays = (contiguous(volume), contiguous(measured), excess, level, same, agreeing, used, *held)
    for first in range(0, rows, step):
        last = min(rows, first + step)
        numbers = map(np.int32, (first, last, planes, rows, columns))
        launch(
            PROGRAM, instance("along_columns", volume), blocks_of((last - first) * columns), (*arrays, *numbers), 0
        )  # fmt: skip
    return excess, level, same, agreeing, used


def instance(name: str, volume: Array) -> str:
    """A kernel for the type of the volume."""
    return f"{name}<{'float' if volume.dtype.itemsize == 4 else 'double'}>"


def blocks_of(threads: int) -> int:
    """Blocks that so many threads take, as far as a grid may be large.

    >>> blocks_of(1), blocks_of(257), blocks_of(10**9)
    (1, 2, 65536)
    """
    return min(BLOCKS, -(-threads // THREADS))
