"""CUDA kernel of the patch-group filter: a block of threads finds a group, shrinks it in shared memory, adds it up.

The twin for the host is ``filter_groups`` of :mod:`tensorcell.solvers.kernels_local`; the equations stand in
:mod:`tensorcell.solvers.patch_groups`. A group is a matrix ``(p^3, K)``, one column a patch, so that neighbouring
threads work on neighbouring numbers. Distances are summed in the order in which the host sums them, so that patches
that are equally far are chosen alike.

Overlapping estimates are added as whole numbers of 64 bits, in units so small that nothing is lost that float32 would
keep, and so large that no sum overflows (:func:`units_of_sums`). Whole numbers may be added in any order, so that the
result is the same in every run.

Shared memory of a block: the group, its pilot and what is left of it, ``12 p^3 K`` bytes (48 kB for 32 patches of 5^3
voxels). Where a device has less, they lie in its main memory, of which most is found in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, namespace_of, scalar
from .cuda import STANDARD, Launch, Program, launch, shared_of_device

if TYPE_CHECKING:
    from .patch_groups import Geometry

THREADS = 256

BLOCKS = 4096
"""Largest grid; each block takes one group after the other."""

BITS = 62
"""Of a sum, besides its sign."""

FARTHEST = 1024.0
"""Estimates that are further than so many standard deviations of the noise from the guide count as being so far."""

SOURCE = (
    f"enum {{ THREADS = {THREADS} }};\n"
    r"""
typedef unsigned long long Key;

#ifndef POOL  // shared memory whose size is chosen at the launch
#define POOL(name) extern __shared__ Key name[]
#endif

// What does not differ from group to group. Positions are along time, z, y and x.
struct Volume {
    int frames, depth, rows, columns;
};

template <int PZ, int PY, int PX>
__device__ inline float distance(const float* v, const Volume& shape, long long here, long long there) {
    float total = 0;
    for (int k = 0; k < PX; ++k) {
        float line = 0;
        for (int j = 0; j < PY; ++j) {
            float sum = 0;
            for (int i = 0; i < PZ; ++i) {
                const long long at = ((long long)i * shape.rows + j) * shape.columns + k;
                const float off = v[here + at] - v[there + at];
                sum += off * off;
            }
            line += sum;
        }
        total += line;
    }
    return total;
}

// The distance, whose bits are in the order of its size, and the number of the offset below it; the largest number
// where the patch would reach over a border.
template <int PZ, int PY, int PX>
__device__ inline Key key_of(const float* v, const Volume& shape, int t, int z, int y, int x, int later, int dz, int dy,
                             int dx, int number, float favour) {
    const int a = z + dz, b = y + dy, c = x + dx;
    if (a < 0 || a > shape.depth - PZ || b < 0 || b > shape.rows - PY || c < 0 || c > shape.columns - PX)
        return ~Key(0);
    const long long here = (((long long)t * shape.depth + z) * shape.rows + y) * shape.columns + x;
    const long long there = (((long long)(t + later) * shape.depth + a) * shape.rows + b) * shape.columns + c;
    float far = distance<PZ, PY, PX>(v, shape, here, there);
    if (number == 0) far *= favour;
    return (Key)__float_as_uint(far) << 32 | (unsigned int)number;
}

// Bitonic sort of a power of two of keys.
__device__ inline void sort(Key* keys, int count, int thread) {
    for (int size = 2; size <= count; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int n = thread; n < count / 2; n += THREADS) {
                const int low = n / step * 2 * step + n % step, high = low + step;
                const bool up = (low & size) == 0;
                const Key p = keys[low], q = keys[high];
                if ((p > q) == up) {
                    keys[low] = q;
                    keys[high] = p;
                }
            }
        }
    }
    __syncthreads();
}

// Eigenvectors of a symmetric matrix, as columns of u, by cyclic Jacobi rotations.
template <int P>
__device__ inline void rotate(float (*gram)[P], float (*u)[P]) {
    for (int r = 0; r < P; ++r)
        for (int s = 0; s < P; ++s) u[r][s] = r == s ? 1.0f : 0.0f;
    for (int sweep = 0; sweep < 12; ++sweep) {
        bool settled = true;
        for (int r = 0; r < P - 1; ++r) {
            for (int s = r + 1; s < P; ++s) {
                const float off = gram[r][s], product = gram[r][r] * gram[s][s];
                if (off * off <= 1e-10f * (product < 0 ? -product : product)) continue;
                settled = false;
                const float slope = (gram[s][s] - gram[r][r]) / (2 * off);
                const float steep = slope < 0 ? -slope : slope;
                float tangent = 1 / (steep + sqrtf(slope * slope + 1));
                if (slope < 0) tangent = -tangent;
                const float cosine = 1 / sqrtf(tangent * tangent + 1), sine = tangent * cosine;
                for (int k = 0; k < P; ++k) {
                    const float p = gram[k][r], q = gram[k][s];
                    gram[k][r] = cosine * p - sine * q;
                    gram[k][s] = sine * p + cosine * q;
                }
                for (int k = 0; k < P; ++k) {
                    float p = gram[r][k], q = gram[s][k];
                    gram[r][k] = cosine * p - sine * q;
                    gram[s][k] = sine * p + cosine * q;
                    p = u[k][r];
                    q = u[k][s];
                    u[k][r] = cosine * p - sine * q;
                    u[k][s] = sine * p + cosine * q;
                }
            }
        }
        if (settled) break;
    }
}

// Inner products of rows r and s of the unfolding of x, (BEFORE, P, run), that a lane of 32 adds up.
template <int BEFORE, int P>
__device__ inline float share_of_product(const float* x, int run, int pair, int lane) {
    int r = 0;
    while (pair > r) pair -= ++r;
    const float *first = x + r * run, *second = x + pair * run;
    float sum = 0;
    for (int i = 0; i < BEFORE; ++i)
        for (int n = lane; n < run; n += 32) sum += first[i * P * run + n] * second[i * P * run + n];
    return sum;
}

template <int P>
__device__ inline void store_pair(float (*gram)[P], int pair, float value) {
    int r = 0;
    while (pair > r) pair -= ++r;
    gram[r][pair] = gram[pair][r] = value;
}

// Mode product in place with u' (or with u, where BACK); a thread takes whole fibres.
template <int BEFORE, int P, bool BACK>
__device__ inline void multiply(float* x, const float (*u)[P], int run, int thread) {
    for (int fibre = thread; fibre < BEFORE * run; fibre += THREADS) {
        float* at = x + (fibre / run * P) * run + fibre % run;
        float old[P];
        for (int s = 0; s < P; ++s) old[s] = at[s * run];
        for (int r = 0; r < P; ++r) {
            float sum = 0;
            for (int s = 0; s < P; ++s) sum += (BACK ? u[r][s] : u[s][r]) * old[s];
            at[r * run] = sum;
        }
    }
    __syncthreads();
}

// One level of the Haar transform of all rows.
template <int LENGTH, int K>
__device__ inline void butterflies(float* x, int half, int thread) {
    const float root = 0.70710678f;
    for (int n = thread; n < LENGTH * half; n += THREADS) {
        float* at = x + n / half * K + n % half;
        const float p = at[0], q = at[half];
        at[0] = root * (p + q);
        at[half] = root * (p - q);
    }
    __syncthreads();
}

template <int P>
__device__ inline float variance_of(const float (*u)[P], const float* correlation, int r) {
    float sum = 0;
    for (int i = 0; i < P; ++i)
        for (int j = 0; j < P; ++j) sum += u[i][r] * correlation[i * P + j] * u[j][r];
    return sum;
}

__device__ inline void add(Key* sum, float value, float unit) { atomicAdd(sum, (Key)__float2ll_rn(value * unit)); }

__device__ inline int within(int value, int largest) { return value < 0 ? 0 : value > largest ? largest : value; }

// Filter the groups of all references, (count, 4), and add them up. FRAMES patches of a group are one that is followed.
template <int PZ, int PY, int PX, int K, int FRAMES, bool WIENER, bool WHITE>
__global__ void __launch_bounds__(THREADS, 2)
filter_groups(const float* data, const float* guide, const float* pilot, int frames, int depth, int rows, int columns,
              const int* references, int count, const int* offsets, int offset_count, int key_count, const int* moves,
              int move_count, const int* drift, float favour, const int* halving, const float* window,
              const float* correlation, const float* strengths, int strength_count, float variance, float* scratch,
              Key* totals, Key* squares, Key* weights, float unit, float unit_of_squares, float unit_of_weights,
              float farthest) {
    enum { LENGTH = PZ * PY * PX, SIZE = LENGTH * K, MEMBERS = K / FRAMES, MOST = 5 };
    enum { FIRST = PZ * (PZ + 1) / 2, SECOND = FIRST + PY * (PY + 1) / 2, PAIRS = SECOND + PX * (PX + 1) / 2 };
    POOL(pool);
    __shared__ Key reduced[THREADS];
    __shared__ float partial[THREADS];
    __shared__ int moved[FRAMES][3], alike[MEMBERS];
    __shared__ long long corners[K];
    __shared__ float g0[PZ][PZ], g1[PY][PY], g2[PX][PX], u0[PZ][PZ], u1[PY][PY], u2[PX][PX], v0[PZ], v1[PY], v2[PX];
    const int thread = threadIdx.x, lane = thread % 32;
    const Volume shape = {frames, depth, rows, columns};
    const long long voxels = (long long)frames * depth * rows * columns;
    Key* keys = pool;
    float* x = scratch ? scratch + 3 * (long long)SIZE * blockIdx.x : reinterpret_cast<float*>(pool);
    float *model = x + SIZE, *out = model + SIZE;

    for (int group = blockIdx.x; group < count; group += gridDim.x) {
        const int* corner = references + 4 * (long long)group;
        const int t = corner[0], a = corner[1], b = corner[2], c = corner[3];
        const int start = within(t - (FRAMES - 1) / 2, frames - FRAMES);

        // The nearest patches of its frame.
        for (int n = thread; n < key_count; n += THREADS) {
            const int* to = offsets + 3 * n;
            keys[n] = n < offset_count
                          ? key_of<PZ, PY, PX>(guide, shape, t, a, b, c, 0, to[0], to[1], to[2], n, 0.0f)
                          : ~Key(0);
        }
        sort(keys, key_count, thread);
        const bool enough = keys[MEMBERS - 1] != ~Key(0);
        for (int n = thread; n < MEMBERS; n += THREADS) alike[n] = enough ? (int)(keys[n] & 0xFFFFFFFF) : 0;

        // Where the patch lies in the other frames.
        for (int j = 0; j < FRAMES; ++j) {
            const int later = start + j - t;
            int way[3];
            for (int axis = 0; axis < 3; ++axis)
                way[axis] = later ? drift[3 * (start + j) + axis] - drift[3 * t + axis] : 0;
            Key least = ~Key(0);
            for (int n = thread; later != 0 && n < move_count; n += THREADS) {
                const int* to = moves + 3 * n;
                const Key key = key_of<PZ, PY, PX>(guide, shape, t, a, b, c, later, way[0] + to[0], way[1] + to[1],
                                                   way[2] + to[2], n, favour);
                if (key < least) least = key;
            }
            reduced[thread] = least;
            for (int half = THREADS / 2; half > 0; half /= 2) {
                __syncthreads();
                if (thread < half && reduced[thread + half] < reduced[thread]) reduced[thread] = reduced[thread + half];
            }
            if (thread == 0) {
                const int best = reduced[0] == ~Key(0) ? 0 : (int)(reduced[0] & 0xFFFFFFFF);
                for (int axis = 0; axis < 3; ++axis) moved[j][axis] = way[axis] + (later ? moves[3 * best + axis] : 0);
            }
            __syncthreads();
        }
        for (int n = thread; n < K; n += THREADS) {
            const int* to = offsets + 3 * alike[n / FRAMES];
            const int j = n % FRAMES;
            const long long z = within(a + to[0] + moved[j][0], depth - PZ);
            const long long y = within(b + to[1] + moved[j][1], rows - PY);
            const long long w = within(c + to[2] + moved[j][2], columns - PX);
            corners[halving[n]] = (((start + j) * (long long)depth + z) * rows + y) * columns + w;
        }
        __syncthreads();

        // The group, and its factors.
        for (int e = thread; e < SIZE; e += THREADS) {
            const int i = e / K;
            const long long at = corners[e % K] + ((i / (PY * PX)) * (long long)rows + i / PX % PY) * columns + i % PX;
            x[e] = data[at];
            if (WIENER) model[e] = pilot[at];
        }
        __syncthreads();
        const float* basis = WIENER ? model : x;
        for (int first = 0; first < PAIRS; first += THREADS / 32) {
            const int pair = first + thread / 32;
            float sum = 0;
            if (pair < FIRST) sum = share_of_product<1, PZ>(basis, PY * PX * K, pair, lane);
            else if (pair < SECOND) sum = share_of_product<PZ, PY>(basis, PX * K, pair - FIRST, lane);
            else if (pair < PAIRS) sum = share_of_product<PZ * PY, PX>(basis, K, pair - SECOND, lane);
            partial[thread] = sum;
            __syncthreads();
            if (lane == 0 && pair < PAIRS) {
                for (int n = 1; n < 32; ++n) sum += partial[thread + n];
                if (pair < FIRST) store_pair<PZ>(g0, pair, sum);
                else if (pair < SECOND) store_pair<PY>(g1, pair - FIRST, sum);
                else store_pair<PX>(g2, pair - SECOND, sum);
            }
            __syncthreads();
        }
        if (thread == 0) rotate<PZ>(g0, u0);
        if (thread == 32) rotate<PY>(g1, u1);
        if (thread == 64) rotate<PX>(g2, u2);
        __syncthreads();
        if (!WHITE) {
            if (thread < PZ) v0[thread] = variance_of<PZ>(u0, correlation, thread);
            if (thread < PY) v1[thread] = variance_of<PY>(u1, correlation + PZ * PZ, thread);
            if (thread < PX) v2[thread] = variance_of<PX>(u2, correlation + PZ * PZ + PY * PY, thread);
        }

        // To the core.
        for (int which = 0; which < (WIENER ? 2 : 1); ++which) {
            float* to = which ? model : x;
            multiply<1, PZ, false>(to, u0, PY * PX * K, thread);
            multiply<PZ, PY, false>(to, u1, PX * K, thread);
            multiply<PZ * PY, PX, false>(to, u2, K, thread);
            for (int half = K / 2; half > 0; half /= 2) butterflies<LENGTH, K>(to, half, thread);
        }

        float scale = 1;
        for (int which = 0; which < strength_count; ++which) {
            const float strength = strengths[which];
            float power = 0;
            for (int e = thread; e < SIZE; e += THREADS) {
                const int i = e / K;
                const float share = WHITE ? 1.0f : v0[i / (PY * PX)] * v1[i / PX % PY] * v2[i % PX];
                float gain;
                if (WIENER) {
                    const float energy = model[e] * model[e];
                    gain = energy / (energy + strength * variance * share);
                } else {
                    gain = x[e] * x[e] > strength * strength * variance * share ? 1.0f : 0.0f;
                }
                out[e] = gain * x[e];
                power += share * gain * gain;
            }
            if (which == 0) {
                partial[thread] = power;
                for (int half = THREADS / 2; half > 0; half /= 2) {
                    __syncthreads();
                    if (thread < half) partial[thread] += partial[thread + half];
                }
            }
            __syncthreads();
            if (which == 0) scale = 1 / (partial[0] > 1 ? partial[0] : 1.0f);
            for (int half = 1; half < K; half *= 2) butterflies<LENGTH, K>(out, half, thread);
            multiply<1, PZ, true>(out, u0, PY * PX * K, thread);
            multiply<PZ, PY, true>(out, u1, PX * K, thread);
            multiply<PZ * PY, PX, true>(out, u2, K, thread);
            for (int e = thread; e < SIZE; e += THREADS) {
                const int i = e / K;
                const long long at =
                    corners[e % K] + ((i / (PY * PX)) * (long long)rows + i / PX % PY) * columns + i % PX;
                const float weight = scale * window[i];
                if (which == 0) {
                    const float change = out[e] - guide[at];
                    const float square = change * change;
                    add(squares + at, weight * (square < farthest ? square : farthest), unit_of_squares);
                    add(weights + at, weight, unit_of_weights);
                }
                add(totals + which * voxels + at, weight * out[e], unit);
            }
            __syncthreads();
        }
    }
}
"""
)

PROGRAM = Program(SOURCE, THREADS, (STANDARD,))


class Units(NamedTuple):
    """By what terms are multiplied, powers of two, before they become whole numbers."""

    totals: float
    squares: float
    weights: float


def units_of_sums(largest: float, sigma: float, geometry: Geometry, ways: Sequence[int]) -> tuple[Units, float]:
    """Units in which no sum of a voxel overflows, and the largest squared difference that counts.

    A voxel belongs to at most ``K`` patches of each group whose reference is near enough, ``ways`` along z, y and x,
    and to ``frames`` times as many where patches are followed. A shrunk group has no number larger than the root of the
    sum of its squares, ``sqrt(p^3 K)`` times the largest number of the data; weights are at most 1.
    """
    columns = geometry.group * geometry.frames
    near = (2 * (way + side) // min(geometry.step, side) + 2 for way, side in zip(ways, geometry.patch, strict=True))
    overlaps = columns * (2 * geometry.frames - 1) * math.prod(near)
    highest = largest * math.sqrt(columns * math.prod(geometry.patch))
    farthest = min((FARTHEST * sigma) ** 2, (2 * highest) ** 2)

    def unit(bound: float) -> float:
        if not bound > 0:
            return 1.0
        return math.ldexp(1.0, min(126, max(-126, BITS - math.frexp(bound)[1])))

    return Units(unit(highest * overlaps), unit(farthest * overlaps), unit(float(overlaps))), farthest


class Pass(NamedTuple):
    """What a pass is about, but for its volumes; on the host but for the references."""

    references: Array
    """Time, z, y and x of the corners of the references, ``(n, 4)`` whole numbers, where the data lie."""
    offsets: npt.NDArray[np.int64]
    moves: npt.NDArray[np.int64]
    drift: npt.NDArray[np.int64]
    halving: npt.NDArray[np.int64]
    window: npt.NDArray[np.floating[Any]]
    correlation: tuple[npt.NDArray[np.floating[Any]], ...]
    """Matrices along z, y and x, empty where the noise is white."""
    favour: float
    ways: tuple[int, int, int]
    """How far from its reference a patch of a group may lie, along z, y and x."""


def sums_of_pass(
    data: Array,
    guide: Array,
    pilot: Array | None,
    lengths: Sequence[int],
    sigma: float,
    strengths: Sequence[float],
    geometry: Geometry,
    given: Pass,
    *,
    launch: Launch = launch,
    shared: Callable[[], int] = shared_of_device,
) -> tuple[Array, Array, Array]:
    """Weighted sums of the estimates, ``(m, ...)``, of their squared differences from the guide, and of 1.

    Parameters
    ----------
    data, guide, pilot : float32 arrays of one shape in C order
        See ``patch_groups.filtered``.
    lengths : four ints
        Of time, z, y and x.
    sigma, strengths, geometry
        See ``patch_groups.filtered_by``.
    given : Pass
    launch : callable
        What launches the kernel (another one in tests without a GPU).
    shared : callable
        Bytes of shared memory that a block may have.

    Notes
    -----
    Memory: 8 bytes a voxel for each strength and 16 more, and as much again in float32 at the end, by turns.
    """
    xp = namespace_of(data, guide)
    columns, volume = geometry.group * geometry.frames, math.prod(lengths)
    white = not len(given.correlation[0])
    units, farthest = units_of_sums(scalar(xp.max(xp.abs(data))), sigma, geometry, given.ways)
    sums = [xp.zeros((n * volume,), dtype=xp.uint64) for n in (len(strengths), 1, 1)]
    count = given.references.shape[0]
    if count:
        patch, keys = geometry.patch, 1 << math.ceil(math.log2(max(2, len(given.offsets), geometry.group)))
        size = math.prod(patch) * columns
        blocks, room = min(BLOCKS, count), 12 * size
        beside = 4 * THREADS * 3 + 16 * columns + 8 * (sum(3 * side * side for side in patch)) + 1024
        scratch = None
        if max(8 * keys, room) + beside > shared():
            scratch = xp.empty((3 * size * blocks,), dtype=xp.float32)
            room = 0

        def ints(array: npt.NDArray[np.int64]) -> Array:
            return from_host(np.ascontiguousarray(array.ravel(), np.int32), data)

        def floats(array: Any) -> Array:
            return from_host(np.ascontiguousarray(array, np.float32).ravel(), data)

        references = xp.reshape(xp.astype(given.references, xp.int32), (-1,))
        correlation = np.zeros(1) if white else np.concatenate([matrix.ravel() for matrix in given.correlation])
        flags = ("true" if flag else "false" for flag in (pilot is not None, white))
        instance = ", ".join(map(str, (*patch, columns, geometry.frames, *flags)))
        launch(
            PROGRAM, f"filter_groups<{instance}>", blocks,
            (
                data, guide, data if pilot is None else pilot, *map(np.int32, lengths), references,
                np.int32(count), ints(given.offsets), np.int32(len(given.offsets)), np.int32(keys), ints(given.moves),
                np.int32(len(given.moves)), ints(given.drift), np.float32(given.favour), ints(given.halving),
                floats(given.window), floats(correlation), floats(strengths), np.int32(len(strengths)),
                np.float32(np.float32(sigma) ** 2), np.uint64(0) if scratch is None else scratch, *sums,
                np.float32(units.totals), np.float32(units.squares), np.float32(units.weights), np.float32(farthest),
            ),
            max(8 * keys, room),
        )  # fmt: skip
    found = []
    for one, unit in zip(sums, units, strict=True):
        whole = one.view(xp.int64)
        found.append(xp.astype(xp.astype(whole, xp.float64) / unit, xp.float32))
    shape = tuple(data.shape)
    return xp.reshape(found[0], (len(strengths), *shape)), xp.reshape(found[1], shape), xp.reshape(found[2], shape)
