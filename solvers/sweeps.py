"""One streamed pass over the data: the only place where the solvers touch every voxel.

======== ============================================================== ==========================
letter   meaning                                                        shape
======== ============================================================== ==========================
``Y``    data (anything where nothing was observed, NaN too)            ``(I_1, ..., I_k)``
``W``    mask, True = observed                                          ``(I_1, ..., I_k)``
``L``    scaled dual                                                    ``(I_1, ..., I_k)``
``X``    model ``G x_1 U_1 ... x_k U_k``; never stored whole            ``(I_1, ..., I_k)``
``D``    direction, what the rule makes of Y, W, L, X; never stored     ``(I_1, ..., I_k)``
``A``    ``G x_1 U_1 ... x_{k-2} U_{k-2}`` with those axes flattened    ``(planes, r_a, r_b)``
``C``    ``D`` contracted with ``U_a``, ``U_b``                         ``(planes, r_a, r_b)``
======== ============================================================== ==========================

``a = k - 1`` and ``b = k`` are the last two modes; a plane is one setting of all the others. For each plane ``l`` the
pass forms ``X_l = U_a A_l U_b'``, replaces it by ``D_l`` while it is in the cache, and contracts ``D_l`` at once:
``C_l = U_a' D_l U_b``, ``M_a += D_l U_b A_l'``, ``M_b += D_l' U_a A_l``. What remains is algebra of core size.

A pass over N voxels moves 13 N bytes in float32 under the equality rule (data 4, dual 4 read and 4 written, mask 1)
and costs about ``6 r_b N`` multiplications and additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .arrays import Array, as_double, chunk_elements, is_cupy, is_numpy, namespace_of, to_host
from .rules import Rule
from .tensors import lead, mode_product, planes_of, unfold


class Sweep(NamedTuple):
    """What a pass returns, all in float64 and on the data's device."""

    core: Array
    """``D x_1 U_1' ... x_k U_k'``, shape ``(r_1, ..., r_k)``."""
    factors: tuple[Array, ...]
    """``M_n = D_(n) (G x_{m != n} U_m)_(n)'``, shapes ``(I_n, r_n)``."""
    sums: Array
    """The numbers of :class:`Sums`, shape ``(4,)``: on a device until they are read."""

    def read(self) -> Sums:
        """The sums as Python numbers; on a device, the host waits for them."""
        fit, sparse, absolute, outliers = to_host(self.sums).tolist()
        return Sums(fit, sparse, absolute, round(outliers))


class Sums(NamedTuple):
    """What a pass adds up over the entries."""

    fit: float
    """``sum (y - x - e)^2`` over observed entries."""
    sparse: float
    """``sum |e|``."""
    absolute: float
    """``sum |y - x|``."""
    outliers: int
    """Number of entries with ``e != 0``."""


def sweep(
    data: Array,
    mask: Array,
    core: Array,
    factors: Sequence[Array],
    *,
    rule: Rule,
    dual: Array | None = None,
    threshold: float = 0.0,
    relaxation: float = 1.0,
    nonnegative: bool = False,
    model: tuple[Array, Sequence[Array]] | None = None,
    twin: bool = False,
) -> Sweep:
    """One pass: apply ``rule`` to the model and contract the direction with core and factors.

    Parameters
    ----------
    data, mask : arrays ``(I_1, ..., I_k)``, k >= 2
        Data (float32 or float64; anything where the mask is False) and mask (bool, True = observed), C-contiguous.
    core, factors : arrays
        Tucker model with which the direction is contracted (float64).
    rule : Rule
        What is done entry by entry.
    dual : array, optional
        Scaled dual of the data's shape and dtype, **updated in place**; needed by ``EQUALITY`` and ``nonnegative``.
    threshold, relaxation : float
        ``tau`` (in the data's unit) and ``gamma``.
    model : (core, factors), optional
        Another Tucker model to put in the place of ``X`` (a tangent vector, for Gauss-Newton).
    twin : bool
        Use the array twin where a fused kernel would serve (for tests).
    """
    xp = namespace_of(data, mask, core)
    if dual is None and (rule == Rule.EQUALITY or nonnegative):
        raise ValueError(f"expected a dual for rule {rule.name} with nonnegative={nonnegative}, got None")
    y, w = planes_of(data), planes_of(mask)
    l = y if dual is None else planes_of(dual)  # touched by rules that need it  # noqa: E741
    backward = planes_model(core, factors, data.dtype)
    forward = backward if model is None else planes_model(*model, data.dtype)
    arguments = (int(rule), nonnegative, y, w, l, *forward, *backward, threshold, relaxation)
    if is_numpy(xp) and not twin:
        from .kernels_numba import sweep_numba

        c, ma, mb, sums = sweep_numba(*arguments)
    elif is_cupy(xp) and not twin:
        from .kernels_cuda import sweep_cuda

        c, ma, mb, sums = sweep_cuda(*arguments)
    else:
        c, ma, mb, sums = sweep_arrays(*arguments)
    small_core = xp.reshape(as_double(c), (*data.shape[:-2], *c.shape[1:]))
    gradients = []
    for mode in range(data.ndim - 2):
        rest = small_core
        for other in range(data.ndim - 2):
            if other != mode:
                rest = mode_product(rest, factors[other].T, other)
        gradients.append(unfold(rest, mode) @ unfold(core, mode).T)
    for mode, factor in enumerate(factors[:-2]):
        small_core = mode_product(small_core, factor.T, mode)
    return Sweep(small_core, (*gradients, as_double(ma), as_double(mb)), sums)


def planes_model(core: Array, factors: Sequence[Array], dtype: Any) -> tuple[Array, Array, Array]:
    """``A_l, U_a, U_b`` of a Tucker model, in the data's dtype from the beginning (for memory)."""
    xp = namespace_of(core)
    small, *rest = (xp.astype(array, dtype, copy=False) for array in (core, *factors))
    return lead(small, rest), rest[-2], rest[-1]


def sweep_arrays(
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
) -> tuple[Array, Array, Array, Array]:
    """The pass in plain array operations, a few planes at a time: the twin of the fused kernels.

    ``X_l = F_a Z_l F_b'`` for every plane l; ``D`` by :func:`direction`; returns ``C_l = U_a' D_l U_b``,
    ``M_a = sum_l D_l U_b A_l'``, ``M_b = sum_l D_l' U_a A_l`` and the sums of ``fit, sparse, absolute, outliers``.
    """
    xp = namespace_of(y)
    planes, rows, columns = y.shape
    c = xp.empty((planes, ua.shape[1], ub.shape[1]), dtype=y.dtype)
    ma = xp.zeros(ua.shape, dtype=xp.float64)
    mb = xp.zeros(ub.shape, dtype=xp.float64)
    sums = xp.zeros((4,), dtype=xp.float64)
    step = max(1, chunk_elements(xp) // (rows * columns))
    for first in range(0, planes, step):
        part = slice(first, min(planes, first + step))
        x = xp.matmul(xp.matmul(fa, z[part, :, :]), fb.T)
        d, new, terms = direction(rule, nonnegative, y[part, :, :], w[part, :, :], dual[part, :, :], x, tau, gamma)
        if new is not None:
            dual[part, :, :] = new
        q = xp.matmul(d, ub)
        c[part, :, :] = xp.matmul(ua.T, q)
        ma += xp.astype(xp.sum(xp.matmul(q, xp.matrix_transpose(a[part, :, :])), axis=0), xp.float64)
        back = xp.reshape(xp.matmul(ua, a[part, :, :]), (-1, ub.shape[1]))
        mb += xp.astype(xp.reshape(d, (-1, columns)).T @ back, xp.float64)
        sums += xp.stack([xp.sum(term, dtype=xp.float64) for term in terms])
    return c, ma, mb, sums


def direction(
    rule: int, nonnegative: bool, y: Array, w: Array, dual: Array, x: Array, tau: float, gamma: float
) -> tuple[Array, Array | None, tuple[Array, Array, Array, Array]]:
    """Direction, new dual (None where the rule has none) and the four summands, entry by entry, as the rule says."""
    xp = namespace_of(x)
    zero = xp.zeros_like(x)
    new = None
    if rule == Rule.CURVATURE:
        return xp.where(w, x, zero), None, (zero, zero, zero, zero)
    a = xp.where(w, y - x, zero)
    r = a - xp.where(w, dual, zero) if rule == Rule.EQUALITY else a
    c = r if rule == Rule.RESIDUAL else xp.clip(r, -tau, tau)
    d, misfit = c, c
    if rule == Rule.EQUALITY:
        old = xp.where(w, dual, zero)
        new = (1 - gamma) * old - gamma * c
        d, misfit = old + c - new, old + c
        new = xp.where(w, new, dual)
    if nonnegative:
        below = xp.clip(x + dual, None, 0.0)
        kept = (1 - gamma) * dual + gamma * below
        d = xp.where(w, d, dual - below - kept)
        new = xp.where(w, dual if new is None else new, kept)
    outliers = xp.astype(r != c, x.dtype)
    return d, new, (misfit * misfit, xp.abs(r - c), xp.abs(a), outliers)
