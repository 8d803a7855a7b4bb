"""Gaps filled by a global model and by the residuals of measured neighbours: trend plus residual.

A Tucker model ``X`` of moderate rank leaves structure in the residual ``R = Y - X`` of the measured voxels, and
neighbours share structure. So a gap gets ``X + S``, where ``S`` is a Gaussian-weighted mean of the residuals around it:
the scheme of regression kriging, with widths and a weight that are chosen by leaving measured voxels out.

References
----------
T. Hengl, G. Heuvelink, D. Rossiter, About regression-kriging, doi:10.1016/j.cageo.2007.05.001.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, contiguous, entries, is_numpy, namespace_of, ndimage, to_host, within_mask
from .results import CompletionResult
from .slabs import block_residual, central_block, model_planes, moved_to, thick_parts, widened
from .threads import share_out

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

WIDTHS = (0.5, 0.7, 1.0, 1.5)
"""Gaussian widths that are tried, in voxels, along z and within planes."""

CUT = 3.0
"""Kernels are cut off at this many widths from their centre."""

IN_REACH = 1e-6
"""Least weight of all neighbours together: below it, there are none in reach."""


class Kernel(NamedTuple):
    """Gaussian widths along z and within planes, in voxels, and the weight given to the neighbours' mean."""

    width_z: float
    width_xy: float
    weight: float


class NeighbourEstimate(NamedTuple):
    """What :func:`estimate_with_neighbours` returns."""

    value: Array
    """``(Z, Y, X)``, every voxel."""
    intensity: Array
    """An estimate of the noise-free intensity of every voxel, of kept ones too; `value` where nothing is kept."""
    kernel: Kernel
    own_weight: float
    """Weight of a measured voxel's own deviation where it is denoised, in [0, 1]; 0 where measured voxels are kept."""


def estimate_with_neighbours(
    stack: Array, inlier: Array, fit: CompletionResult, *, noise: float, keep: bool, neighbours: bool = True
) -> NeighbourEstimate:
    """The model plus what neighbours share of the residual, for every voxel.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
        Measured intensities; any finite number elsewhere.
    inlier : bool array of the same shape
        True = measured and no outlier.
    fit : CompletionResult
        The model ``X``, on the host; the stack may lie on a device.
    noise : float
        Standard deviation of the noise, in the data's unit.
    keep : bool
        Whether inliers keep their value. An inlier that is to be denoised gets ``X + S + w (R - S)``, where ``S`` is
        the mean residual of its neighbours alone. Wiener's weight ``w = 1 - noise^2 / var(R - S)`` is the share of the
        variance of ``R - S`` that is not noise.
    neighbours : bool
        False: the bare model, ``S = 0``.

    Notes
    -----
    Memory beyond the result: a few slabs. The errors of the estimate: :mod:`tensorcell.solvers.neighbour_errors`.
    """
    xp, fit = namespace_of(stack, inlier), moved_to(fit, stack)
    block, on_device = block_residual(stack, fit)
    residual, known = to_host(on_device), to_host(inlier[block])
    kernel = choose_kernel(residual, known) if neighbours else Kernel(1.0, 1.0, 0.0)
    own = 0.0 if keep else wiener_weight(residual, known, kernel, noise)
    value = xp.empty_like(stack)
    rim = math.ceil(CUT * kernel.width_z) + 1
    for slab in thick_parts(stack):
        wide, inner = widened(slab, len(stack), rim)
        model = model_planes(fit, wide)
        left = within_mask(stack[wide] - model, inlier[wide])
        shared = shared_residual(left, inlier[wide], kernel, leave_out=not keep)
        part = model + shared
        if own > 0:
            part += within_mask(own * (left - shared), inlier[wide])
        value[slab] = part[inner]
    intensity = value
    if keep:
        value = xp.where(inlier, stack, value)
    return NeighbourEstimate(value, intensity, kernel, own)


def wiener_weight(residual: Floats, inlier: Bools, kernel: Kernel, noise: float) -> float:
    """``1 - noise^2 / var(R - S)`` over the inliers, at least 0."""
    shared = shared_residual(residual, inlier, kernel, leave_out=True)
    rest = entries(residual - shared, inlier).astype(np.float64)
    variance = float(np.mean(rest**2)) if rest.size else 0.0
    return max(0.0, 1 - noise**2 / variance) if variance > 0 else 0.0


class LateralSums(NamedTuple):
    """Gaussian-weighted sums over the neighbours within each plane, which all widths along z share."""

    values: Array
    """``W R``."""
    known: Array
    """The mask as numbers."""
    total: Array
    """Sums of ``W R``."""
    weight: Array
    """Sums of the mask; ``(1, Y, X)`` where every voxel was measured, since all planes are then alike."""
    width: float


def lateral_sums(residual: Array, mask: Array, width: float) -> LateralSums:
    """The sums at one width within planes."""
    xp = namespace_of(residual, mask)
    known = xp.astype(contiguous(mask), residual.dtype)
    values = within_mask(residual, mask)
    counted = known[:1] if is_numpy(xp) and mask.all() else known  # a GPU would have to be waited for
    within = within_numba if is_numpy(xp) else within_arrays
    return LateralSums(values, known, within(values, width), within(counted, width), width)


def within_numba(values: Floats, width: float) -> Floats:
    """Gaussian-weighted sums within planes by a threaded kernel; its twin is :func:`within_arrays`."""
    from .kernels_fills import sums_within_planes

    sums, weights = np.empty_like(values), gaussian_weights(width)
    share_out(lambda begin, end: sums_within_planes(values, weights, sums, begin, end), len(values))
    return sums


def within_arrays(values: Array, width: float) -> Array:
    """Array twin of :func:`within_numba`."""
    return _along(values, width, (1, 2))


def axial_mean(lateral: LateralSums, width_z: float, *, leave_out: bool) -> Array:
    """The mean over neighbours in all three directions."""
    by = axial_mean_numba if is_numpy(namespace_of(lateral.values)) else axial_mean_arrays
    return by(lateral, width_z, leave_out=leave_out)


def axial_mean_numba(lateral: LateralSums, width_z: float, *, leave_out: bool) -> Floats:
    """The mean by a threaded kernel; its twin is :func:`axial_mean_arrays`."""
    from .kernels_fills import means_along_z

    values, known, total, weight, width = lateral
    own = _centre_weight((width_z, width, width)) if leave_out else 0.0
    weights, alike = gaussian_weights(width_z), len(weight) < len(known)
    column = _along(known[:, 0, 0].copy(), width_z, (0,)) if alike else known[:0, 0, 0].copy()
    voxels, one, sums, counts = (each.reshape(len(each), -1) for each in (values, known, total, weight))
    share, least = values.dtype.type(own), values.dtype.type(IN_REACH)
    means: Floats = np.empty_like(values)
    out = means.reshape(voxels.shape)

    def work(begin: int, end: int) -> None:
        means_along_z(voxels, one, sums, counts, column, weights, share, least, out, begin, end)

    share_out(work, len(values))
    return means


def axial_mean_arrays(lateral: LateralSums, width_z: float, *, leave_out: bool) -> Array:
    """Array twin of :func:`axial_mean_numba`."""
    values, known, total, weight, width = lateral
    total = _along(total, width_z, (0,))
    if len(weight) == len(known):
        weight = _along(weight, width_z, (0,))
    else:
        weight = weight * _along(known[:, :1, :1], width_z, (0,))
    if leave_out:
        own = _centre_weight((width_z, width, width))
        total -= own * values
        weight -= own * known
    xp, reach = namespace_of(total), weight > IN_REACH
    return xp.where(reach, total / xp.where(reach, weight, xp.ones_like(weight)), xp.zeros_like(total))


def _along(values: Array, width: float, axes: tuple[int, ...]) -> Array:
    """Gaussian-weighted sums along some axes; nothing lies outside."""
    return ndimage("gaussian_filter", values, width, mode="constant", truncate=CUT, axes=axes)


def neighbour_mean(residual: Array, mask: Array, width_z: float, width_xy: float, *, leave_out: bool) -> Array:
    """Gaussian-weighted mean of the residual over measured neighbours (0 where there are none in reach).

    With ``leave_out`` the voxel itself is not counted, so that the result predicts it from its neighbours alone.
    """
    return axial_mean(lateral_sums(residual, mask, width_xy), width_z, leave_out=leave_out)


def _centre_weight(width: tuple[float, float, float]) -> float:
    """The weight that the kernel gives to the voxel itself."""
    return float(np.prod([gaussian_weights(each)[0] for each in width]))


@functools.cache
def gaussian_weights(width: float) -> npt.NDArray[np.float64]:
    """Weights of a voxel and of its neighbours on one side of it, the nearest first."""
    from scipy.ndimage import gaussian_filter1d

    reach = int(CUT * width + 0.5)
    spike = np.zeros(2 * reach + 1)
    spike[reach] = 1
    weights = gaussian_filter1d(spike, width, truncate=CUT)[reach:] if reach else spike
    weights.flags.writeable = False
    return np.asarray(weights)


def choose_kernel(residual: Floats, mask: Bools) -> Kernel:
    """Widths and weight with which neighbours predict measured residuals best, each left out in turn.

    The weight is the least-squares slope of the residual on its prediction, within 0 and 1: where the residual is white
    noise it is 0 and nothing is added to the model. A central block of at most 400 000 voxels is used.
    """
    block = central_block(residual.shape)
    r, w = residual[block], mask[block]
    best = Kernel(1.0, 1.0, 0.0)
    truth = entries(r, w).astype(np.float64)
    if truth.size == 0:
        return best
    least = energy = float(truth @ truth)
    for width_xy in WIDTHS:
        lateral = lateral_sums(r, w, width_xy)
        for width_z in WIDTHS:
            guess = entries(axial_mean(lateral, width_z, leave_out=True), w).astype(np.float64)
            square, product = float(guess @ guess), float(truth @ guess)
            slope = min(1.0, max(0.0, product / square)) if square > 0 else 0.0
            error = energy - slope * (2 * product - slope * square)
            if error < least:
                best, least = Kernel(width_z, width_xy, slope), error
    return best


def shared_residual(residual: Array, mask: Array, kernel: Kernel, *, leave_out: bool) -> Array:
    """The mean residual of measured neighbours at every voxel, times the kernel's weight; zeros where that is 0."""
    xp = namespace_of(residual)
    if kernel.weight == 0:
        return xp.zeros_like(residual)
    mean = neighbour_mean(residual, mask, kernel.width_z, kernel.width_xy, leave_out=leave_out)
    return xp.astype(kernel.weight * mean, residual.dtype, copy=False)
