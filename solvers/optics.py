"""How wide the optics draw, estimated from the autocovariance of a stack.

A Gaussian PSF of standard deviation ``s`` gives unresolved objects the autocovariance ``exp(-lag^2 / (4 s^2))``. Noise
and impulses of single voxels contribute to lag 0 alone, and structures much larger than the PSF add nearly a constant
to all short lags. So the ratio ``(C1 - C2) / (C2 - C3)`` of the autocovariances at lags 1, 2 and 3 gives ``s``. Edges
and textures make it larger: the result is an upper bound, the width of the finest structure that the stack shows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, entries, to_host
from .slabs import central_block

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

VOXELS = 1_000_000
"""Largest number of voxels from which the autocovariance is computed."""

WIDEST = 3.0
"""Largest width that is told, in voxels: from there on the ratio hardly changes."""

BULK = 0.3
"""Ranks show a structure if those of neighbours are more correlated than this: most voxels take part in it then."""

FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


class Width(NamedTuple):
    """Standard deviations in voxels along z, y and x of the finest structure; NaN where none was found."""

    sigma: tuple[float, ...]

    @property
    def lateral(self) -> float:
        """The smaller one of those along y and x; 0 where none was found."""
        found = [s for s in self.sigma[1:] if not math.isnan(s)]
        return min(found, default=0.0)

    @property
    def fwhm(self) -> tuple[float, ...]:
        """Full widths at half maximum, in voxels."""
        return tuple(FWHM * s for s in self.sigma)


NO_WIDTH = Width((math.nan,) * 3)


def shared_light(sigma: float) -> float:
    """Share of a spot's peak that a voxel next to it has, if the peak lies on its voxel: ``exp(-1 / (2 sigma^2))``.

    >>> round(shared_light(0.5), 3)
    0.135
    """
    return math.exp(-1 / (2 * sigma**2)) if sigma > 0.02 else 0.0


def structure_width(stack: Array, sound: Array) -> Width:
    """Width of the finest structure of a stack.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
    sound : bool array of the same shape
        True = measured, and neither a defect nor a spot.

    Notes
    -----
    A central block of at most a million voxels is analysed, on the host.
    """
    block = central_block(stack.shape, VOXELS)
    w = to_host(sound[block])
    chosen = entries(to_host(stack[block]), w)
    if not len(chosen) or chosen.min() == chosen.max():
        return NO_WIDTH
    width = _widths(chosen.astype(np.float64) / float(np.abs(chosen).max()), w)  # squares of large numbers overflow
    if all(math.isnan(along) for along in width.sigma[1:]):
        width = Width((width.sigma[0], *_widths(_ranks(chosen), w, BULK).sigma[1:]))
    return width


def neighbours_alike(stack: Array, mask: Array) -> bool:
    """Whether neighbours in the plane have similar ranks, by more than chance."""
    block = central_block(stack.shape, VOXELS)
    w = to_host(mask[block])
    ranks = np.zeros(w.shape)
    ranks[w] = _ranks(to_host(stack[block])[w]) - 0.5
    for axis in (1, 2):
        values = np.moveaxis(ranks, axis, 0)
        products = values[:-1] * values[1:]
        if products.sum() > 5 * math.sqrt(float(np.sum(products**2))):
            return True
    return False


def _ranks(values: Floats) -> Floats:
    """Ranks between 0 and 1: in them, a few bright voxels, such as impulses, do not hide the others."""
    from scipy.stats import rankdata

    return np.asarray((rankdata(values) - 0.5) / len(values))


def _widths(chosen: Floats, sound: Bools, correlation: float = 0.0) -> Width:
    """Width of the structure that the values of the sound voxels show, if neighbours are more correlated than that."""
    w = sound.astype(np.float64)
    values = np.zeros(sound.shape)
    values[sound] = chosen - chosen.mean()
    least = correlation * float(chosen.var())
    return Width(tuple(_width_along(np.moveaxis(values, axis, 0), np.moveaxis(w, axis, 0), least) for axis in range(3)))


def _width_along(values: Floats, w: Floats, least: float) -> float:
    """Standard deviation of a spot with the same autocovariances along the first axis; NaN where none are found."""
    if len(values) < 5:
        return math.nan
    covariance, error = [], 0.0
    for lag in (1, 2, 3):
        products, pairs = values[:-lag] * values[lag:], float(np.sum(w[:-lag] * w[lag:]))
        if pairs < 100:
            return math.nan
        covariance.append(float(products.sum()) / pairs)
        error = max(error, float(np.sqrt(np.sum(products**2))) / pairs)
    near, far = covariance[0] - covariance[1], covariance[1] - covariance[2]
    if covariance[0] <= max(5 * error, least):
        return math.nan
    if far > 0:
        return width_of_ratio(near / far)
    return width_of_ratio(math.inf) if near > 3 * error else WIDEST  # all is gone at lag 2, or nothing has changed yet


def width_of_ratio(ratio: float) -> float:
    """The standard deviation whose autocovariances have the ratio ``(C1 - C2) / (C2 - C3)``.

    >>> round(width_of_ratio((np.exp(-1 / 4) - np.exp(-1)) / (np.exp(-1) - np.exp(-9 / 4))), 3)
    1.0
    """
    sigma = np.linspace(0.25, WIDEST, 400)
    c1, c2, c3 = (np.exp(-(lag**2) / (4 * sigma**2)) for lag in (1, 2, 3))
    ratios = (c1 - c2) / (c2 - c3)  # falls with sigma
    return float(np.interp(-ratio, -ratios, sigma))
