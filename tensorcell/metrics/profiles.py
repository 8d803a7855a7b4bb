"""Agreement along z: concordance, correlation and structural similarity of the z profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from tensorcell.errors import InputError

from .axes import z_axis
from .inputs import PAIR, check_finite, check_window, checked_pair
from .scores import ProfileScore
from .slabs import plane_slabs
from .sums import check_scored, intensity_width, scored_sums
from .windows import similarity

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CONSTANT = 1e-14
"""Variance over mean square up to which a profile is constant: rounding of the mean leaves about as much."""

FEWEST_VOXELS = 3
"""Scored voxels below which a profile has no correlation."""


def profile_ccc(reference: Any, estimate: Any, *, axis: int | None = None, mask: Mask | None = None) -> ProfileScore:
    """Mean over the z profiles of their concordance correlation (`ccc`).

    A profile holds the voxels of one (y, x) along z. Profiles with fewer than 3 scored voxels and those where the
    reference is constant have no correlation and are left out; ``left_out`` is their number. Which profiles are left
    out never depends on the estimate. All profiles have the same weight, background as much as structure.

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit.
    axis
        Axis along which the profiles run. Default: Z of a Volume, the first axis of an array.
    mask
        Bool array of the same shape, True = voxel is scored. Default: all voxels.

    Returns
    -------
    ProfileScore
        A float between -1 and 1, with ``profiles`` and ``left_out``.

    Raises
    ------
    InputError
        As for `psnr`, or no profile with a score.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((8, 3, 4))
    >>> score = profile_ccc(truth, truth)
    >>> round(score, 12), score.profiles
    (1.0, 12)
    """
    return _mean_correlation("profile_ccc", _concordance, reference, estimate, axis, mask)


def profile_pcc(reference: Any, estimate: Any, *, axis: int | None = None, mask: Mask | None = None) -> ProfileScore:
    """Mean over the z profiles of their Pearson correlation (`pcc`).

    Profiles, parameters, result and errors are as for `profile_ccc`. Where the estimate is constant along a profile
    whose reference is not, the correlation counts as 0.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((8, 3, 4))
    >>> round(profile_pcc(truth, 2 * truth + 5), 12)
    1.0
    """
    return _mean_correlation("profile_pcc", _pearson, reference, estimate, axis, mask)


def profile_ssim(
    reference: Any,
    estimate: Any,
    *,
    data_range: float | None = None,
    window: int = 7,
    axis: int | None = None,
    mask: Mask | None = None,
) -> ProfileScore:
    """Mean 1-D structural similarity of the z profiles.

    This is SSIM with a window of 7 voxels along z and 1 voxel across it, so only structure along z counts: uniform
    window, sample covariance, K1 = .01, K2 = .03, then the mean over all windows of all profiles. Publications report
    this 1-D SSIM of intensity profiles of reconstructions beside CCC and PCC; for the similarity of whole z sections
    take `ms_ssim` with ``axis=1`` or ``axis=2``.

    Without a mask, voxels nearer to an end of the profile than half a window are left out. With a mask, the mean is
    taken over exactly the voxels where it is True, with windows completed by reflection at the ends; a window takes in
    all voxels around its centre, scored or not.

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit, finite everywhere.
    data_range
        As for `psnr`.
    window
        Voxels along z: odd, at least 3, at most the number of planes.
    axis
        Axis along which the profiles run. Default: Z of a Volume, the first axis of an array.
    mask
        Bool array of the same shape, True = voxel is scored.

    Returns
    -------
    ProfileScore
        A float, at most 1, with ``profiles``.

    Raises
    ------
    InputError
        As for `ssim`.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((9, 4, 4))
    >>> profile_ssim(truth, truth)
    1.0
    """
    axis = z_axis(reference, estimate, axis=axis)
    reference, estimate, mask = checked_pair(reference, estimate, mask)
    planes = reference.shape[axis]
    check_window(window, planes, f"the {planes} planes along axis {axis}")
    for name, array in zip(PAIR, (reference, estimate), strict=True):
        check_finite(name, array, "in reach of the windows")
    width = intensity_width(data_range, scored_sums(reference, estimate, mask))

    def mean(values: Array) -> Array:
        return np.asarray(uniform_filter1d(values, window, axis=1))

    half = window // 2
    total, count, profiles, left_out = 0.0, 0, 0, 0
    for r, e, scored in _profile_slabs(reference, estimate, axis, mask):
        luminance, term = similarity(r, e, mean, width, sample=window / (window - 1))
        values = luminance * term
        if mask is None:
            values, scored = values[:, half : planes - half], scored[:, half : planes - half]
        total += float(values[scored].sum())
        count += int(scored.sum())
        profiles += len(r)
        left_out += int((~scored.any(axis=1)).sum())
    return ProfileScore(total / count, profiles=profiles - left_out, left_out=left_out)


class _ProfileMoments(NamedTuple):
    """Population moments of each profile over its scored voxels."""

    shift: Array
    """Mean of the reference minus mean of the estimate."""
    reference_variance: Array
    estimate_variance: Array
    covariance: Array
    estimate_varies: Mask


def _concordance(moments: _ProfileMoments) -> Array:
    variances = moments.reference_variance + moments.estimate_variance
    return np.asarray(2 * moments.covariance / (variances + moments.shift**2))


def _pearson(moments: _ProfileMoments) -> Array:
    deviations = np.sqrt(moments.reference_variance * moments.estimate_variance)
    return np.asarray(moments.covariance / np.where(moments.estimate_varies, deviations, np.inf))


def _mean_correlation(
    name: str,
    correlation: Callable[[_ProfileMoments], Array],
    reference: Any,
    estimate: Any,
    axis: int | None,
    mask: Any,
) -> ProfileScore:
    """Mean of a correlation over the profiles that have one."""
    axis = z_axis(reference, estimate, axis=axis)
    reference, estimate, mask = checked_pair(reference, estimate, mask)
    check_scored(reference, estimate, mask)
    total, count, profiles = 0.0, 0, 0
    for r, e, scored in _profile_slabs(reference, estimate, axis, mask):
        if mask is not None:  # products with the mask below would keep NaN at voxels that are not scored
            r, e = np.where(scored, r, 0), np.where(scored, e, 0)
        moments = _moments_of_profiles(r, e, scored)
        total += float(correlation(moments).sum())
        count += len(moments.shift)
        profiles += len(r)
    if count == 0:
        raise InputError(
            f"{name} finds no profile with {FEWEST_VOXELS} scored voxels and a reference that varies, got {profiles} "
            f"profiles along axis {axis} of shape {reference.shape}"
        )
    return ProfileScore(total / count, profiles=count, left_out=profiles - count)


def _moments_of_profiles(r: Array, e: Array, scored: Mask) -> _ProfileMoments:
    """Moments of the profiles ``(profiles, planes)`` that have a correlation; voxels that are not scored hold 0."""
    n = np.maximum(scored.sum(axis=1), 1)
    mean_r, mean_e = r.sum(axis=1) / n, e.sum(axis=1) / n
    square_r, square_e = (r * r).sum(axis=1) / n, (e * e).sum(axis=1) / n
    r, e = (r - mean_r[:, None]) * scored, (e - mean_e[:, None]) * scored
    variance_r, variance_e = (r * r).sum(axis=1) / n, (e * e).sum(axis=1) / n
    covariance = (r * e).sum(axis=1) / n
    correlated = (scored.sum(axis=1) >= FEWEST_VOXELS) & (variance_r > CONSTANT * square_r)
    return _ProfileMoments(
        (mean_r - mean_e)[correlated],
        variance_r[correlated],
        variance_e[correlated],
        covariance[correlated],
        (variance_e > CONSTANT * square_e)[correlated],
    )


def _profile_slabs(
    reference: NDArray[Any], estimate: NDArray[Any], axis: int, mask: Mask | None
) -> Iterator[tuple[Array, Array, Mask]]:
    """Slabs of profiles ``(profiles, planes)`` in float64, and which of their voxels are scored."""

    def profiles_last(array: NDArray[Any]) -> NDArray[Any]:
        return np.atleast_2d(np.moveaxis(array, axis, -1))

    planes = reference.shape[axis]
    reference, estimate = profiles_last(reference), profiles_last(estimate)
    mask = None if mask is None else profiles_last(mask)
    for slab in plane_slabs(reference.shape):
        r, e = (a[slab].reshape(-1, planes).astype(np.float64) for a in (reference, estimate))
        yield r, e, np.ones(r.shape, bool) if mask is None else mask[slab].reshape(-1, planes)
