"""How far the specimen moves as a whole between the frames of a series: a stage that drifts, an animal that creeps.

The cross-correlation of successive frames, smoothed, has its peak at the way between them. A parabola through the peak
and its neighbours gives fractions of a voxel, so that slow drifts add up, too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

WIDTH = 1.5
"""Gaussian width, in voxels, with which frames are smoothed: their noise is not to hide what they share."""

FARTHEST = 0.25
"""Longest way between two frames, as a share of each side."""

GAIN, ERRORS = 0.02, 6.0
"""A long way is believed if it raises the correlation coefficient by so much, and by so many standard errors of it; a
short one if the coefficient is so many standard errors above 0."""

RELATED, VISIBLE = 0.3, 2.0
"""Frames whose structure has a smaller correlation coefficient show different things, if the variance of each frame is
so many times that of its noise."""

SHORT = 1.5
"""Ways of fewer voxels along each axis are short."""


def frame_drift(series: Floats) -> npt.NDArray[np.int64]:
    """Where the specimen lies in each frame, relative to the first one.

    Parameters
    ----------
    series : float array ``(T, Z, Y, X)``
        Finite numbers.

    Returns
    -------
    int64 array ``(T, 3)``
        Whole voxels along z, y and x; a frame in which nothing is recognised has not moved. The cost is that of one
        Fourier transform a frame.

    Examples
    --------
    >>> frame = np.random.default_rng(0).standard_normal((8, 40, 40))
    >>> frame_drift(np.stack([frame, np.roll(frame, (0, 3, -2), (0, 1, 2)), np.roll(frame, (1, 6, -4), (0, 1, 2))]))
    array([[ 0,  0,  0],
           [ 0,  3, -2],
           [ 1,  6, -4]])
    """
    from scipy import fft

    if series.ndim != 4:
        raise ValueError(f"expected 4 axes (t, z, y, x), got {series.ndim}")
    shape = series.shape[1:]
    window = math.prod(np.ix_(*(np.hanning(size + 2)[1:-1] for size in shape)))
    place, places = np.zeros(3), [np.zeros(3)]
    before = smooth(series[0])
    transform = fft.rfftn(before * window)
    for frame in series[1:]:
        after = smooth(frame)
        moved = fft.rfftn(after * window)
        likeness = fft.irfftn(np.conj(transform) * moved, shape)
        way = peak_of(likeness)
        if believable(before, after, way):
            place = place + way
        places.append(place)
        before, transform = after, moved
    return np.round(places).astype(np.int64)


def smooth(frame: Floats) -> Floats:
    """A frame smoothed, less its mean."""
    from scipy import ndimage

    found = ndimage.gaussian_filter(np.asarray(frame, np.float32), WIDTH)
    return np.asarray(found - found.mean())


def peak_of(likeness: Floats) -> npt.NDArray[np.float64]:
    """Place of the largest value among the ways that are allowed, to a fraction of a voxel."""
    shape = likeness.shape
    ranges = [np.arange(-int(FARTHEST * size), int(FARTHEST * size) + 1) for size in shape]
    near = likeness[np.ix_(*(steps % size for steps, size in zip(ranges, shape, strict=True)))]
    peak = np.unravel_index(int(np.argmax(near)), near.shape)
    found = np.array([steps[at] for steps, at in zip(ranges, peak, strict=True)], np.float64)
    for axis, at in enumerate(peak):
        line = np.moveaxis(near, axis, -1)[tuple(np.delete(peak, axis))]
        if 0 < at < len(line) - 1:
            low, here, high = (float(line[at + step]) for step in (-1, 0, 1))
            bend = 2 * here - low - high
            found[axis] += 0.5 * (high - low) / bend if bend > 0 else 0.0
    return found


def believable(before: Floats, after: Floats, way: npt.NDArray[np.float64]) -> bool:
    """Whether the frames are alike when one is moved so far, more than they are in place."""
    moved, still = correlation(*overlap(before, after, way)), correlation(before, after)
    voxels = math.prod(min(size, 2 * WIDTH * math.sqrt(math.pi)) for size in before.shape)
    error = math.sqrt(voxels / before.size)
    if np.max(np.abs(way)) < SHORT:
        return moved > ERRORS * error
    return moved - still > max(GAIN, ERRORS * error * (1 - max(moved, 0.0) ** 2))


def overlap(before: Floats, after: Floats, way: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """What both frames show, the second one after it moved."""
    here, there = [], []
    for step, size in zip(np.round(way).astype(int), before.shape, strict=True):
        here.append(slice(max(0, -step), size - max(0, step)))
        there.append(slice(max(0, step), size - max(0, -step)))
    return before[tuple(here)], after[tuple(there)]


def is_related(before: Floats, after: Floats, way: npt.NDArray[Any], sigma: float) -> bool:
    """Whether two frames show the same specimen, or too little to tell that they do not.

    Parameters
    ----------
    before, after : float arrays ``(Z, Y, X)``
    way : three numbers
        How far the specimen moved.
    sigma : float
        Standard deviation of the noise of each voxel: it makes frames less alike than what they show.
    """
    one, other = overlap(smooth(before), smooth(after), way)
    left = math.prod(1 / (2 * WIDTH * math.sqrt(math.pi)) for size in before.shape if size > 1)
    noise = sigma**2 * left
    squares = float(np.var(one)), float(np.var(other))
    if min(squares) < VISIBLE * noise or not min(squares) > 0:
        return True
    shown = math.sqrt((squares[0] - noise) * (squares[1] - noise))
    return correlation(one, other) * math.sqrt(squares[0] * squares[1]) > RELATED * shown


def correlation(v: Floats, w: Floats) -> float:
    """Pearson's correlation coefficient; 0 where one of them has one value."""
    v, w = v - v.mean(), w - w.mean()
    size = math.sqrt(float(np.vdot(v, v)) * float(np.vdot(w, w)))
    return float(np.vdot(v, w)) / size if size > 0 else 0.0
