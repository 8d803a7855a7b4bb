"""Total variation of the second order: denoising and filling of gaps by the smallest total curvature.

    minimise  1/2 sum_i w_i (x_i - y_i)^2 + lambda sum_i |H x|_i

``H x`` holds the six second differences of a voxel, and its length is the Frobenius norm of the Hessian. What is linear
costs nothing, so that slopes are not turned into steps, as they are by the first order; edges of some voxels in width,
as the optics draw them, are kept. The primal-dual algorithm of Chambolle and Pock, Algorithm 1 of the second reference,
with ``theta = 1``; where every voxel was measured, the problem is strongly convex and steps shrink as in Algorithm 2:

    p <- project(p + s H z)        onto |p|_i <= lambda
    x' <- (x - t H' p + t w y) / (1 + t w)
    z <- x' + theta (x' - x)

=========  ====================================================================  ===================
symbol     meaning                                                               shape
=========  ====================================================================  ===================
``y``      data; only measured voxels count                                      (Z, Y, X)
``w``      1 where measured, 0 elsewhere                                         (Z, Y, X)
``x, z``   estimate, and its extrapolation                                       (Z, Y, X)
``p``      dual: zz, yy, xx, zy, zx, yx (mixed ones count twice, so sqrt 2)      (6, Z, Y, X)
``t, s``   steps, ``t s |H|^2 <= 1``                                             numbers
``a``      weight of differences along z beside those within planes              number
=========  ====================================================================  ===================

References
----------
S. Lefkimmiatis, A. Bourquard, M. Unser, Hessian-based norm regularization for image restoration with biomedical
applications, doi:10.1109/TIP.2011.2168232. A. Chambolle, T. Pock, A first-order primal-dual algorithm for convex
problems with applications to imaging, doi:10.1007/s10851-010-0251-1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .residual_kriging import neighbour_mean
from .threads import share_out

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Weights = tuple[npt.NDArray[np.float32], ...]

STEP = 3.0
"""``t``; the first one where it shrinks."""


START = 1.0
"""Gaussian width, in voxels, of the mean of measured neighbours with which gaps begin."""


def least_curvature(
    data: Floats,
    mask: Bools,
    weight: float,
    *,
    axial: float = 1.0,
    iterations: int = 100,
    start: Floats | None = None,
) -> Floats:
    """Denoise a stack and fill its gaps by total variation of the second order.

    Parameters
    ----------
    data : float array ``(Z, Y, X)``
        In any unit; anything where the mask is False.
    mask : bool array of the same shape
        True = measured.
    weight : float
        ``lambda``, above 0 and in the unit of the data; the smaller it is, the nearer measured voxels are to the data.
    axial : float
        ``a``: the smaller it is, the less neighbouring planes need be alike. 0 takes each plane by itself.
    iterations : int
        Number of iterations. Data times any factor, with a weight times the same, give the same times it.
    start : float array ``(Z, Y, X)``, optional
        First estimate; by default the data, and a mean of their neighbours in the gaps.

    Returns
    -------
    float array ``(Z, Y, X)``
        Of the type of the data; computed in float32.

    Raises
    ------
    ValueError
        If the weight is not positive, the shapes differ, or nothing was measured.

    Notes
    -----
    Time: about 7 ns a voxel and iteration on one core, shared out among threads by planes. Memory: 40 bytes a voxel.

    Examples
    --------
    A slope is filled exactly, since it has no curvature:

    >>> slope = np.add.outer(np.arange(5.0), np.add.outer(2 * np.arange(6.0), 3 * np.arange(7.0)))
    >>> mask = np.random.default_rng(0).random(slope.shape) < 0.5
    >>> filled = least_curvature(np.where(mask, slope, np.nan), mask, 0.1, iterations=500)
    >>> bool(np.abs(filled - slope).max() < 0.01)
    True
    """
    from .kernels_variation import update_dual, update_estimate

    if not weight > 0:
        raise ValueError(f"expected a positive weight, got {weight!r}")
    if data.ndim != 3 or mask.shape != data.shape:
        raise ValueError(f"expected data (Z, Y, X) and a mask of the same shape, got {data.shape} and {mask.shape}")
    if not mask.any():
        raise ValueError("expected at least one measured voxel, got none")
    offset = float(np.mean(data, where=mask, dtype=np.float64))
    centred = np.where(mask, data - offset, 0) / weight  # in this unit the weight is 1
    first = neighbour_mean(centred, mask, START, START, leave_out=False) if start is None else (start - offset) / weight
    y, w, x = padded(centred), padded(mask), padded(np.where(mask, centred, first) if start is None else first)
    z, p = x.copy(), np.zeros((6, *x.shape), np.float32)
    second, slope = weights_of(data.shape, axial)
    complete = bool(mask.all())
    t, s = STEP, 1 / (STEP * max(norm_squared(data.shape, axial), 1e-30))
    for _ in range(iterations):
        shrunk = 1 / math.sqrt(1 + 2 * t) if complete else 1.0
        step, dual_step, theta = np.float32(t), np.float32(s), np.float32(shrunk)
        share_out(partial(update_dual, p, z, second, slope, dual_step), len(data))
        share_out(partial(update_estimate, x, z, p, y, w, second, slope, step, theta), len(data))
        t, s = t * shrunk, s / shrunk
    return np.asarray(weight * x[1:-1, 1:-1, 1:-1] + offset, dtype=data.dtype)


def padded(values: Floats | Bools) -> npt.NDArray[np.float32]:
    """The same in float32, with a rim of zeros."""
    return np.pad(values, 1).astype(np.float32, copy=False)


def weights_of(shape: Sequence[int], axial: float) -> tuple[Weights, Weights]:
    """Weights of second differences, and of first ones for the mixed, at each index of the padded axes."""
    seconds, firsts = [], []
    for size, weight in zip(shape, (axial, 1.0, 1.0), strict=True):
        second, first = np.zeros((2, size + 2), np.float32)
        second[2:-2] = weight**2
        first[1:-2] = weight
        seconds.append(second)
        firsts.append(first)
    return tuple(seconds), tuple(firsts)


def norm_squared(shape: Sequence[int], axial: float) -> float:
    """An upper bound of ``|H|^2``: each squared first difference along an axis has at most norm 4."""
    return float(4 * sum(weight**2 for size, weight in zip(shape, (axial, 1.0, 1.0), strict=True) if size > 1)) ** 2
