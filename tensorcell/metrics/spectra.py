"""Agreement of spectra: the error at high frequencies, and Fourier ring and shell correlation with the resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .axes import chosen_axes, planes_axis, voxel_spacing
from .inputs import as_array, checked_pair, refuse_constant
from .scores import FourierCorrelation, SpectralScore
from .shells import shells_up_to, sums_in_shells, transformed
from .slabs import transform_slabs
from .sums import check_scored, scored_sums


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
    that a shell is an ellipsoid in cycles per micrometre where voxels are not cubes. The corners beyond radius 1 are
    not counted. Detail that is lost gives an error up to 1, noise that is added gives one without limit; the two shares
    tell which it is. Phases play no part: detail in the wrong place is no error here (see `fourier_shell_correlation`).

    Parameters
    ----------
    reference, estimate
        Arrays (integer or floating) or Volumes of one shape and one unit, finite everywhere.
    band
        Lower end of the band as a share of the Nyquist frequency, at least 0 and below 1. (.75, the uppermost quarter,
        is in use for 3-D restoration of chemical images.)
    axes
        Axes of the transform. Default: all. ``axes=0`` transforms along z alone, ``axes=(1, 2)`` plane by plane; power
        is averaged over the other axes.
    taper
        Whether a Hann window is applied along the axes of the transform, after the mean is subtracted. Without one, the
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
    reference, estimate, _ = checked_pair(reference, estimate, None)
    if not (isinstance(band, int | float) and 0 <= band < 1):
        raise InputError(f"band is {band}, expected a share of the Nyquist frequency, at least 0 and below 1")
    check_scored(reference, estimate, None)
    axes = chosen_axes(axes, reference.ndim)
    shells = shells_up_to(1.0, reference.shape, axes, (0.5,) * len(axes))
    high = shells.radius > band
    if not high.any():
        raise InputError(
            f"no shell lies above {band} of the Nyquist frequency along axes {axes} of shape {reference.shape}, "
            "expected more voxels or a lower band"
        )
    power = np.zeros((2, len(shells.radius)))
    everything = np.zeros(2)
    for slab in transform_slabs(reference.shape, axes):
        for k, array in enumerate((reference, estimate)):
            square = np.abs(transformed(array[slab], axes, taper)) ** 2
            power[k] += sums_in_shells(square, shells)
            everything[k] += float((square * shells.weight).sum())
    if power[0, high].sum() == 0:
        raise InputError(f"reference has no power above {band} of the Nyquist frequency along axes {axes}")
    mean_power = power / shells.coefficients
    error = np.abs(mean_power[1] - mean_power[0])[high].sum() / mean_power[0, high].sum()
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
    independent recordings of one object the curve shows up to which frequency they agree; with a reference and an
    estimate, up to which frequency the estimate is right: there ``threshold=0.5`` is the level that 1/7 corresponds to,
    by ``sqrt(2 FSC / (1 + FSC))``. Noise that both share counts as detail. The curve is blind to scale and shift.

    Shells are as thick as the coarsest step of frequency among the axes, and reach to the highest Nyquist frequency.
    Where planes lie further apart than pixels, the shells beyond the Nyquist frequency of z hold lateral frequencies
    alone.

    Parameters
    ----------
    first, second
        Arrays or Volumes of one shape, all axes of which are transformed; finite everywhere.
    spacing
        Distance of voxels along each axis, or one for all. Default: that of a Volume (micrometres), else 1.
    threshold
        Correlation at which the resolution is read off the curve, by default 1/7.
    taper
        Whether a Hann window is applied after the mean is subtracted. It correlates neighbouring coefficients, but
        without it the borders add correlation at all frequencies.

    Returns
    -------
    FourierCorrelation
        The curve, and ``resolution`` in units of ``spacing``.

    Raises
    ------
    InputError
        As for `psnr`; a spacing that is not positive; a threshold that is not between 0 and 1; constant data; a single
        voxel.

    Notes
    -----
    The transforms take about 28 bytes a voxel.

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
    ndim = as_array("first", first).ndim
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

    It is `fourier_shell_correlation` in two dimensions. In a stack, the sums over all planes make one curve.

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
    axis = planes_axis(first, second, axis=axis)
    ndim = as_array("first", first).ndim
    axes = (0, 1) if ndim == 2 else tuple(a for a in range(ndim) if a != axis)
    return _fourier_correlation(first, second, axes, spacing, threshold, taper)


def _fourier_correlation(
    first: Any, second: Any, axes: tuple[int, ...], spacing: Any, threshold: float, taper: bool
) -> FourierCorrelation:
    steps = voxel_spacing(first, second, spacing=spacing)
    first, second, _ = checked_pair(first, second, None, names=("first", "second"))
    if not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise InputError(f"threshold is {threshold}, expected a number between 0 and 1")
    sums = scored_sums(first, second, None, names=("first", "second"))
    refuse_constant("the Fourier correlation", "first", sums.maximum - sums.minimum)
    steps = tuple(steps[a] for a in axes)
    if all(first.shape[a] < 2 for a in axes):
        raise InputError(f"shape {first.shape} has one voxel along axes {axes}, expected longer sides")
    highest = max(0.5 / step for step, a in zip(steps, axes, strict=True) if first.shape[a] > 1)
    shells = shells_up_to(highest, first.shape, axes, steps)
    cross = np.zeros(len(shells.radius))
    power = np.zeros((2, len(shells.radius)))
    for slab in transform_slabs(first.shape, axes):
        f1, f2 = (transformed(array[slab], axes, taper) for array in (first, second))
        cross += sums_in_shells((f1 * f2.conj()).real, shells)
        power[0] += sums_in_shells(np.abs(f1) ** 2, shells)
        power[1] += sums_in_shells(np.abs(f2) ** 2, shells)
    product = np.sqrt(power[0] * power[1])
    correlation = np.divide(cross, product, out=np.full_like(cross, np.nan), where=product > 0)
    crossing = first_crossing(shells.radius, correlation, threshold)
    return FourierCorrelation(
        frequency=shells.radius,
        correlation=np.clip(correlation, -1, 1),
        coefficients=np.round(shells.coefficients).astype(np.int64),
        threshold=float(threshold),
        resolution=1 / highest if crossing is None else (math.inf if crossing == 0 else 1 / crossing),
        limited_by_sampling=crossing is None,
    )


def first_crossing(frequency: NDArray[Any], correlation: NDArray[Any], threshold: float) -> float | None:
    """Frequency where the curve first falls below the threshold; 0 if it starts below, None if it never does.

    Shells without a correlation (NaN) are skipped.
    """
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
