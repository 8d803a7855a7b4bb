"""Checks of what the scores are given: two arrays of one shape, a mask, finite numbers, a range and a window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError
from tensorcell.plain_arrays import holds_masked_array
from tensorcell.volume import Volume

from .slabs import plane_slabs

PAIR = ("reference", "estimate")
"""Names of the two arrays in messages, unless a score has others."""

Checked = tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]


def as_array(name: str, data: Any) -> NDArray[Any]:
    """The array of a Volume (known by its axes), else the data as an array; of at least one axis and real numbers."""
    if getattr(data, "axes", None) is not None and hasattr(data, "data"):
        data = data.data
    if holds_masked_array(data):
        raise InputError(f"{name} is a NumPy masked array, expected a plain array and mask= (True = scored)")
    array = np.atleast_1d(np.asarray(data))
    if array.dtype.kind not in "buif":
        raise InputError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def checked_pair(reference: Any, estimate: Any, mask: Any, names: tuple[str, str] = PAIR) -> Checked:
    """Two Volumes or array-likes as arrays of one shape, and the mask as a bool array of that shape, without copies."""
    given = reference, estimate
    reference, estimate = as_array(names[0], reference), as_array(names[1], estimate)
    if reference.shape != estimate.shape:
        raise InputError(f"{names[1]} has shape {estimate.shape}, {names[0]} has shape {reference.shape}")
    refuse_empty(names[0], reference)
    if holds_masked_array(mask):
        raise InputError("mask is a NumPy masked array, expected a plain array (True = voxel is scored)")
    mask = None if mask is None else np.asarray(mask)
    for name, volume in zip(names, given, strict=True):
        refuse_not_measured(name, volume, mask)
    if mask is None:
        return reference, estimate, None
    if mask.dtype != np.bool_:
        raise InputError(f"mask has dtype {mask.dtype}, expected bool (True = voxel is scored)")
    if mask.shape != reference.shape:
        raise InputError(f"mask has shape {mask.shape}, {names[0]} has shape {reference.shape}")
    if not mask.any():
        raise InputError("mask is False everywhere, expected at least one voxel to score")
    return reference, estimate, mask


def refuse_not_measured(name: str, data: Any, mask: NDArray[np.bool_] | None) -> None:
    """Raise `InputError` where a Volume has voxels that were not measured and would be scored."""
    if not isinstance(data, Volume) or data.mask is None:
        return
    scored = ~data.mask if mask is None or mask.shape != data.mask.shape else mask & ~data.mask
    count = int(np.count_nonzero(scored))
    if count:
        raise InputError(
            f"{name} has {count} voxels that were not measured among those to score, expected none (where a score "
            "takes mask=, it can leave them out)"
        )


def refuse_empty(name: str, array: NDArray[Any]) -> None:
    """Raise `InputError` where an array has no voxel."""
    if array.size == 0:
        raise InputError(f"{name} has no voxel to score, its shape is {array.shape}")


def refuse_not_finite(name: str, count: int, where: str) -> None:
    """Raise `InputError` where ``count`` values that are not finite were found."""
    if count:
        raise InputError(f"{name} has {count} NaN or infinite values {where}, expected finite numbers")


def check_finite(name: str, array: NDArray[Any], where: str) -> None:
    """Raise `InputError` where an array holds NaN or infinite values anywhere, scored or not."""
    if array.dtype.kind != "f":
        return
    count = sum(int(np.count_nonzero(~np.isfinite(array[slab]))) for slab in plane_slabs(array.shape))
    refuse_not_finite(name, count, where)


def refuse_constant(score: str, name: str, width: float) -> None:
    """Raise `InputError` where the range of the scored voxels of an array is 0."""
    if width == 0:
        raise InputError(f"{name} is constant over the scored voxels, {score} expects one that varies")


def checked_data_range(data_range: float) -> float:
    """The width of the intensity range that the caller gives, as a positive finite float."""
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"data_range is {data_range}, expected a positive finite number")
    return float(data_range)


def check_window(window: int, longest: int, what: str) -> None:
    """Raise `InputError` unless the side of a window is odd, at least 3 and at most ``longest`` (named by ``what``)."""
    if not isinstance(window, int | np.integer) or window < 3 or window % 2 == 0:
        raise InputError(f"window is {window}, expected an odd number of at least 3")
    if window > longest:
        raise InputError(f"window is {window}, expected at most {what}")
