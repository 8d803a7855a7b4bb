"""Sums, ranges and moments over the scored voxels, in float64 and a slab at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .inputs import PAIR, checked_data_range, checked_pair, refuse_not_finite
from .slabs import scored_slabs

Array = NDArray[np.float64]


class Sums(NamedTuple):
    """Sums over the scored voxels."""

    voxels: int
    """Number of scored voxels."""
    squared_error: float
    """``sum (reference - estimate)^2``."""
    reference: float
    """``sum reference``."""
    squared_reference: float
    """``sum reference^2``."""
    minimum: float
    """Least value of the reference."""
    maximum: float
    """Largest value of the reference."""


def scored_sums(
    reference: NDArray[Any],
    estimate: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    names: tuple[str, str] = PAIR,
) -> Sums:
    """Sums over the scored voxels; `InputError` where one of them is not finite."""
    count = 0
    squared_error = total = squared = 0.0
    minimum, maximum = math.inf, -math.inf
    for r, e in _finite_slabs(reference, estimate, mask, names):
        count += r.size
        squared_error += float(np.square(r - e).sum())
        total += float(r.sum())
        squared += float(np.square(r).sum())
        minimum, maximum = min(minimum, float(r.min())), max(maximum, float(r.max()))
    return Sums(count, squared_error, total, squared, minimum, maximum)


def check_scored(
    reference: NDArray[Any],
    estimate: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    names: tuple[str, str] = PAIR,
) -> None:
    """Raise `InputError` where one of the scored voxels is not finite."""
    for _ in _finite_slabs(reference, estimate, mask, names):
        pass


def _finite_slabs(
    reference: NDArray[Any], estimate: NDArray[Any], mask: NDArray[np.bool_] | None, names: tuple[str, str]
) -> Iterator[tuple[Array, Array]]:
    """The scored voxels in float64 up to the first slab with values that are not finite.

    The error is raised after the last slab, because the message says how many such values there are in all.
    """
    bad_reference = bad_estimate = 0
    for slab in scored_slabs(reference, estimate, mask=mask):
        r, e = (part.astype(np.float64) for part in slab)
        bad_reference += int(np.count_nonzero(~np.isfinite(r)))
        bad_estimate += int(np.count_nonzero(~np.isfinite(e)))
        if not (bad_reference or bad_estimate):
            yield r, e
    refuse_not_finite(names[0], bad_reference, "at scored voxels")
    refuse_not_finite(names[1], bad_estimate, "at scored voxels")


def intensity_width(data_range: float | None, sums: Sums) -> float:
    """Width of the intensity range: what the caller gives, else that of the reference over the scored voxels."""
    if data_range is not None:
        return checked_data_range(data_range)
    if sums.maximum == sums.minimum:
        raise InputError(f"reference is constant ({sums.maximum:g}) over the scored voxels, expected data_range=")
    return sums.maximum - sums.minimum


class Moments(NamedTuple):
    """Population moments and ranges over the scored voxels."""

    shift: float
    """Mean of the reference minus mean of the estimate."""
    reference_variance: float
    estimate_variance: float
    covariance: float
    reference_range: float
    estimate_range: float


def scored_moments(reference: Any, estimate: Any, mask: Any) -> Moments:
    """Moments in two passes, because in one pass a large offset would drown the variances in rounding."""
    reference, estimate, mask = checked_pair(reference, estimate, mask)
    sums = scored_sums(reference, estimate, mask)
    swapped = scored_sums(estimate, reference, mask)  # mean and range of the estimate
    mean_r, mean_e = sums.reference / sums.voxels, swapped.reference / sums.voxels
    variance_r = variance_e = covariance = 0.0
    for slab in scored_slabs(reference, estimate, mask=mask):
        r, e = slab[0].astype(np.float64) - mean_r, slab[1].astype(np.float64) - mean_e
        variance_r += float(np.square(r).sum())
        variance_e += float(np.square(e).sum())
        covariance += float((r * e).sum())
    n = sums.voxels
    return Moments(
        mean_r - mean_e,
        variance_r / n,
        variance_e / n,
        covariance / n,
        sums.maximum - sums.minimum,
        swapped.maximum - swapped.minimum,
    )
