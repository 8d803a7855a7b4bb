"""Between a global model and its measured voxels: which residuals are outliers, and what the others say of the gaps.

A Tucker model of moderate rank leaves structure in the residual ``r = y - x`` of the measured voxels. Structure is
shared with neighbours, an outlier is not. :func:`isolated` uses this to keep structure from being called an outlier,
and :func:`shared_residual` carries the part of the residual that neighbours share into the gaps: the scheme of trend
plus residual of regression kriging (Hengl, Heuvelink & Rossiter 2007, doi:10.1016/j.cageo.2007.05.001), with a
Gaussian kernel whose widths and weight are chosen by leaving measured voxels out.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

WIDTHS = (0.5, 0.7, 1.0, 1.5)
PROBE_VOXELS = 400_000


class Kernel(NamedTuple):
    """Gaussian widths along z and within planes, in voxels, and the weight given to the neighbours' mean."""

    width_z: float
    width_xy: float
    weight: float


def neighbours(volume: Floats, mask: Bools, positions: npt.NDArray[np.integer]) -> Floats:
    """The 26 neighbours of each position (flat, C order), NaN where unmeasured or outside; shape ``(n, 26)``."""
    index = np.stack(np.unravel_index(positions, volume.shape), axis=1)
    offsets = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)])
    around = index[:, None, :] + offsets
    inside = np.all((around >= 0) & (around < volume.shape), axis=2)
    around = np.where(inside[..., None], around, 0)
    where = tuple(np.moveaxis(around, 2, 0))
    return np.where(inside & mask[where], volume[where], np.nan)


def isolated(residual: Floats, mask: Bools, positions: npt.NDArray[np.integer], threshold: float) -> Bools:
    """Which of the candidate voxels stand out from their measured neighbours, not only from the model.

    Parameters
    ----------
    residual : float array ``(Z, Y, X)``
        ``y - x``; anything where nothing was measured.
    mask : bool array of the same shape
        True = measured.
    positions : int array ``(n,)``
        Candidates, flat in C order.
    threshold : float
        Residual that makes a candidate, in the data's unit.

    Returns
    -------
    bool array ``(n,)``
        True where the residual differs from the neighbours' median by more than the threshold and by more than three
        times what four in five of the neighbours do: the top of a smooth structure does not, a wrong value does.
        A candidate without three measured neighbours counts as isolated: nothing supports it.
    """
    keep = np.ones(len(positions), dtype=bool)
    for first in range(0, len(positions), 1 << 16):
        part = slice(first, first + (1 << 16))
        values = np.sort(neighbours(residual, mask, positions[part]), axis=1)  # NaN last
        count = np.sum(~np.isnan(values), axis=1)
        middle = _median(values, count)
        apart = np.sort(np.abs(values - middle[:, None]), axis=1)
        spread = np.nan_to_num(apart[np.arange(len(apart)), np.maximum((4 * count) // 5 - 1, 0)])
        own = np.abs(residual.ravel()[positions[part]] - middle)
        keep[part] = (count < 3) | (own > np.maximum(threshold, 3 * spread))
    return keep


def beyond_neighbours(volume: Floats, mask: Bools, positions: npt.NDArray[np.integer], factor: float) -> Bools:
    """Which measured voxels lie beyond all neighbours but one by ``factor`` times what the neighbours differ.

    Hot and dead pixels do. The brightest voxel of anything that the microscope resolves does not: its neighbours share
    its light. ``volume`` holds the measured intensities; positions are flat, in C order; a voxel without three measured
    neighbours does not count.
    """
    found = np.zeros(len(positions), dtype=bool)
    for first in range(0, len(positions), 1 << 16):
        part = slice(first, first + (1 << 16))
        values = np.sort(neighbours(volume, mask, positions[part]), axis=1)
        count = np.sum(~np.isnan(values), axis=1)
        low, high = values[:, 1], values[np.arange(len(values)), np.maximum(count - 2, 0)]
        own = volume.ravel()[positions[part]]
        with np.errstate(invalid="ignore"):
            found[part] = (count >= 3) & (np.maximum(own - high, low - own) > factor * (high - low))
    return found


def _median(ordered: Floats, count: npt.NDArray[np.integer]) -> Floats:
    """Median of the first ``count`` entries of each ordered row (lower and upper middle averaged; 0 where none)."""
    rows = np.arange(len(ordered))
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, ordered.shape[1] - 1)
    return np.asarray(np.nan_to_num((ordered[rows, low] + ordered[rows, high]) / 2))


def neighbour_mean(residual: Floats, mask: Bools, width_z: float, width_xy: float, *, leave_out: bool) -> Floats:
    """Gaussian-weighted mean of the residual over measured neighbours (0 where there are none in reach).

    With ``leave_out`` the voxel itself is not counted, so that the result predicts it from its neighbours alone.
    """
    width = (width_z, width_xy, width_xy)
    known = mask.astype(residual.dtype)
    values = np.where(mask, residual, 0).astype(residual.dtype, copy=False)
    total: Floats = ndimage.gaussian_filter(values, width, mode="constant", truncate=3.0)
    weight: Floats = ndimage.gaussian_filter(known, width, mode="constant", truncate=3.0)
    if leave_out:
        own = _centre_weight(width)
        total -= own * values
        weight -= own * known
    reach = weight > 1e-6
    total[reach] /= weight[reach]
    total[~reach] = 0
    return total


def _centre_weight(width: tuple[float, float, float]) -> float:
    spike = [np.zeros(2 * int(3 * w + 0.5) + 1) for w in width]
    for line in spike:
        line[len(line) // 2] = 1
    peaks = [
        ndimage.gaussian_filter1d(line, w, truncate=3.0)[len(line) // 2] for line, w in zip(spike, width, strict=True)
    ]
    return float(np.prod(peaks))


def choose_kernel(residual: Floats, mask: Bools) -> Kernel:
    """Widths and weight with which neighbours predict measured residuals best, each left out in turn.

    The weight is the least-squares slope of the residual on its prediction, within 0 and 1: where the residual is white
    noise it is 0 and nothing is added to the model. A central block of at most 400 000 voxels is used.
    """
    block = central_block(residual.shape)
    r, w = residual[block], mask[block]
    best, least = Kernel(1.0, 1.0, 0.0), np.inf
    truth = r[w].astype(np.float64)
    if truth.size == 0:
        return best
    least = float(truth @ truth)
    for width_z, width_xy in itertools.product(WIDTHS, WIDTHS):
        guess = neighbour_mean(r, w, width_z, width_xy, leave_out=True)[w].astype(np.float64)
        square = float(guess @ guess)
        slope = min(1.0, max(0.0, float(truth @ guess) / square)) if square > 0 else 0.0
        error = float(np.sum((truth - slope * guess) ** 2))
        if error < least:
            best, least = Kernel(width_z, width_xy, slope), error
    return best


def central_block(shape: tuple[int, ...], voxels: int = PROBE_VOXELS) -> tuple[slice, ...]:
    """The middle of a volume, of the same proportions, with at most about so many voxels."""
    shrink = min(1.0, (voxels / np.prod(shape, dtype=float)) ** (1 / len(shape)))
    kept = [max(1, round(size * shrink)) for size in shape]
    return tuple(slice((s - k) // 2, (s - k) // 2 + k) for s, k in zip(shape, kept, strict=True))


def shared_residual(residual: Floats, mask: Bools, kernel: Kernel, *, leave_out: bool) -> Floats:
    """What measured neighbours say of the residual at every voxel, times the kernel's weight (zero without weight)."""
    if kernel.weight == 0:
        return np.zeros_like(residual)
    mean = neighbour_mean(residual, mask, kernel.width_z, kernel.width_xy, leave_out=leave_out)
    return (kernel.weight * mean).astype(residual.dtype, copy=False)


def estimate_noise(volume: Floats, mask: Bools) -> float:
    """Standard deviation of white noise from second differences within planes, in the data's unit.

    Along y and along x, ``y[i-1] - 2 y[i] + y[i+1]`` of three measured neighbours has the standard deviation
    ``sqrt(6) sigma`` where the image is smooth; structure and outliers are kept out by the median. The smaller of the
    two directions is returned, 0 where no three neighbours were measured. Structure at the scale of a pixel adds to it,
    so it is an upper bound for sharp images; noise correlated between pixels makes it too small.

    Immerkaer 1996, doi:10.1006/cviu.1996.0060, with the median in place of the mean.
    """
    block = central_block(volume.shape)
    m = mask[block]
    v = np.where(m, volume[block], 0)
    found = []
    for axis in (1, 2):
        v3, m3 = np.moveaxis(v, axis, -1), np.moveaxis(m, axis, -1)
        if v3.shape[-1] < 3:
            continue
        usable = m3[..., :-2] & m3[..., 1:-1] & m3[..., 2:]
        if usable.sum() >= 50:
            second = (v3[..., :-2] - 2 * v3[..., 1:-1] + v3[..., 2:])[usable]
            found.append(float(np.median(np.abs(second))) / 0.6745 / np.sqrt(6))
    return min(found, default=0.0)
