"""Scores of an estimate against a reference: PSNR, SSIM and NRMSE.

No score fits a scale or a shift first: an estimate in another unit scores badly, as it should. Everything is
computed in float64, a slab of planes at a time, whatever the dtype of the arrays, so that integers do not
overflow and large stacks need little memory.

Wherever a function takes ``mask``, True marks a voxel that is scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

Normalization = Literal["euclidean", "min-max", "mean"]

_SLAB_VOXELS = 2**20


def psnr(
    reference: Any, estimate: Any, *, data_range: float | None = None, mask: NDArray[np.bool_] | None = None
) -> float:
    r"""Peak signal-to-noise ratio in decibels, ``10 log10(data_range^2 / mean((reference - estimate)^2))``.

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit.
    data_range
        Width of the intensity range, in the unit of the data. Default: maximum minus minimum of the reference
        over the scored voxels. Give 1 for data on [0, 1]; give it always when scores of different references
        or masks are compared.
    mask
        Bool array of the same shape, True = voxel is scored. Default: all voxels.

    Returns
    -------
    float
        Infinity when the two are equal at every scored voxel.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, NaN or infinite values at scored voxels, or a constant reference
        without ``data_range``.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> round(psnr(truth, truth + 0.1), 6)
    20.0
    """
    reference, estimate, mask = _checked(reference, estimate, mask)
    sums = _sums(reference, estimate, mask)
    width = _data_range(data_range, sums)
    if sums.squared_error == 0:
        return math.inf
    return 20 * math.log10(width) - 10 * math.log10(sums.squared_error / sums.voxels)


def nrmse(
    reference: Any,
    estimate: Any,
    *,
    mask: NDArray[np.bool_] | None = None,
    normalization: Normalization = "euclidean",
) -> float:
    """Root mean squared error, divided by a size of the reference.

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit.
    mask
        Bool array of the same shape, True = voxel is scored. Default: all voxels.
    normalization
        The divisor, always of the reference over the scored voxels: ``"euclidean"`` its root mean square
        (then the score is the relative error in the Frobenius norm), ``"min-max"`` its range, ``"mean"`` its
        mean.

    Returns
    -------
    float
        0 for equal arrays; no unit.

    Raises
    ------
    InputError
        As for `psnr`, an unknown ``normalization``, or a divisor that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> round(nrmse(np.array([3, 4], np.uint8), np.array([3, 5], np.uint8)), 6)
    0.2
    """
    reference, estimate, mask = _checked(reference, estimate, mask)
    if normalization not in ("euclidean", "min-max", "mean"):
        raise InputError(f"normalization is {normalization!r}, expected 'euclidean', 'min-max' or 'mean'")
    sums = _sums(reference, estimate, mask)
    divisor = {
        "euclidean": math.sqrt(sums.squared_reference / sums.voxels),
        "min-max": sums.maximum - sums.minimum,
        "mean": sums.reference / sums.voxels,
    }[normalization]
    if divisor <= 0:
        raise InputError(
            f"nrmse with normalization {normalization!r} divides by that of the reference, "
            f"expected a positive number, got {divisor:g}"
        )
    return math.sqrt(sums.squared_error / sums.voxels) / divisor


def ssim(
    reference: Any,
    estimate: Any,
    *,
    data_range: float | None = None,
    window: int = 7,
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """Mean structural similarity over cubic windows that span all axes (3-D for a stack).

    The map is scikit-image's `structural_similarity` (uniform window, sample covariance, K1 = .01, K2 = .03).
    Without a mask, voxels nearer to the border than half a window are left out, as there. With a mask, the
    mean is taken over exactly the voxels where it is True; windows at the border are completed by reflection,
    and a window sees all voxels around its centre, scored or not. An all-True mask is not the same as none.

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit. Finite everywhere, because windows
        reach beyond the mask. Score the frames and channels of a 4-D stack one by one: the window would
        span those axes as well.
    data_range
        As for `psnr`. It sets the constants of the score, so results with different ranges do not compare.
    window
        Side of the window in voxels: odd, at least 3, at most the shortest side.
    mask
        Bool array of the same shape, True = voxel is scored.

    Returns
    -------
    float
        At most 1, and 1 for equal arrays.

    Raises
    ------
    InputError
        As for `psnr`, or a window that is even, below 3 or longer than a side.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((9, 16, 16))
    >>> ssim(truth, truth)
    1.0
    """
    import skimage.metrics  # slow to import

    structural_similarity: Any = skimage.metrics.structural_similarity

    reference, estimate, mask = _checked(reference, estimate, mask)
    if not isinstance(window, int | np.integer) or window < 3 or window % 2 == 0:
        raise InputError(f"window is {window}, expected an odd number of at least 3")
    if window > min(reference.shape):
        raise InputError(f"window is {window}, expected at most the shortest side of shape {reference.shape}")
    for name, array in (("reference", reference), ("estimate", estimate)):
        _refuse_not_finite(name, _count_not_finite(array), "in reach of the windows")
    width = _data_range(data_range, _sums(reference, estimate, mask))

    planes, half = reference.shape[0], window // 2
    inner = (slice(None),) + (slice(half, -half),) * (reference.ndim - 1)
    total, count = 0.0, 0
    for slab in _slabs(reference.shape, smallest=window):
        stop = min(planes, slab.stop + half)
        start = max(0, min(slab.start - half, stop - window))
        _, values = structural_similarity(
            reference[start:stop].astype(np.float64),
            estimate[start:stop].astype(np.float64),
            win_size=window,
            data_range=width,
            full=True,
        )
        if mask is None:
            first, last = max(slab.start, half), min(slab.stop, planes - half)
            scored = values[max(0, first - start) : max(0, last - start)][inner]
        else:
            scored = values[slab.start - start : slab.stop - start][mask[slab]]
        total += float(scored.sum())
        count += scored.size
    return total / count


class _Sums(NamedTuple):
    """What the scores need of the scored voxels."""

    voxels: int
    squared_error: float
    reference: float
    squared_reference: float
    minimum: float
    maximum: float


def _sums(reference: NDArray[Any], estimate: NDArray[Any], mask: NDArray[np.bool_] | None) -> _Sums:
    """Sums over the scored voxels in float64; NaN or infinities there are an error."""
    count, bad_reference, bad_estimate = 0, 0, 0
    squared_error = total = squared = 0.0
    minimum, maximum = math.inf, -math.inf
    for slab in _slabs(reference.shape):
        chosen = ... if mask is None else mask[slab]
        r = reference[slab][chosen].astype(np.float64)
        e = estimate[slab][chosen].astype(np.float64)
        if r.size == 0:
            continue
        count += r.size
        bad_reference += _count_not_finite(r)
        bad_estimate += _count_not_finite(e)
        if bad_reference or bad_estimate:
            continue
        squared_error += float(np.square(r - e).sum())
        total += float(r.sum())
        squared += float(np.square(r).sum())
        minimum, maximum = min(minimum, float(r.min())), max(maximum, float(r.max()))
    _refuse_not_finite("reference", bad_reference, "at scored voxels")
    _refuse_not_finite("estimate", bad_estimate, "at scored voxels")
    return _Sums(count, squared_error, total, squared, minimum, maximum)


def _data_range(data_range: float | None, sums: _Sums) -> float:
    if data_range is None:
        if sums.maximum == sums.minimum:
            raise InputError(f"reference is constant ({sums.maximum:g}) over the scored voxels, expected data_range=")
        return sums.maximum - sums.minimum
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"data_range is {data_range}, expected a positive finite number")
    return float(data_range)


def _checked(reference: Any, estimate: Any, mask: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]:
    """Arrays of Volumes or array-likes, with shapes and dtypes checked; no copies of arrays."""
    reference, estimate = _array("reference", reference), _array("estimate", estimate)
    if reference.shape != estimate.shape:
        raise InputError(f"estimate has shape {estimate.shape}, reference has shape {reference.shape}")
    if reference.size == 0:
        raise InputError(f"reference has no voxel to score, its shape is {reference.shape}")
    if mask is None:
        return reference, estimate, None
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise InputError(f"mask has dtype {mask.dtype}, expected bool (True = voxel is scored)")
    if mask.shape != reference.shape:
        raise InputError(f"mask has shape {mask.shape}, reference has shape {reference.shape}")
    if not mask.any():
        raise InputError("mask is False everywhere, expected at least one voxel to score")
    return reference, estimate, mask


def _array(name: str, data: Any) -> NDArray[Any]:
    """The array of a Volume (which has axes), else the data as an array."""
    if getattr(data, "axes", None) is not None and hasattr(data, "data"):
        data = data.data
    if np.ma.isMaskedArray(data):
        raise InputError(f"{name} is a NumPy masked array, expected a plain array and mask= (True = scored)")
    array = np.atleast_1d(np.asarray(data))
    if array.dtype.kind not in "buif":
        raise InputError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def _count_not_finite(array: NDArray[Any]) -> int:
    if array.dtype.kind != "f":
        return 0
    return sum(int(np.count_nonzero(~np.isfinite(array[slab]))) for slab in _slabs(array.shape))


def _refuse_not_finite(name: str, count: int, where: str) -> None:
    if count:
        raise InputError(f"{name} has {count} NaN or infinite values {where}, expected finite numbers")


def _slabs(shape: tuple[int, ...], smallest: int = 1) -> Iterator[slice]:
    """Slices of whole planes along the first axis, about a million voxels each."""
    planes = max(smallest, _SLAB_VOXELS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], planes):
        yield slice(start, min(start + planes, shape[0]))
