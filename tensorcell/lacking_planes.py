"""Planes that one frame of a time series lacks and the frames beside it have.

Along z such a plane is predicted like any other that was not measured. In time it is the mean of the same plane in the
nearest frames that have it; how far that lies from the frame is seen at the planes above and below, which all of these
frames have. The two estimates are weighed by their squared errors, pixel by pixel: what moves is taken from the frame,
and what stays from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.stack_recovery import StackResult

Array = npt.NDArray[Any]

FARTHEST = 2
"""Frames before and after within which a plane is looked for."""

NEAREST = 2
"""Planes above, and below, at which frames are compared."""

AROUND = 2.0
"""Gaussian width, in pixels, within which squared differences are averaged."""


def with_planes_of_others(results: Sequence[StackResult | None]) -> tuple[list[StackResult | None], int]:
    """The results of successive frames with the planes that they lack, and how many there were.

    Parameters
    ----------
    results : sequence of StackResult or None
        None: a frame that could not be recovered.
    """
    has = [None if one is None else np.asarray(one.measured.any(axis=(1, 2))) for one in results]
    found, filled = list(results), 0
    for number, one in enumerate(results):
        own = has[number]
        if one is None or own is None or own.all() or not own.any():
            continue
        volume, uncertainty = one.volume.copy(), one.uncertainty.copy()
        for plane in np.flatnonzero(~own).tolist():
            others = [other for at in frames_with(has, number, plane) if (other := results[at]) is not None]
            shared = np.logical_and.reduce([own, *(other.measured.any(axis=(1, 2)) for other in others)])
            near = nearest_planes(shared, plane)
            if not others or not near:
                continue
            mean = np.mean([other.volume[[plane, *near]] for other in others], axis=0)
            square = squared_change(one.volume[near] - mean[1:])
            along_z = np.square(uncertainty[plane], dtype=np.float64)
            share = along_z / np.maximum(along_z + square, np.finfo(np.float64).tiny)
            volume[plane] += (share * (mean[0] - volume[plane])).astype(volume.dtype)
            uncertainty[plane] = np.sqrt(share * square)
            filled += 1
        found[number] = one._replace(volume=volume, uncertainty=uncertainty)
    return found, filled


def frames_with(has: Sequence[Array | None], number: int, plane: int) -> list[int]:
    """The nearest frames before and after that have a plane.

    >>> frames_with([np.array([True]), None, np.array([False]), np.array([True])], 2, 0)
    [0, 3]
    """
    found = []
    for way in (-1, 1):
        for step in range(1, FARTHEST + 1):
            at = number + way * step
            planes = has[at] if 0 <= at < len(has) else None
            if planes is not None and planes[plane]:
                found.append(at)
                break
    return found


def nearest_planes(shared: Array, plane: int) -> list[int]:
    """Planes among the shared ones that are nearest above and below.

    >>> nearest_planes(np.array([True, True, True, False, False, True]), 3)
    [1, 2, 5]
    """
    places = np.flatnonzero(shared)
    below, above = places[places < plane], places[places > plane]
    found: list[int] = [*below[-NEAREST:].tolist(), *above[:NEAREST].tolist()]
    return found


def squared_change(differences: Array) -> Array:
    """Mean square of differences ``(planes, Y, X)`` around each pixel."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(np.mean(np.square(differences, dtype=np.float64), axis=0), AROUND))
