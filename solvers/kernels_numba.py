"""Fused CPU sweep: model, pointwise rule and contractions of one plane after another, while it is in the cache.

The NumPy twin is ``sweep_arrays`` of :mod:`tensorcell.solvers.sweeps`, where the symbols are explained. Planes are
cut into blocks of rows that fit into the second-level cache; a block costs three matrix products and one pass over
data, dual and mask. The kernel releases the interpreter lock, so that planes are shared among Python threads and no
threading layer is needed; BLAS runs single-threaded inside each.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from .rules import Rule
from .threads import share_out_sums

BLOCK_ELEMENTS = 1 << 17

RESIDUAL, HUBER, EQUALITY, CURVATURE = map(int, Rule)
"""The rules as plain numbers, which Numba takes as constants."""

_ARITHMETIC = {"reassoc", "contract", "nsz"}  # sums may be reordered; NaN and infinities keep their meaning


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def apply_rule(
    rule: int, nonnegative: bool, y: Any, w: Any, dual: Any, x: Any, tau: Any, gamma: Any, sums: Any
) -> None:
    """One block of rows: replace the model ``x`` by the direction ``d``, update ``dual``, add the statistics."""
    zero, one = gamma - gamma, gamma / gamma  # in the dtype of the data: an integer would make all float64
    keep = one if nonnegative else zero
    fit_sum, sparse_sum, absolute_sum, outlier_sum = 0.0, 0.0, 0.0, 0.0
    for i in range(x.shape[0]):
        fit, sparse, absolute, outliers = zero, zero, zero, zero
        if nonnegative and rule != CURVATURE:
            for j in range(x.shape[1]):
                old = dual[i, j]
                c = min(x[i, j] + old, zero)
                new = (one - gamma) * old + gamma * c
                x[i, j] = x[i, j] if w[i, j] else old - c - new
                dual[i, j] = old if w[i, j] else new
        if rule == RESIDUAL:
            for j in range(x.shape[1]):
                a = y[i, j] - x[i, j]  # loaded whether observed or not, so that the loop is vectorised
                r = a if w[i, j] else zero
                fit += r * r
                absolute += abs(r)
                x[i, j] = r if w[i, j] else keep * x[i, j]
        elif rule == HUBER:
            for j in range(x.shape[1]):
                a = y[i, j] - x[i, j]  # loaded whether observed or not, so that the loop is vectorised
                r = a if w[i, j] else zero
                c = min(max(r, -tau), tau)
                fit += c * c
                sparse += abs(r - c)
                absolute += abs(r)
                outliers += one if r != c else zero
                x[i, j] = c if w[i, j] else keep * x[i, j]
        elif rule == EQUALITY:
            for j in range(x.shape[1]):
                old = dual[i, j]
                a = y[i, j] - x[i, j]
                r = a - old
                c = min(max(r, -tau), tau)
                new = (one - gamma) * old - gamma * c
                fit += (old + c) * (old + c) if w[i, j] else zero
                sparse += abs(r - c) if w[i, j] else zero
                absolute += abs(a) if w[i, j] else zero
                outliers += one if w[i, j] and r != c else zero
                x[i, j] = old + c - new if w[i, j] else keep * x[i, j]
                dual[i, j] = new if w[i, j] else old
        else:
            for j in range(x.shape[1]):
                x[i, j] = x[i, j] if w[i, j] else zero
        fit_sum += fit
        sparse_sum += sparse
        absolute_sum += absolute
        outlier_sum += outliers
    sums[0] += fit_sum
    sums[1] += sparse_sum
    sums[2] += absolute_sum
    sums[3] += outlier_sum


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sweep_planes(
    rule: int,
    nonnegative: bool,
    y: Any,
    w: Any,
    dual: Any,
    z: Any,
    fa: Any,
    fbt: Any,
    a: Any,
    ua: Any,
    uat: Any,
    ub: Any,
    one_model: bool,
    tau: Any,
    gamma: Any,
    c: Any,
    ma: Any,
    mb: Any,
    sums: Any,
    first: int,
    last: int,
) -> None:
    """Planes ``first .. last - 1``: see ``sweeps.sweep_arrays``; ``c`` is filled, ``ma``, ``mb``, ``sums`` grow."""
    rows, columns = fa.shape[0], fbt.shape[1]
    height = max(1, min(rows, BLOCK_ELEMENTS // columns))
    p = np.empty((rows, z.shape[2]), dtype=z.dtype)
    back = p if one_model else np.empty((rows, ub.shape[1]), dtype=z.dtype)
    q = np.empty((rows, ub.shape[1]), dtype=z.dtype)
    d = np.empty((height, columns), dtype=z.dtype)
    grow_a = np.empty((rows, ua.shape[1]), dtype=z.dtype)
    grow_b = np.empty((columns, ub.shape[1]), dtype=z.dtype)
    plane_b = np.empty((columns, ub.shape[1]), dtype=z.dtype)
    for plane in range(first, last):
        np.dot(fa, z[plane], p)
        if not one_model:
            np.dot(ua, a[plane], back)
        plane_b[:] = 0
        for top in range(0, rows, height):
            bottom = min(rows, top + height)
            block = d[: bottom - top]
            np.dot(p[top:bottom], fbt, block)
            apply_rule(
                rule, nonnegative, y[plane, top:bottom], w[plane, top:bottom], dual[plane, top:bottom], block,
                tau, gamma, sums,
            )  # fmt: skip
            np.dot(block, ub, q[top:bottom])
            np.dot(block.T, back[top:bottom], grow_b)
            plane_b += grow_b
        mb += plane_b
        np.dot(uat, q, c[plane])
        np.dot(q, a[plane].T, grow_a)
        ma += grow_a


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def take_centred(y: Any, w: Any, centre: Any, limit: Any, first: int, left: int, out: Any) -> None:
    """Observed values less ``centre``, limited in size, of a block of ``(planes, rows, columns)``; zero elsewhere."""
    zero = centre - centre
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                value = min(max(y[first + i, left + j, k] - centre, -limit), limit)
                out[i, j, k] = value if w[first + i, left + j, k] else zero


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that cannot be written to: one type for Numba, which would compile a kernel once more for the other."""
    view = array.view()
    view.flags.writeable = False
    return view


def sweep_numba(
    rule: int,
    nonnegative: bool,
    y: npt.NDArray[Any],
    w: npt.NDArray[Any],
    dual: npt.NDArray[Any],
    z: npt.NDArray[Any],
    fa: npt.NDArray[Any],
    fb: npt.NDArray[Any],
    a: npt.NDArray[Any],
    ua: npt.NDArray[Any],
    ub: npt.NDArray[Any],
    tau: float,
    gamma: float,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Threaded sweep over all planes: ``C``, ``M_a``, ``M_b`` and the four sums, see ``sweeps.sweep_arrays``.

    Planes are dealt to the threads in consecutive shares, whose number does not depend on that of the threads, and the
    shares are added in order: the result is the same bit for bit for any number (``numba.set_num_threads``).
    """
    planes, dtype = y.shape[0], y.dtype
    if rule != EQUALITY and not nonnegative:
        dual = np.empty((*y.shape[:2], 0), dtype=dtype)  # never touched, but writable, as the kernel's type wants
    c = np.empty((planes, ua.shape[1], ub.shape[1]), dtype=dtype)
    one_model = z is a
    z, fa, fbt, a, ua, uat, ub = (np.require(each, requirements=["C", "W"]) for each in (z, fa, fb.T, a, ua, ua.T, ub))
    shared = (read_only(y), read_only(w), dual, z, fa, fbt, a, ua, uat, ub, one_model)

    def work(first: int, last: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        ma, mb, sums = np.zeros(ua.shape), np.zeros(ub.shape), np.zeros(4)
        sweep_planes(rule, nonnegative, *shared, dtype.type(tau), dtype.type(gamma), c, ma, mb, sums, first, last)
        return ma, mb, sums

    ma, mb, sums = (sum(arrays) for arrays in zip(*share_out_sums(work, planes), strict=True))
    return c, np.asarray(ma), np.asarray(mb), np.asarray(sums)
