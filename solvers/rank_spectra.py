"""Spectra of masked data, and the edge of what missing entries and noise alone would show in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .arrays import Array, contiguous, count, namespace_of
from .spread import median, robust_sigma
from .subspaces import Spectra, masked_spectra, subgrid, take_grid

Floats = npt.NDArray[np.float64]


def has_outliers(data: Array, mask: Array) -> bool:
    """Whether more than one observed entry in a thousand is over fifteen robust standard deviations from the median.

    Clipping distorts the spectra of data without outliers, so data are clipped only where this is True. Outliers as
    small as the data are not found here, but they do little harm to a spectrum.
    """
    xp = namespace_of(data)
    grid = subgrid(data.shape, 1 << 18, 0)
    values = take_grid(data, grid)[take_grid(mask, grid)]
    if values.shape[0] == 0:
        return False
    deviations = values - median(values)
    return bool(count(xp.abs(deviations) > 15 * robust_sigma(deviations)) > 1e-3 * values.shape[0])


def on_subgrid(data: Array, mask: Array, voxels: int, seed: int) -> tuple[Array, Array]:
    """Data and mask, or their part on a random subgrid of at most so many voxels if something is observed there."""
    if math.prod(data.shape) <= voxels:
        return data, mask
    grid = subgrid(data.shape, voxels, seed)
    part = contiguous(take_grid(mask, grid))
    return (contiguous(take_grid(data, grid)), part) if count(part) else (data, mask)


def spectra_of(data: Array, mask: Array) -> Spectra:
    """Debiased spectra of the data, which are clipped first if they have outliers."""
    return masked_spectra(data, mask, spreads=4.0 if has_outliers(data, mask) else None)


def largest_ratio(values: Floats, limit: int) -> int:
    """Position of the largest ratio of successive eigenvalues, after the size of the noise was added to both."""
    floor = max(-float(values[-1]), 1e-6 * float(values[0]), 1e-300)
    ladder = np.maximum(values[: min(limit, len(values) - 1) + 1], 0.0) + floor
    return 1 if len(ladder) < 2 else 1 + int(np.argmax(ladder[:-1] / ladder[1:]))


def spectral_edge(values: Floats, spectra: Spectra, shape: Sequence[int], mode: int, noise: float | None) -> float:
    """Largest eigenvalue that a debiased Gram matrix would have from missing entries and noise alone.

    Entries of ``Z Z' / p^2`` off the diagonal have a variance of about ``m (v^2 / p^2 - s^2)`` with ``m`` columns, the
    second moments ``v`` of what was observed and ``s`` of the signal: twice its root times ``sqrt(I)`` is the edge
    (Wigner). The most negative eigenvalue shows the same edge on the other side. Noise raises the diagonal.
    """
    columns = math.prod(shape) / shape[mode]
    variance = (noise or 0.0) ** 2
    moment = max(0.0, float(values.sum()) / math.prod(shape) - spectra.centre**2)  # signal and noise
    signal = max(0.0, moment - variance)
    spread = math.sqrt(columns * max(0.0, (moment / spectra.ratio) ** 2 - signal**2))
    edge = columns * variance + 2 * math.sqrt(shape[mode]) * spread
    return max(1.05 * edge, 1.5 * max(0.0, -float(values[-1])), 1e-6 * float(values[0]))
