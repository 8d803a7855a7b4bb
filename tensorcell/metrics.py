"""Scores of an estimate against a reference, and of a volume on its own.

No score fits a scale or a shift first: an estimate in another unit scores badly, as it should (`pcc` and the Fourier
correlations do not see scale or shift by their definition). Everything is computed in float64, a slab at a time
whatever the dtype of the arrays, so that integers do not overflow and large stacks need little memory; the spectra
alone hold a whole volume.

====================  =========================================================================================
agreement             `psnr`, `nrmse`, `ssim`, `ms_ssim`, `ccc`, `pcc`
along z               `profile_ccc`, `profile_pcc`, `profile_ssim`
spectra               `hf_spectral_error`, `fourier_ring_correlation`, `fourier_shell_correlation`
labels and masks      `panoptic_quality`, `f1`, `dice`
perception            `lpips`, and without a reference `niqe`, `piqe`, `nrqm` (:mod:`tensorcell.perceptual`)
sharpness             `laplacian_variance`
====================  =========================================================================================

Wherever a function takes ``mask``, True marks a voxel that is scored. A score that knows more than one number is a
`Score`: a float with attributes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, uniform_filter1d

from tensorcell.errors import InputError

if TYPE_CHECKING:
    from tensorcell.perceptual import lpips, niqe, nrqm, piqe

__all__ = [
    "F1Score",
    "FourierCorrelation",
    "MultiScaleSSIM",
    "PanopticQuality",
    "PlaneScore",
    "ProfileScore",
    "Score",
    "SpectralScore",
    "ccc",
    "dice",
    "f1",
    "fourier_ring_correlation",
    "fourier_shell_correlation",
    "hf_spectral_error",
    "laplacian_variance",
    "lpips",
    "ms_ssim",
    "niqe",
    "nrmse",
    "nrqm",
    "panoptic_quality",
    "pcc",
    "piqe",
    "profile_ccc",
    "profile_pcc",
    "profile_ssim",
    "psnr",
    "ssim",
]

Normalization = Literal["euclidean", "min-max", "mean"]

_SLAB_VOXELS = 2**20
_PERCEPTUAL = ("lpips", "niqe", "nrqm", "piqe")

_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_MS_SSIM_WINDOW, _MS_SSIM_SIGMA = 11, 1.5
_SSIM_K1, _SSIM_K2 = 0.01, 0.03

_CONSTANT = 1e-14
"""Variance over mean square below which a profile is constant: what rounding of the mean leaves."""


def __getattr__(name: str) -> Any:
    """The perceptual scores, imported when they are asked for."""
    if name in _PERCEPTUAL:
        from tensorcell import perceptual

        return getattr(perceptual, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PERCEPTUAL})


# ------------------------------------------------------------------------------------- scores that know more


class Score(float):
    """A float that also says how it came about; arithmetic with it gives plain floats.

    >>> score = Score(0.5, planes=(0.25, 0.75))
    >>> score + 1, score.planes
    (1.5, (0.25, 0.75))
    """

    def __new__(cls, value: float, **details: Any) -> Self:
        score = super().__new__(cls, value)
        score.__dict__.update(details)
        return score


class PlaneScore(Score):
    """Mean over planes."""

    planes: tuple[float, ...]
    """Score of each plane; NaN where a plane has none, which the mean leaves out."""


class MultiScaleSSIM(PlaneScore):
    """What `ms_ssim` returns."""

    scales: tuple[int, ...]
    """Pixels that one pixel of each scale covers along a side: 1, 2, 4, ..."""
    weights: tuple[float, ...]
    """Exponent of each scale; they add up to 1."""


class ProfileScore(Score):
    """Mean over z profiles."""

    profiles: int
    """Number of profiles in the mean."""
    left_out: int
    """Profiles without a score: too few scored voxels, or a constant reference."""


class PanopticQuality(Score):
    """What `panoptic_quality` returns: ``pq = sq * rq``."""

    sq: float
    """Segmentation quality: mean IoU of the matched objects."""
    rq: float
    """Recognition quality: ``tp / (tp + fp / 2 + fn / 2)``."""
    tp: int
    fp: int
    fn: int

    @property
    def pq(self) -> float:
        """The score itself."""
        return float(self)


class F1Score(Score):
    """What `f1` returns, of objects or of voxels (``of``)."""

    of: str
    precision: float
    recall: float
    tp: int
    fp: int
    fn: int


class SpectralScore(Score):
    """What `hf_spectral_error` returns."""

    reference_share: float
    """Share of the power of the reference, its mean taken off, that lies in the band."""
    estimate_share: float
    """The same of the estimate."""


@dataclass(frozen=True, eq=False)
class FourierCorrelation:
    """Correlation of two images or volumes in rings or shells of the Fourier domain.

    Attributes
    ----------
    frequency : float64 array ``(shells,)``
        Radius of each shell in cycles per unit of length, that of the zero frequency left out.
    correlation : float64 array ``(shells,)``
        Between -1 and 1; NaN in a shell where one of the two has no power.
    coefficients : int array ``(shells,)``
        Fourier coefficients in the shell (of the full transform).
    threshold : float
        Level at which the resolution is read off.
    resolution : float
        1 / frequency of the first crossing below ``threshold``, interpolated linearly, in units of ``spacing``
        (voxels without one). Where the curve never crosses, two voxels of the finest axis: then
        ``limited_by_sampling`` is True. Infinite where the first shell is below already.
    limited_by_sampling : bool
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    coefficients: NDArray[np.int64]
    threshold: float
    resolution: float
    limited_by_sampling: bool


# ------------------------------------------------------------------------------------------- voxel by voxel


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
    _check_window(window, min(reference.shape), f"the shortest side of shape {reference.shape}")
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


def ccc(reference: Any, estimate: Any, *, mask: NDArray[np.bool_] | None = None) -> float:
    r"""Lin's concordance correlation coefficient, ``2 s_re / (s_r^2 + s_e^2 + (m_r - m_e)^2)``.

    The correlation times a factor below 1 for a shift or a change of scale; means and (co)variances divide by the
    number of voxels, as in the source.

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
    moments = _moments(reference, estimate, mask)
    _refuse_constant("ccc", "reference", moments.reference_range)
    spread = moments.reference_variance + moments.estimate_variance
    return 2 * moments.covariance / (spread + moments.shift**2)


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
    moments = _moments(reference, estimate, mask)
    _refuse_constant("pcc", "reference", moments.reference_range)
    _refuse_constant("pcc", "estimate", moments.estimate_range)
    value = moments.covariance / math.sqrt(moments.reference_variance * moments.estimate_variance)
    return min(1.0, max(-1.0, value))


# ------------------------------------------------------------------------------------------- plane by plane


def ms_ssim(
    reference: Any, estimate: Any, *, data_range: float | None = None, axis: int | None = None
) -> MultiScaleSSIM:
    """Multi-scale structural similarity of planes, and its mean over the planes.

    In each plane ``prod_j mean(cs_j)^w_j mean(l_M cs_M)^w_M``: contrast and structure at every scale, luminance at
    the coarsest alone. Gaussian window of 11 x 11 pixels with sigma 1.5 and windows inside the plane, K1 = .01,
    K2 = .03, population (co)variances. The next scale holds the means of 2 x 2 pixels (an odd last row or column is
    dropped). A mean below 0 counts as 0.

    Five scales need planes of at least 176 pixels a side. Smaller planes get fewer: as many as leave 11 pixels at the
    coarsest scale, with the weights of those scales divided by their sum. ``scales`` names them; scores with
    different scales do not compare.

    Parameters
    ----------
    reference, estimate
        One plane (2-D) or a stack (3-D), arrays or Volumes of one shape and one unit, finite everywhere.
    data_range
        As for `psnr`, one for all planes.
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array. With 1 or 2 of a stack
        (Z, Y, X) the sections along z are scored.

    Returns
    -------
    MultiScaleSSIM
        A float with ``scales``, ``weights`` and the scores of the ``planes``.

    Raises
    ------
    InputError
        As for `psnr`; not 2 or 3 axes; planes with a side below 11 pixels.

    References
    ----------
    Wang, Simoncelli, Bovik 2003, Asilomar, doi:10.1109/ACSSC.2003.1292216, Eq. 7 and its weights.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((2, 64, 48))
    >>> score = ms_ssim(truth, truth)
    >>> score, score.scales
    (1.0, (1, 2, 4))
    """
    axis = _planes_axis(reference, estimate, axis=axis)
    reference, estimate, _ = _checked(reference, estimate, None)
    width = _data_range(data_range, _sums(reference, estimate, None))
    reference, estimate = _as_planes(reference, axis), _as_planes(estimate, axis)
    shortest = min(reference.shape[1:])
    if shortest < _MS_SSIM_WINDOW:
        raise InputError(f"planes are {_size(reference)}, expected sides of at least {_MS_SSIM_WINDOW} pixels")
    count = min(len(_MS_SSIM_WEIGHTS), 1 + int(math.log2(shortest / _MS_SSIM_WINDOW)))
    weights = np.array(_MS_SSIM_WEIGHTS[:count])
    weights /= weights.sum()
    planes = tuple(
        _ms_ssim_plane(r.astype(np.float64), e.astype(np.float64), width, weights)
        for r, e in zip(reference, estimate, strict=True)
    )
    return MultiScaleSSIM(
        float(np.mean(planes)),
        planes=planes,
        scales=tuple(2**j for j in range(count)),
        weights=tuple(weights.tolist()),
    )


def _ms_ssim_plane(a: NDArray[np.float64], b: NDArray[np.float64], width: float, weights: NDArray[np.float64]) -> float:
    c1, c2 = (_SSIM_K1 * width) ** 2, (_SSIM_K2 * width) ** 2
    score = 1.0
    for scale, weight in enumerate(weights):
        mean_a, mean_b = _gaussian_mean(a), _gaussian_mean(b)
        spread = _gaussian_mean(a * a) - mean_a**2 + _gaussian_mean(b * b) - mean_b**2
        term = (2 * (_gaussian_mean(a * b) - mean_a * mean_b) + c2) / (spread + c2)
        if scale == len(weights) - 1:
            term = term * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        score *= max(0.0, float(term.mean())) ** float(weight)
        a, b = _halved(a), _halved(b)
    return score


def _gaussian_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means over the windows that lie inside the image."""
    half = _MS_SSIM_WINDOW // 2
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / _MS_SSIM_SIGMA) ** 2)
    kernel /= kernel.sum()
    rows = correlate1d(image, kernel, axis=0)[half:-half]
    return np.asarray(correlate1d(rows, kernel, axis=1)[:, half:-half])


def _halved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 2 x 2 pixels."""
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return np.asarray(image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3)))


# -------------------------------------------------------------------------------------------------- along z


def profile_ccc(
    reference: Any, estimate: Any, *, axis: int | None = None, mask: NDArray[np.bool_] | None = None
) -> ProfileScore:
    """Mean over the z profiles of their concordance correlation (`ccc`).

    A profile holds the voxels of one (y, x) along z. Left out are profiles with fewer than 3 scored voxels and those
    where the reference is constant, which have no correlation; how many, ``left_out`` says. The estimate never
    decides which profiles count. All profiles weigh the same, background as much as structure.

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
    return _profile_correlation("profile_ccc", reference, estimate, axis, mask)


def profile_pcc(
    reference: Any, estimate: Any, *, axis: int | None = None, mask: NDArray[np.bool_] | None = None
) -> ProfileScore:
    """Mean over the z profiles of their Pearson correlation (`pcc`).

    Profiles, parameters, result and errors as for `profile_ccc`. Where the estimate is constant along a profile whose
    reference is not, the correlation counts as 0.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((8, 3, 4))
    >>> round(profile_pcc(truth, 2 * truth + 5), 12)
    1.0
    """
    return _profile_correlation("profile_pcc", reference, estimate, axis, mask)


def _profile_correlation(name: str, reference: Any, estimate: Any, axis: int | None, mask: Any) -> ProfileScore:
    axis = _z_axis(reference, estimate, axis=axis)
    reference, estimate, mask = _checked(reference, estimate, mask)
    _sums(reference, estimate, mask)  # refuses what is not finite
    total, count, lines = 0.0, 0, 0
    for r, e, chosen in _profiles(reference, estimate, axis, mask):
        n = np.maximum(chosen.sum(axis=1), 1)
        mean_r, mean_e = r.sum(axis=1) / n, e.sum(axis=1) / n
        square_r, square_e = (r * r).sum(axis=1) / n, (e * e).sum(axis=1) / n
        r, e = (r - mean_r[:, None]) * chosen, (e - mean_e[:, None]) * chosen
        var_r, var_e = (r * r).sum(axis=1) / n, (e * e).sum(axis=1) / n
        covariance = (r * e).sum(axis=1) / n
        scored = (chosen.sum(axis=1) >= 3) & (var_r > _CONSTANT * square_r)
        if name == "profile_ccc":
            divisor = var_r + var_e + (mean_r - mean_e) ** 2
        else:
            divisor = np.where(var_e > _CONSTANT * square_e, np.sqrt(var_r * var_e), np.inf)
        total += float((2 if name == "profile_ccc" else 1) * (covariance[scored] / divisor[scored]).sum())
        count += int(scored.sum())
        lines += len(r)
    if count == 0:
        raise InputError(
            f"{name} finds no profile with 3 scored voxels and a reference that varies, got {lines} profiles along "
            f"axis {axis} of shape {reference.shape}"
        )
    return ProfileScore(total / count, profiles=count, left_out=lines - count)


def profile_ssim(
    reference: Any,
    estimate: Any,
    *,
    data_range: float | None = None,
    window: int = 7,
    axis: int | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> ProfileScore:
    """Mean 1-D structural similarity of the z profiles.

    SSIM with a window of 7 voxels along z and 1 voxel across it, so it sees structure along z alone: uniform window,
    sample covariance, K1 = .01, K2 = .03, then the mean over all windows of all profiles. This is the 1-D SSIM of
    intensity profiles that is reported for reconstructions beside CCC and PCC; for the similarity of whole z sections
    take `ms_ssim` with ``axis=1`` or ``axis=2``.

    Without a mask, voxels nearer to an end of the profile than half a window are left out. With a mask, the mean is
    taken over exactly the voxels where it is True, with windows completed by reflection at the ends; a window sees
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
    axis = _z_axis(reference, estimate, axis=axis)
    reference, estimate, mask = _checked(reference, estimate, mask)
    planes = reference.shape[axis]
    _check_window(window, planes, f"the {planes} planes along axis {axis}")
    for name, array in (("reference", reference), ("estimate", estimate)):
        _refuse_not_finite(name, _count_not_finite(array), "in reach of the windows")
    width = _data_range(data_range, _sums(reference, estimate, mask))
    c1, c2 = (_SSIM_K1 * width) ** 2, (_SSIM_K2 * width) ** 2

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(uniform_filter1d(values, window, axis=1))

    half, sample = window // 2, window / (window - 1)
    total, count, lines, without = 0.0, 0, 0, 0
    for r, e, chosen in _profiles(reference, estimate, axis, mask, blank=False):
        mean_r, mean_e = mean(r), mean(e)
        spread = sample * (mean(r * r) - mean_r**2 + mean(e * e) - mean_e**2)
        covariance = sample * (mean(r * e) - mean_r * mean_e)
        values = (2 * mean_r * mean_e + c1) * (2 * covariance + c2)
        values /= (mean_r**2 + mean_e**2 + c1) * (spread + c2)
        if mask is None:
            values, chosen = values[:, half : planes - half], chosen[:, half : planes - half]
        total += float(values[chosen].sum())
        count += int(chosen.sum())
        lines += len(r)
        without += int((~chosen.any(axis=1)).sum())
    return ProfileScore(total / count, profiles=lines - without, left_out=without)


# --------------------------------------------------------------------------------------------------- spectra


def hf_spectral_error(
    reference: Any,
    estimate: Any,
    *,
    band: float = 0.5,
    axes: int | Sequence[int] | None = None,
    taper: bool = True,
) -> SpectralScore:
    """Relative error of the power spectrum above a share ``band`` of the Nyquist frequency.

    ``sum_k |P_e(k) - P_r(k)| / sum_k P_r(k)`` over the shells ``band < k <= 1``, where P(k) is the mean power of the
    Fourier coefficients at radius k, and the frequency along each axis is counted in its own Nyquist frequency, so
    that a shell is an ellipsoid in cycles per micrometre where voxels are. The corners beyond radius 1 are not
    counted. Detail that is lost gives an error up to 1, noise that is added one without limit; the two shares tell
    which it is. Phases play no part: detail in the wrong place is no error here (see `fourier_shell_correlation`).

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit, finite everywhere.
    band
        Lower end of the band as a share of the Nyquist frequency, at least 0 and below 1. (.75, the uppermost quarter,
        is in use for 3-D restoration of chemical images.)
    axes
        Axes of the transform. Default: all. ``axes=0`` looks along z alone, ``axes=(1, 2)`` plane by plane; power is
        averaged over the others.
    taper
        Whether a Hann window is applied along the axes of the transform first, the mean taken off. Without one, the
        jump between opposite borders spreads over all frequencies.

    Returns
    -------
    SpectralScore
        A float, 0 for equal arrays, with ``reference_share`` and ``estimate_share``: the share of all power (without
        the mean) in the band.

    Raises
    ------
    InputError
        As for `psnr`; axes that do not exist; too few voxels for a shell in the band; a reference without power there.

    Notes
    -----
    A transform over all axes takes about 20 bytes a voxel.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((8, 16, 16))
    >>> float(hf_spectral_error(truth, truth)), round(hf_spectral_error(truth, 0.5 * truth), 12)
    (0.0, 0.75)
    """
    reference, estimate, _ = _checked(reference, estimate, None)
    if not (isinstance(band, int | float) and 0 <= band < 1):
        raise InputError(f"band is {band}, expected a share of the Nyquist frequency, at least 0 and below 1")
    _sums(reference, estimate, None)
    axes = _transform_axes(axes, reference.ndim)
    shells = _shells(reference.shape, axes, (0.5,) * len(axes), limit=1.0)
    high = shells.radius > band
    if not high.any():
        raise InputError(
            f"no shell lies above {band} of the Nyquist frequency along axes {axes} of shape {reference.shape}, "
            "expected more voxels or a lower band"
        )
    power = np.zeros((2, len(shells.radius)))
    everything = np.zeros(2)
    for slab in _transform_slabs(reference.shape, axes):
        for k, array in enumerate((reference, estimate)):
            square = np.abs(_transformed(array[slab], axes, taper)) ** 2
            power[k] += _shell_sums(square, shells, axes)
            everything[k] += float((square * shells.weight).sum())
    if power[0, high].sum() == 0:
        raise InputError(f"reference has no power above {band} of the Nyquist frequency along axes {axes}")
    curve = power / shells.coefficients
    error = np.abs(curve[1] - curve[0])[high].sum() / curve[0, high].sum()
    shares = power[:, high].sum(axis=1) / np.where(everything > 0, everything, 1)
    return SpectralScore(float(error), reference_share=float(shares[0]), estimate_share=float(shares[1]))


def fourier_shell_correlation(
    first: Any,
    second: Any,
    *,
    spacing: float | Sequence[float] | None = None,
    threshold: float = 1 / 7,
    taper: bool = True,
) -> FourierCorrelation:
    r"""Correlation of two volumes in shells of equal spatial frequency, and the resolution at its threshold.

    ``FSC(k) = Re sum F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2)`` over the coefficients of shell k. With two
    independent recordings of one object the curve shows to which frequency they agree; with a reference and an
    estimate, to which frequency the estimate is right: there ``threshold=0.5`` is the level that 1/7 corresponds to,
    by ``sqrt(2 FSC / (1 + FSC))``. Noise that both share counts as detail. It does not see scale or shift.

    Shells are as thick as the coarsest step of frequency among the axes, and reach to the highest Nyquist frequency:
    beyond that of z, where planes lie further apart than pixels, they hold lateral frequencies alone.

    Parameters
    ----------
    first, second
        Arrays or Volumes of one shape, all axes of which are transformed; finite everywhere.
    spacing
        Distance of voxels along each axis, or one for all. Default: that of a Volume (micrometres), else 1.
    threshold
        Level of the curve at which the resolution is read off, by default 1/7.
    taper
        Whether a Hann window is applied first, the mean taken off. It correlates neighbouring coefficients, but
        keeps the borders from adding correlation at all frequencies.

    Returns
    -------
    FourierCorrelation
        The curve, and ``resolution`` in units of ``spacing``. Takes about 28 bytes a voxel.

    Raises
    ------
    InputError
        As for `psnr`; a spacing that is not positive; a threshold that is not between 0 and 1; constant data; a single
        voxel.

    References
    ----------
    Harauz & van Heel 1986, Optik 73, 146-156. The 1/7 level: Rosenthal & Henderson 2003,
    doi:10.1016/j.jmb.2003.07.013; in light microscopy Nieuwenhuizen et al. 2013, doi:10.1038/nmeth.2448.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.random.default_rng(0).random((8, 16, 16))
    >>> curve = fourier_shell_correlation(volume, 3 * volume + 1, spacing=0.2)
    >>> curve.resolution, curve.limited_by_sampling
    (0.4, True)
    """
    ndim = _array("first", first).ndim
    return _fourier_correlation(first, second, tuple(range(ndim)), spacing, threshold, taper)


def fourier_ring_correlation(
    first: Any,
    second: Any,
    *,
    spacing: float | Sequence[float] | None = None,
    axis: int | None = None,
    threshold: float = 1 / 7,
    taper: bool = True,
) -> FourierCorrelation:
    """Correlation of planes in rings of equal spatial frequency, and the resolution at its threshold.

    As `fourier_shell_correlation` in two dimensions. Of a stack the sums of all planes go into one curve.

    Parameters
    ----------
    first, second
        One plane (2-D) or a stack (3-D), arrays or Volumes of one shape, finite everywhere.
    spacing
        Distance of voxels along each axis of the data (the axis across the planes included), or one for all.
        Default: that of a Volume, else 1.
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array. 1 or 2 of a stack
        (Z, Y, X) gives rings in sections along z.
    threshold, taper
        As for `fourier_shell_correlation`.

    Returns
    -------
    FourierCorrelation

    Raises
    ------
    InputError
        As for `fourier_shell_correlation`, or not 2 or 3 axes.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> fourier_ring_correlation(image, image).resolution
    2.0
    """
    axis = _planes_axis(first, second, axis=axis)
    ndim = _array("first", first).ndim
    axes = (0, 1) if ndim == 2 else tuple(a for a in range(ndim) if a != axis)
    return _fourier_correlation(first, second, axes, spacing, threshold, taper)


def _fourier_correlation(
    first: Any, second: Any, axes: tuple[int, ...], spacing: Any, threshold: float, taper: bool
) -> FourierCorrelation:
    steps = _spacing(first, second, spacing=spacing)
    first, second, _ = _checked(first, second, None, names=("first", "second"))
    if not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise InputError(f"threshold is {threshold}, expected a number between 0 and 1")
    sums = _sums(first, second, None, names=("first", "second"))
    _refuse_constant("the Fourier correlation", "first", sums.maximum - sums.minimum)
    steps = tuple(steps[a] for a in axes)
    if all(first.shape[a] < 2 for a in axes):
        raise InputError(f"shape {first.shape} has one voxel along axes {axes}, expected longer sides")
    highest = max(0.5 / step for step, a in zip(steps, axes, strict=True) if first.shape[a] > 1)
    shells = _shells(first.shape, axes, steps, limit=highest)
    cross = np.zeros(len(shells.radius))
    power = np.zeros((2, len(shells.radius)))
    for slab in _transform_slabs(first.shape, axes):
        f1, f2 = (_transformed(array[slab], axes, taper) for array in (first, second))
        cross += _shell_sums((f1 * f2.conj()).real, shells, axes)
        power[0] += _shell_sums(np.abs(f1) ** 2, shells, axes)
        power[1] += _shell_sums(np.abs(f2) ** 2, shells, axes)
    product = np.sqrt(power[0] * power[1])
    correlation = np.divide(cross, product, out=np.full_like(cross, np.nan), where=product > 0)
    crossing = _first_crossing(shells.radius, correlation, threshold)
    return FourierCorrelation(
        frequency=shells.radius,
        correlation=np.clip(correlation, -1, 1),
        coefficients=np.round(shells.coefficients).astype(np.int64),
        threshold=float(threshold),
        resolution=1 / highest if crossing is None else (math.inf if crossing == 0 else 1 / crossing),
        limited_by_sampling=crossing is None,
    )


def _first_crossing(frequency: NDArray[Any], correlation: NDArray[Any], threshold: float) -> float | None:
    """Frequency where the curve first falls below the threshold; 0 if from the start, None if never."""
    known = ~np.isnan(correlation)
    frequency, correlation = frequency[known], correlation[known]
    below = np.flatnonzero(correlation < threshold)
    if len(below) == 0:
        return None
    k = below[0]
    if k == 0:
        return 0.0
    share = (correlation[k - 1] - threshold) / (correlation[k - 1] - correlation[k])
    return float(frequency[k - 1] + share * (frequency[k] - frequency[k - 1]))


class _Shells(NamedTuple):
    """Where each coefficient of a real transform belongs."""

    number: NDArray[np.int64]
    """Shell of each coefficient, shaped like the transform along its axes (others 1); 0 = none."""
    weight: NDArray[np.float64]
    """Coefficients of the full transform that each one stands for: 1 or 2."""
    radius: NDArray[np.float64]
    coefficients: NDArray[np.float64]


def _shells(shape: tuple[int, ...], axes: tuple[int, ...], steps: tuple[float, ...], limit: float) -> _Shells:
    """Shells around the zero frequency, as thick as the coarsest step of frequency, up to ``limit``."""
    squares = np.zeros((1,) * len(shape))
    weight = np.ones((1,) * len(shape))
    for axis, step in zip(axes, steps, strict=True):
        length = shape[axis]
        halved = axis == axes[-1]
        frequency = scipy.fft.rfftfreq(length, step) if halved else scipy.fft.fftfreq(length, step)
        line = [1] * len(shape)
        line[axis] = len(frequency)
        squares = squares + (frequency**2).reshape(line)
        if halved:
            twice = np.full(len(frequency), 2.0)
            twice[0] = 1
            if length % 2 == 0:
                twice[-1] = 1
            weight = np.broadcast_to(twice.reshape(line), squares.shape)
    thickness = max((1 / (shape[a] * s) for a, s in zip(axes, steps, strict=True) if shape[a] > 1), default=2 * limit)
    # A side is a whole number of steps, so a limit that is one up to rounding must not lose its shell.
    last = math.floor(limit / thickness * (1 + 1e-12))
    number = np.round(np.sqrt(squares) / thickness).astype(np.int64)
    number[number > last] = 0
    coefficients = np.bincount(number.ravel(), weight.ravel(), minlength=last + 1)[1:].astype(np.float64)
    return _Shells(number, np.asarray(weight), thickness * np.arange(1.0, last + 1), coefficients)


def _shell_sums(values: NDArray[np.float64], shells: _Shells, axes: tuple[int, ...]) -> NDArray[np.float64]:
    others = tuple(a for a in range(values.ndim) if a not in axes)
    values = values.sum(axis=others, keepdims=True) * shells.weight
    sums = np.bincount(shells.number.ravel(), values.ravel(), minlength=len(shells.radius) + 1)
    return sums[1:].astype(np.float64)


def _transformed(array: NDArray[Any], axes: tuple[int, ...], taper: bool) -> NDArray[np.complex128]:
    values = array.astype(np.float64)
    values -= values.mean(axis=axes, keepdims=True)
    if taper:
        for axis in axes:
            length = values.shape[axis]
            if length > 2:  # a shorter one would be nothing but its borders
                line = [1] * values.ndim
                line[axis] = length
                values *= (np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2).reshape(line)
        values -= values.mean(axis=axes, keepdims=True)
    return np.asarray(scipy.fft.rfftn(values, axes=axes))


def _transform_slabs(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of the data that hold the axes of the transform whole."""
    others = [a for a in range(len(shape)) if a not in axes]
    if not others:
        yield (slice(None),)
        return
    lead = others[0]
    step = max(1, _SLAB_VOXELS * shape[lead] // max(1, math.prod(shape)))
    for start in range(0, shape[lead], step):
        yield (slice(None),) * lead + (slice(start, start + step),)


def _transform_axes(axes: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(ndim))
    chosen = [axes] if isinstance(axes, int | np.integer) else list(axes)
    if not chosen or any(not isinstance(a, int | np.integer) or not -ndim <= a < ndim for a in chosen):
        raise InputError(f"axes is {axes}, expected some of the {ndim} axes 0 to {ndim - 1}")
    positive = sorted(int(a) % ndim for a in chosen)
    if len(set(positive)) < len(positive):
        raise InputError(f"axes is {axes}, expected each axis once")
    return tuple(positive)


def laplacian_variance(
    volume: Any, *, axes: int | Sequence[int] | None = None, mask: NDArray[np.bool_] | None = None
) -> float:
    """Variance of the discrete Laplacian: sharp structure makes it large, and so does noise.

    The Laplacian is the sum over ``axes`` of the second differences ``v[i-1] - 2 v[i] + v[i+1]``, per voxel, not per
    micrometre; its variance is taken over all voxels whose neighbours along these axes exist.

    Parameters
    ----------
    volume
        Array (integer or floating) or Volume.
    axes
        Axes of the differences. Default: Y and X of a Volume, the last two of an array: sharpness within planes.
    mask
        Bool array of the same shape; a voxel is scored where it and those neighbours are True.

    Returns
    -------
    float
        In squared units of the data.

    Raises
    ------
    InputError
        NaN or infinite values at scored voxels, axes that do not exist, or no voxel with all neighbours.

    References
    ----------
    Pech-Pacheco et al. 2000, ICPR, doi:10.1109/ICPR.2000.903548 (LAPV of focus measures).

    Examples
    --------
    >>> import numpy as np
    >>> board = np.indices((6, 6)).sum(axis=0) % 2
    >>> laplacian_variance(board)
    16.0
    """
    names = getattr(volume, "axes", None)
    if axes is None and isinstance(names, str) and {"Y", "X"} <= set(names):
        axes = (names.index("Y"), names.index("X"))
    array, _, mask = _checked(volume, volume, mask, names=("volume", "volume"))
    axes = _transform_axes(range(-min(2, array.ndim), 0) if axes is None else axes, array.ndim)
    if any(array.shape[a] < 3 for a in axes):
        raise InputError(f"volume has shape {array.shape}, expected at least 3 voxels along axes {axes}")
    total, count, bad = 0.0, 0, 0
    moments = []
    reach = 1 if 0 in axes else 0
    for slab in _slabs(array.shape):
        around = slice(max(0, slab.start - reach), min(array.shape[0], slab.stop + reach))
        if around.stop - around.start < 1 + 2 * reach:
            continue
        values = _laplacian(array[around].astype(np.float64), axes)
        if mask is not None:
            values = values[_all_neighbours(mask[around], axes)]
        bad += int(np.count_nonzero(~np.isfinite(values)))
        if bad or values.size == 0:
            continue
        moments.append((values.size, float(values.mean()), float(values.var())))
        count += values.size
        total += float(values.sum())
    _refuse_not_finite("volume", bad, "among the second differences at scored voxels")
    if count == 0:
        raise InputError("mask leaves no voxel with all its neighbours, expected at least one")
    mean = total / count
    return sum(n * (variance + (centre - mean) ** 2) for n, centre, variance in moments) / count


def _laplacian(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    inner = tuple(slice(1, -1) if a in axes else slice(None) for a in range(values.ndim))
    with np.errstate(invalid="ignore"):  # infinities are counted and refused by the caller
        result = -2 * len(axes) * values[inner]
        for axis in axes:
            for side in (slice(None, -2), slice(2, None)):
                result += values[tuple(side if a == axis else inner[a] for a in range(values.ndim))]
    return np.asarray(result)


def _all_neighbours(mask: NDArray[np.bool_], axes: tuple[int, ...]) -> NDArray[np.bool_]:
    inner = tuple(slice(1, -1) if a in axes else slice(None) for a in range(mask.ndim))
    result = mask[inner].copy()
    for axis in axes:
        for side in (slice(None, -2), slice(2, None)):
            result &= mask[tuple(side if a == axis else inner[a] for a in range(mask.ndim))]
    return result


# ------------------------------------------------------------------------------------------ labels and masks


def dice(reference: Any, estimate: Any, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Dice coefficient of two foregrounds, ``2 |R and E| / (|R| + |E|)``, over voxels.

    Parameters
    ----------
    reference, estimate
        Bool or integer arrays or Volumes of one shape. What is not 0 is foreground, whatever its label.
    mask
        Bool array of the same shape, True = voxel is scored. Default: all voxels.

    Returns
    -------
    float
        Between 0 and 1; NaN where neither has any foreground.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, or numbers that are not integers.

    References
    ----------
    Dice 1945, Ecology 26, 297-302, doi:10.2307/1932409.

    Examples
    --------
    >>> import numpy as np
    >>> round(dice(np.array([1, 1, 0, 0]), np.array([0, 1, 1, 1])), 6)
    0.4
    """
    return float(_voxel_f1(*_labels(reference, estimate, mask)))


def f1(
    reference: Any,
    estimate: Any,
    *,
    of: Literal["auto", "objects", "voxels"] = "auto",
    iou: float = 0.5,
    mask: NDArray[np.bool_] | None = None,
) -> F1Score:
    """F1 score ``2 tp / (2 tp + fp + fn)`` of detected objects, or of voxels.

    Of **objects**: an object of the estimate is a true positive where its intersection over union with an object of
    the reference is above ``iou``; with at least one half, no object matches two. Of **voxels**: foreground voxels
    count, and the score is the Dice coefficient.

    Parameters
    ----------
    reference, estimate
        Arrays or Volumes of one shape: labels (integers, 0 = background, one number per object), or masks (bool).
    of
        ``"auto"``: voxels of bool arrays, objects of integer ones.
    iou
        Threshold for objects, at least .5 and below 1.
    mask
        Bool array of the same shape, True = voxel is scored: others are background in both.

    Returns
    -------
    F1Score
        A float with ``of``, ``precision``, ``recall``, ``tp``, ``fp``, ``fn``. NaN where neither holds anything.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, numbers that are not integers, negative labels, objects asked of bool
        arrays, an unknown ``of`` or an ``iou`` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> score = f1(np.array([1, 1, 1, 0, 2]), np.array([7, 7, 0, 0, 9]))
    >>> float(score), score.tp
    (1.0, 2)
    """
    if of not in ("auto", "objects", "voxels"):
        raise InputError(f"of is {of!r}, expected 'auto', 'objects' or 'voxels'")
    reference, estimate, mask = _labels(reference, estimate, mask)
    if of == "voxels" or (of == "auto" and reference.dtype == np.bool_ and estimate.dtype == np.bool_):
        return _voxel_f1(reference, estimate, mask)
    matches = _matched(reference, estimate, mask, iou)
    return _f1("objects", len(matches.ious), matches.fp, matches.fn)


def panoptic_quality(reference: Any, estimate: Any, *, mask: NDArray[np.bool_] | None = None) -> PanopticQuality:
    """Panoptic quality of a label volume: the IoU of matched objects, times how many were matched.

    ``PQ = sum of IoU over the matches / (tp + fp / 2 + fn / 2)``. Objects match where their intersection over union
    is above 1/2, which no object can be with two. One class ("thing") is scored, in 3-D where the labels are 3-D.

    Parameters
    ----------
    reference, estimate
        Integer arrays or Volumes of one shape: labels, 0 = background, one number per object. Numbers need not agree.
    mask
        Bool array of the same shape, True = voxel is scored: others are background in both.

    Returns
    -------
    PanopticQuality
        A float with ``sq`` (mean IoU of the matches), ``rq`` (F1 of the objects), ``tp``, ``fp``, ``fn``. Where no
        object matches it is 0 with ``sq`` NaN; NaN where neither holds an object.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, negative labels, or arrays that are not integer (of a bool array, label the
        connected components first).

    References
    ----------
    Kirillov et al. 2019, CVPR, doi:10.1109/CVPR.2019.00963, Eq. 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> quality = panoptic_quality(np.array([1, 1, 1, 1, 0, 2]), np.array([5, 5, 5, 0, 0, 0]))
    >>> quality, quality.sq, round(quality.rq, 6)
    (0.5, 0.75, 0.666667)
    """
    matches = _matched(*_labels(reference, estimate, mask), iou=0.5)
    tp = len(matches.ious)
    weight = tp + matches.fp / 2 + matches.fn / 2
    return PanopticQuality(
        sum(matches.ious) / weight if weight else math.nan,
        sq=sum(matches.ious) / tp if tp else math.nan,
        rq=tp / weight if weight else math.nan,
        tp=tp,
        fp=matches.fp,
        fn=matches.fn,
    )


class _Matches(NamedTuple):
    ious: list[float]
    fp: int
    fn: int


def _matched(reference: NDArray[Any], estimate: NDArray[Any], mask: Any, iou: float) -> _Matches:
    """Pairs of objects with an intersection over union above ``iou``."""
    if not (isinstance(iou, int | float) and 0.5 <= iou < 1):
        raise InputError(f"iou is {iou}, expected at least .5 and below 1: below .5 an object could match two")
    for name, labels in (("reference", reference), ("estimate", estimate)):
        if labels.dtype == np.bool_:
            raise InputError(f"{name} is bool, expected integer labels, one number per object (0 = background)")
    pairs: Counter[tuple[int, int]] = Counter()
    for slab in _slabs(reference.shape):
        chosen = ... if mask is None else mask[slab]
        names_r, r = np.unique(reference[slab][chosen], return_inverse=True)
        names_e, e = np.unique(estimate[slab][chosen], return_inverse=True)
        if r.size == 0:
            continue
        codes, counts = np.unique(r.ravel() * len(names_e) + e.ravel(), return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            pairs[int(names_r[code // len(names_e)]), int(names_e[code % len(names_e)])] += count
    sizes_r: Counter[int] = Counter()
    sizes_e: Counter[int] = Counter()
    for (label_r, label_e), count in pairs.items():
        sizes_r[label_r] += count
        sizes_e[label_e] += count
    for name, sizes in (("reference", sizes_r), ("estimate", sizes_e)):
        if min(sizes) < 0:
            raise InputError(f"{name} has the label {min(sizes)}, expected labels of at least 0 (0 = background)")
    ious = [
        count / (sizes_r[label_r] + sizes_e[label_e] - count)
        for (label_r, label_e), count in pairs.items()
        if label_r and label_e and count > iou * (sizes_r[label_r] + sizes_e[label_e] - count)
    ]
    objects_r, objects_e = (len(sizes) - (0 in sizes) for sizes in (sizes_r, sizes_e))
    return _Matches(ious, fp=objects_e - len(ious), fn=objects_r - len(ious))


def _voxel_f1(reference: NDArray[Any], estimate: NDArray[Any], mask: Any) -> F1Score:
    both = only_r = only_e = 0
    for slab in _slabs(reference.shape):
        chosen = ... if mask is None else mask[slab]
        r, e = reference[slab][chosen] != 0, estimate[slab][chosen] != 0
        both += int(np.count_nonzero(r & e))
        only_r += int(np.count_nonzero(r & ~e))
        only_e += int(np.count_nonzero(e & ~r))
    return _f1("voxels", both, only_e, only_r)


def _f1(of: str, tp: int, fp: int, fn: int) -> F1Score:
    def share(part: int, whole: int) -> float:
        return part / whole if whole else math.nan

    return F1Score(
        share(2 * tp, 2 * tp + fp + fn),
        of=of,
        precision=share(tp, tp + fp),
        recall=share(tp, tp + fn),
        tp=tp,
        fp=fp,
        fn=fn,
    )


def _labels(reference: Any, estimate: Any, mask: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]:
    reference, estimate, mask = _checked(reference, estimate, mask)
    for name, array in (("reference", reference), ("estimate", estimate)):
        if array.dtype.kind not in "bui":
            raise InputError(f"{name} has dtype {array.dtype}, expected bool or integers (0 = background)")
    return reference, estimate, mask


# ------------------------------------------------------------------------------------------------- shared parts


class _Sums(NamedTuple):
    """What the scores need of the scored voxels."""

    voxels: int
    squared_error: float
    reference: float
    squared_reference: float
    minimum: float
    maximum: float


def _sums(
    reference: NDArray[Any],
    estimate: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    names: tuple[str, str] = ("reference", "estimate"),
) -> _Sums:
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
    _refuse_not_finite(names[0], bad_reference, "at scored voxels")
    _refuse_not_finite(names[1], bad_estimate, "at scored voxels")
    return _Sums(count, squared_error, total, squared, minimum, maximum)


def _data_range(data_range: float | None, sums: _Sums) -> float:
    if data_range is None:
        if sums.maximum == sums.minimum:
            raise InputError(f"reference is constant ({sums.maximum:g}) over the scored voxels, expected data_range=")
        return sums.maximum - sums.minimum
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"data_range is {data_range}, expected a positive finite number")
    return float(data_range)


def _checked(
    reference: Any, estimate: Any, mask: Any, names: tuple[str, str] = ("reference", "estimate")
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]:
    """Arrays of Volumes or array-likes, with shapes and dtypes checked; no copies of arrays."""
    reference, estimate = _array(names[0], reference), _array(names[1], estimate)
    if reference.shape != estimate.shape:
        raise InputError(f"{names[1]} has shape {estimate.shape}, {names[0]} has shape {reference.shape}")
    if reference.size == 0:
        raise InputError(f"{names[0]} has no voxel to score, its shape is {reference.shape}")
    if mask is None:
        return reference, estimate, None
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise InputError(f"mask has dtype {mask.dtype}, expected bool (True = voxel is scored)")
    if mask.shape != reference.shape:
        raise InputError(f"mask has shape {mask.shape}, {names[0]} has shape {reference.shape}")
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


class _Moments(NamedTuple):
    """Population moments over the scored voxels."""

    shift: float
    reference_variance: float
    estimate_variance: float
    covariance: float
    reference_range: float
    estimate_range: float


def _moments(reference: Any, estimate: Any, mask: Any) -> _Moments:
    """Two passes, so that a large offset does not drown the variances."""
    reference, estimate, mask = _checked(reference, estimate, mask)
    sums, swapped = _sums(reference, estimate, mask), _sums(estimate, reference, mask)
    mean_r, mean_e = sums.reference / sums.voxels, swapped.reference / sums.voxels
    variance_r = variance_e = covariance = 0.0
    for slab in _slabs(reference.shape):
        chosen = ... if mask is None else mask[slab]
        r = reference[slab][chosen].astype(np.float64) - mean_r
        e = estimate[slab][chosen].astype(np.float64) - mean_e
        variance_r += float(np.square(r).sum())
        variance_e += float(np.square(e).sum())
        covariance += float((r * e).sum())
    n = sums.voxels
    return _Moments(
        mean_r - mean_e,
        variance_r / n,
        variance_e / n,
        covariance / n,
        sums.maximum - sums.minimum,
        swapped.maximum - swapped.minimum,
    )


def _refuse_constant(score: str, name: str, width: float) -> None:
    if width == 0:
        raise InputError(f"{name} is constant over the scored voxels, {score} expects one that varies")


def _profiles(
    reference: NDArray[Any], estimate: NDArray[Any], axis: int, mask: NDArray[np.bool_] | None, blank: bool = True
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]]:
    """Slabs of lines ``(lines, planes)`` along an axis, and which of their voxels are scored.

    With ``blank``, voxels that are not scored are 0, whatever they hold.
    """
    moved = [None if a is None else np.atleast_2d(np.moveaxis(a, axis, -1)) for a in (reference, estimate, mask)]
    planes = reference.shape[axis]
    assert moved[0] is not None
    for slab in _slabs(moved[0].shape):
        r, e = (a[slab].reshape(-1, planes).astype(np.float64) for a in moved[:2] if a is not None)
        chosen = np.ones(r.shape, bool) if moved[2] is None else moved[2][slab].reshape(-1, planes)
        if blank and mask is not None:
            r, e = np.where(chosen, r, 0), np.where(chosen, e, 0)
        yield r, e, chosen


def _check_window(window: int, longest: int, what: str) -> None:
    if not isinstance(window, int | np.integer) or window < 3 or window % 2 == 0:
        raise InputError(f"window is {window}, expected an odd number of at least 3")
    if window > longest:
        raise InputError(f"window is {window}, expected at most {what}")


def _z_axis(*data: Any, axis: int | None) -> int:
    """The axis asked for, else Z of the first Volume, else the first."""
    ndim = _array("reference", data[0]).ndim
    if axis is None:
        named = [d.axes for d in data if isinstance(getattr(d, "axes", None), str) and "Z" in d.axes]
        return int(named[0].index("Z")) if named else 0
    if not isinstance(axis, int | np.integer) or not -ndim <= axis < ndim:
        raise InputError(f"axis is {axis}, expected 0 to {ndim - 1} for data of {ndim} axes")
    return int(axis) % ndim


def _planes_axis(*data: Any, axis: int | None) -> int:
    ndim = _array("reference", data[0]).ndim
    if ndim not in (2, 3):
        raise InputError(f"data has {ndim} axes, expected a plane (2) or a stack (3): take frames and channels singly")
    if ndim == 2 and axis is not None:
        raise InputError(f"axis is {axis}, expected None for a single plane")
    return _z_axis(*data, axis=axis)


def _as_planes(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """A view ``(planes, rows, columns)``."""
    return array[None] if array.ndim == 2 else np.moveaxis(array, axis, 0)


def _size(planes: NDArray[Any]) -> str:
    return " x ".join(str(side) for side in planes.shape[1:])


def _spacing(*data: Any, spacing: float | Sequence[float] | None) -> tuple[float, ...]:
    """Distance of voxels along each axis: as given, else of the first Volume that knows, else 1."""
    ndim = _array("first", data[0]).ndim
    if spacing is None:
        for volume in data:
            known, names = getattr(volume, "spacing", None), getattr(volume, "axes", None)
            if known is not None and isinstance(names, str):
                by_name = dict(zip("ZYX", known, strict=True))
                return tuple(float(by_name.get(name, 1.0)) for name in names)
        return (1.0,) * ndim
    steps = np.asarray(spacing, dtype=float)
    steps = np.full(ndim, float(steps)) if steps.ndim == 0 else steps
    if steps.shape != (ndim,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise InputError(f"spacing is {spacing}, expected {ndim} positive numbers, or one")
    return tuple(steps.tolist())
