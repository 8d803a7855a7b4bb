"""Fused GPU sweep: the matrix products by cuBLAS, everything between them in one hand-written kernel.

The NumPy twin is ``sweep_arrays`` of :mod:`tensorcell.solvers.sweeps`, where the symbols are explained. Planes are
taken in chunks; for each chunk ``X_l = F_a Z_l F_b'`` is formed in a workspace, one launch of the kernel below turns
it into ``D`` in place, updates the dual and adds the statistics up, and further products contract ``D``.

Memory traffic of the kernel, in bytes a voxel for float32 (float64: twice, but the mask). Each array that a rule needs
is read once and, where it changes, written once: that is the floor for a kernel that finds the model in memory. The
floor of the whole pass has no ``X``: that would take a kernel that multiplies matrices too.

=========== ====== ===== ===== ========= ==================== =======================
rule        ``X``  ``Y`` ``W`` ``L``     kernel (= its floor) floor of the whole pass
=========== ====== ===== ===== ========= ==================== =======================
RESIDUAL    4 + 4  4     1     --        13                   5
HUBER       4 + 4  4     1     --        13                   5
EQUALITY    4 + 4  4     1     4 + 4     21                   13
CURVATURE   4 + 4  --    1     --        9                    1
=========== ====== ===== ===== ========= ==================== =======================

With ``nonnegative`` the first two also read and write ``L`` (21 and 13). The products write ``X`` once more and read
``D`` twice, 12 bytes: a whole pass under the equality rule moves 33 bytes a voxel besides the small matrices.
"""

from __future__ import annotations

import numpy as np

from .arrays import Array, namespace_of
from .cuda import STANDARD, Launch, Program, launch
from .rules import Rule

CHUNK_ELEMENTS = 1 << 25
"""Bound on the workspace of a sweep, in numbers of the data's dtype: 128 MiB in float32, 256 MiB in float64."""

THREADS = 256
BLOCKS = 2048
"""Largest grid. It does not depend on the device, so neither does the order in which the statistics are added."""

SOURCE = (
    f"enum {{ {', '.join(f'{rule.name} = {int(rule)}' for rule in Rule)} }};\n"
    f"enum {{ THREADS = {THREADS} }};\n"
    r"""
// T is float or double; RULE and NONNEGATIVE select the rule (see rules.Rule, whose letters are used here). Both are
// known when the kernel is compiled, so the branches on them cost nothing and unused arrays are never touched.

// WIDTH neighbouring numbers that one instruction loads or stores.
template <typename T, int WIDTH>
struct alignas(WIDTH * sizeof(T)) Packet {
    T at[WIDTH];
};

template <typename T>
__device__ inline T magnitude(T value) {
    return value < 0 ? -value : value;
}

// One entry: x becomes d, dual its update. The comparisons let a NaN of the model through, as NumPy's clip does.
template <typename T, int RULE, bool NONNEGATIVE>
__device__ inline void apply_rule(T y, bool seen, T& dual, T& x, T tau, T gamma, T keep, T* terms) {
    if (RULE == CURVATURE) {
        x = seen ? x : T(0);
    } else if (seen) {
        const T old = RULE == EQUALITY ? dual : T(0);
        const T a = y - x;
        const T r = a - old;
        const T c = RULE == RESIDUAL ? r : r < -tau ? -tau : r > tau ? tau : r;
        const T misfit = old + c;
        x = misfit;
        if (RULE == EQUALITY) {
            dual = keep * old - gamma * c;
            x = misfit - dual;
        }
        terms[0] += misfit * misfit;     // fit
        terms[1] += magnitude(r - c);    // sparse
        terms[2] += magnitude(a);        // absolute
        terms[3] += r != c ? T(1) : T(0);  // outliers
    } else if (NONNEGATIVE) {
        const T sum = x + dual;
        const T c = sum > 0 ? T(0) : sum;
        const T kept = keep * dual + gamma * c;
        x = dual - c - kept;
        dual = kept;
    } else {
        x = T(0);
    }
}

// Packet number i of all arrays: load, apply the rule, store. The terms of one packet are added in T and only then in
// double precision, which many cards do at a small fraction of the speed.
template <typename T, int RULE, bool NONNEGATIVE, int WIDTH>
__device__ inline void move_packet(T* x, const T* y, const unsigned char* w, T* dual, long long i,
                                   T tau, T gamma, T keep, double* total) {
    typedef Packet<T, WIDTH> Values;
    typedef Packet<unsigned char, WIDTH> Flags;
    const bool reads_y = RULE != CURVATURE;
    const bool has_dual = RULE == EQUALITY || (NONNEGATIVE && RULE != CURVATURE);
    Values xs = reinterpret_cast<const Values*>(x)[i];
    Values ys = {};
    Values duals = {};
    const Flags seen = reinterpret_cast<const Flags*>(w)[i];
    if (reads_y) ys = reinterpret_cast<const Values*>(y)[i];
    if (has_dual) duals = reinterpret_cast<const Values*>(dual)[i];
    T terms[4] = {};
    for (int k = 0; k < WIDTH; ++k)
        apply_rule<T, RULE, NONNEGATIVE>(ys.at[k], seen.at[k] != 0, duals.at[k], xs.at[k], tau, gamma, keep, terms);
    reinterpret_cast<Values*>(x)[i] = xs;
    if (has_dual) reinterpret_cast<Values*>(dual)[i] = duals;
    for (int k = 0; k < 4; ++k) total[k] += terms[k];
}

// n entries; keep = 1 - gamma; partial receives the four sums of each block.
template <typename T, int RULE, bool NONNEGATIVE>
__global__ void __launch_bounds__(THREADS)
pointwise(T* x, const T* y, const unsigned char* w, T* dual, double* partial, long long n, T tau, T gamma, T keep) {
    const int WIDTH = 16 / sizeof(T);
    const int thread = threadIdx.x;
    const long long first = blockIdx.x * (long long)THREADS + thread;
    const long long stride = gridDim.x * (long long)THREADS;
    double total[4] = {};

    // 16 bytes at a time where all arrays start on such a boundary (views of other arrays may not: then one number
    // at a time, still coalesced), and the last n % WIDTH entries singly.
    const size_t addresses = (size_t)x | (size_t)y | (size_t)dual;
    if (addresses % 16 == 0 && (size_t)w % WIDTH == 0) {
        for (long long i = first; i < n / WIDTH; i += stride)
            move_packet<T, RULE, NONNEGATIVE, WIDTH>(x, y, w, dual, i, tau, gamma, keep, total);
        if (first < n % WIDTH)
            move_packet<T, RULE, NONNEGATIVE, 1>(x, y, w, dual, n - 1 - first, tau, gamma, keep, total);
    } else {
        for (long long i = first; i < n; i += stride)
            move_packet<T, RULE, NONNEGATIVE, 1>(x, y, w, dual, i, tau, gamma, keep, total);
    }

    // Sums of the block by halving, always in the same order.
    __shared__ double shared[4][THREADS];
    for (int k = 0; k < 4; ++k) shared[k][thread] = total[k];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half)
            for (int k = 0; k < 4; ++k) shared[k][thread] += shared[k][thread + half];
    }
    if (thread == 0)
        for (int k = 0; k < 4; ++k) partial[4 * (long long)blockIdx.x + k] = shared[k][0];
}
"""
)

PROGRAM = Program(SOURCE, THREADS, (STANDARD, "--fmad=false"))
"""Products are rounded before they are added, so that entries equal NumPy's; the kernel waits for memory anyway."""


def sweep_cuda(
    rule: int,
    nonnegative: bool,
    y: Array,
    w: Array,
    dual: Array,
    z: Array,
    fa: Array,
    fb: Array,
    a: Array,
    ua: Array,
    ub: Array,
    tau: float,
    gamma: float,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
    launch: Launch = launch,
) -> tuple[Array, Array, Array, Array]:
    """Sweep over all planes: ``C``, ``M_a``, ``M_b`` and the four sums, see ``sweeps.sweep_arrays``.

    Sums over planes are taken in float64. Nothing is added in an order left to chance, so the result does not change
    from run to run on one kind of device. Products in float32 keep float32 precision, unless CuPy was told to use TF32
    (``CUPY_TF32=1``).

    Parameters
    ----------
    rule, nonnegative, tau, gamma
        See ``rules.Rule``.
    y, w, dual : arrays ``(planes, rows, columns)``
        Data (float32 or float64), mask (bool, True = observed) and scaled dual (**updated in place**), in C order.
        The dual is not touched by rules without one.
    z, fa, fb, a, ua, ub : arrays
        Small matrices in the data's dtype, see ``sweeps.sweep_arrays``.
    chunk_elements : int
        Bound on the workspace, in numbers of the data's dtype; at least one plane is taken.
    launch : callable
        What launches the kernel (another one in tests without a GPU).

    Raises
    ------
    ValueError
        If data, mask and dual do not have one shape, the right dtypes and C order: the kernel takes bare pointers.
    """
    xp = namespace_of(y, w, dual)
    check_layout(y, w, dual)
    planes, rows, columns = y.shape
    at = xp.asarray(xp.matrix_transpose(a), order="C", copy=True)  # batched products copy what is not in C order
    uat = xp.asarray(ua.T, order="C", copy=True)
    per_plane = rows * (columns + z.shape[2] + 2 * ub.shape[1] + ua.shape[1]) + columns * ub.shape[1]
    step = planes_a_chunk(planes, per_plane, chunk_elements)

    def room(*shape: int) -> Array:
        return xp.empty((step, *shape), dtype=y.dtype)

    x, p, q = room(rows, columns), room(rows, z.shape[2]), room(rows, ub.shape[1])
    back, grow_a, grow_b = room(ub.shape[1], rows), room(rows, ua.shape[1]), room(ub.shape[1], columns)
    c = xp.empty((planes, ua.shape[1], ub.shape[1]), dtype=y.dtype)
    ma = xp.zeros(ua.shape, dtype=xp.float64)
    mb = xp.zeros(ub.shape, dtype=xp.float64)
    starts = range(0, planes, step)
    partial = xp.zeros((len(starts), BLOCKS, 4), dtype=xp.float64)
    for number, first in enumerate(starts):
        part = slice(first, min(planes, first + step))
        count = part.stop - part.start
        x_flat, p_flat, q_flat = (xp.reshape(m[:count], (count * rows, -1)) for m in (x, p, q))
        xp.matmul(fa, z[part], out=p[:count])
        xp.matmul(p_flat, fb.T, out=x_flat)
        pointwise(rule, nonnegative, x_flat, y[part], w[part], dual[part], partial[number], tau, gamma, launch)
        xp.matmul(x_flat, ub, out=q_flat)
        xp.matmul(uat, q[:count], out=c[part])
        xp.matmul(q[:count], at[part], out=grow_a[:count])
        xp.matmul(at[part], uat, out=back[:count])
        xp.matmul(back[:count], x[:count], out=grow_b[:count])
        ma += xp.sum(grow_a[:count], axis=0, dtype=xp.float64)
        mb += xp.sum(grow_b[:count], axis=0, dtype=xp.float64).T
    return c, ma, mb, xp.sum(partial, axis=(0, 1))


def pointwise(
    rule: int,
    nonnegative: bool,
    x: Array,
    y: Array,
    w: Array,
    dual: Array,
    partial: Array,
    tau: float,
    gamma: float,
    launch: Launch = launch,
) -> None:
    """Replace ``x`` by the direction, update ``dual``, write the four sums of each block into ``partial``.

    All in C order: ``x, y, dual`` of one size and dtype, ``w`` bool, ``partial`` float64 ``(BLOCKS, 4)``, zero before.
    """
    real, scalar = ("float", np.float32) if x.dtype.itemsize == 4 else ("double", np.float64)
    name = f"pointwise<{real}, {int(rule)}, {'true' if nonnegative else 'false'}>"
    packets = x.size * x.dtype.itemsize // 16
    blocks = max(1, min(BLOCKS, -(-packets // THREADS)))
    numbers = (np.int64(x.size), scalar(tau), scalar(gamma), scalar(1 - gamma))
    launch(PROGRAM, name, blocks, (x, y, w, dual, partial, *numbers), 0)


def planes_a_chunk(planes: int, per_plane: int, chunk_elements: int) -> int:
    """Planes in a chunk of at most ``chunk_elements`` numbers, ``per_plane`` each; at least one.

    A multiple of four where there are as many, so that every chunk starts on a 16-byte boundary if the first does.

    >>> planes_a_chunk(100, 10, 175), planes_a_chunk(100, 10, 1), planes_a_chunk(5, 10, 1000)
    (16, 1, 5)
    """
    step = max(1, min(planes, chunk_elements // per_plane))
    return step if step in (planes, 1, 2, 3) else step // 4 * 4


def check_layout(y: Array, w: Array, dual: Array) -> None:
    """Raise ValueError unless data, mask and dual can be handed to the kernel as bare pointers."""
    for name, array, dtypes in (
        ("data", y, ("float32", "float64")),
        ("mask", w, ("bool",)),
        ("dual", dual, (str(y.dtype),)),
    ):
        if str(array.dtype) not in dtypes:
            raise ValueError(f"expected a {name} of dtype {' or '.join(dtypes)}, got {array.dtype}")
        if array.shape != y.shape:
            raise ValueError(f"{name} has shape {tuple(array.shape)}, data has shape {tuple(y.shape)}")
        if not array.flags.c_contiguous:
            raise ValueError(f"expected a {name} in C order, got strides {array.strides}")
