"""Agreement voxel by voxel: PSNR, relative error, SSIM, concordance and correlation."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .inputs import PAIR, check_finite, check_window, checked_pair, refuse_constant
from .slabs import plane_slabs
from .sums import intensity_width, scored_moments, scored_sums

Normalization = Literal["euclidean", "min-max", "mean"]


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
    reference, estimate, mask = checked_pair(reference, estimate, mask)
    sums = scored_sums(reference, estimate, mask)
    width = intensity_width(data_range, sums)
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
    reference, estimate, mask = checked_pair(reference, estimate, mask)
    if normalization not in ("euclidean", "min-max", "mean"):
        raise InputError(f"normalization is {normalization!r}, expected 'euclidean', 'min-max' or 'mean'")
    sums = scored_sums(reference, estimate, mask)
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
    and a window takes in all voxels around its centre, scored or not. An all-True mask therefore does not give
    the same score as no mask.

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

    reference, estimate, mask = checked_pair(reference, estimate, mask)
    check_window(window, min(reference.shape), f"the shortest side of shape {reference.shape}")
    for name, array in zip(PAIR, (reference, estimate), strict=True):
        check_finite(name, array, "in reach of the windows")
    width = intensity_width(data_range, scored_sums(reference, estimate, mask))

    planes, half = reference.shape[0], window // 2
    inner = (slice(None),) + (slice(half, -half),) * (reference.ndim - 1)
    total, count = 0.0, 0
    for slab in plane_slabs(reference.shape, smallest=window):
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


def ccc(reference: Any, estimate: Any, *, mask: NDArray[np.bool_] | None = None) -> float:
    r"""Lin's concordance correlation coefficient, ``2 s_re / (s_r^2 + s_e^2 + (m_r - m_e)^2)``.

    It is Pearson's correlation times a factor below 1 for a shift or a change of scale; means and (co)variances divide
    by the number of voxels, as in the source.

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit.
    mask
        Bool array of the same shape, True = voxel is scored. Default: all voxels.

    Returns
    -------
    float
        Between -1 and 1; 1 for equal arrays.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, NaN or infinite values at scored voxels, or a constant reference.

    References
    ----------
    Lin 1989, Biometrics 45, 255-268, doi:10.2307/2532051.

    Examples
    --------
    >>> import numpy as np
    >>> round(ccc(np.array([1, 2, 3]), np.array([2, 3, 4])), 6)
    0.571429
    """
    moments = scored_moments(reference, estimate, mask)
    refuse_constant("ccc", "reference", moments.reference_range)
    variances = moments.reference_variance + moments.estimate_variance
    return 2 * moments.covariance / (variances + moments.shift**2)


def pcc(reference: Any, estimate: Any, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Pearson's correlation coefficient, ``s_re / (s_r s_e)``: blind to a shift and to a change of scale.

    Parameters
    ----------
    reference, estimate, mask
        As for `ccc`.

    Returns
    -------
    float
        Between -1 and 1.

    Raises
    ------
    InputError
        As for `ccc`, or a constant estimate.

    Examples
    --------
    >>> import numpy as np
    >>> pcc(np.array([1, 2, 3]), np.array([2, 4, 6]))
    1.0
    """
    moments = scored_moments(reference, estimate, mask)
    refuse_constant("pcc", "reference", moments.reference_range)
    refuse_constant("pcc", "estimate", moments.estimate_range)
    value = moments.covariance / math.sqrt(moments.reference_variance * moments.estimate_variance)
    return min(1.0, max(-1.0, value))
