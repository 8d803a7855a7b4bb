"""Planes of a volume as grey images from 0 (black) to 1 (white), which the perceptual scores take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .axes import as_planes, plane_size, planes_axis
from .inputs import as_array, check_finite, checked_data_range, refuse_empty, refuse_not_measured
from .scores import PlaneScore

Array = NDArray[np.float64]


def grey_planes(
    name: str, data: Any, data_range: float | None, axis: int | None, *, smallest: int, score: str
) -> tuple[Iterator[Array], float]:
    """Planes on [0, 1], one after the other, and the intensity that is white.

    Parameters
    ----------
    name
        Name of the data in messages.
    data
        One plane (2-D) or a stack (3-D), array or Volume.
    data_range
        The intensity that is white, or None where the data type or the values say it.
    axis
        Axis across which the planes lie. None: Z of a Volume, the first axis of an array.
    smallest
        Shortest side in pixels that the score can use.
    score
        Name of the score in messages.
    """
    axis = planes_axis(data, axis=axis)
    array = as_array(name, data)
    refuse_empty(name, array)
    refuse_not_measured(name, data, None)
    check_finite(name, array, "among its voxels")
    white = _white(name, array, data_range)
    planes = as_planes(array, axis)
    if min(planes.shape[1:]) < smallest:
        raise InputError(f"planes are {plane_size(planes)}, {score} expects sides of at least {smallest} pixels")
    return (np.clip(plane.astype(np.float64) / white, 0, 1) for plane in planes), white


def _white(name: str, array: NDArray[Any], data_range: float | None) -> float:
    """The intensity that is white: what the caller gives, 255 of uint8, 1 of bool and of floating data on [0, 1]."""
    if data_range is not None:
        return checked_data_range(data_range)
    if array.dtype == np.uint8:
        return 255.0
    low, high = float(array.min()), float(array.max())
    if array.dtype == np.bool_ or (array.dtype.kind == "f" and low >= 0 and high <= 1):
        return 1.0
    raise InputError(
        f"{name} is {array.dtype} from {low:g} to {high:g}, expected data_range=, the intensity that is white "
        "(known only of uint8 and of floating data on [0, 1])"
    )


def in_bytes(plane: Array) -> Array:
    """A plane on [0, 1] in whole numbers from 0 to 255; halves are rounded upwards."""
    return np.floor(255 * plane + 0.5)


def mean_over_planes(scores: Sequence[float]) -> PlaneScore:
    """Mean of the scores of the planes; planes without a score (NaN) are left out of it."""
    return PlaneScore(float(np.nanmean(scores)), planes=tuple(scores))
