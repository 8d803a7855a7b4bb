"""Noise that neighbouring voxels share: its autocorrelation, a product of one function of the lag for each axis.

Resampled, deconvolved or demosaiced stacks have such noise, and so have detectors that are slow beside the scan. With
``C_n`` the Toeplitz matrix of the autocorrelation along axis n, the noise of a patch has the covariance ``sigma^2 C_1
(x) C_2 (x) C_3``, and that of the coefficients in an orthonormal basis ``U_1 (x) U_2 (x) U_3`` the variances

    sigma^2 a_i b_j c_k,        a = diag(U_1' C_1 U_1), b = diag(U_2' C_2 U_2), c = diag(U_3' C_3 U_3).

References
----------
Y. Mäkinen, L. Azzari, A. Foi, Collaborative filtering of correlated noise: exact transform-domain variance for improved
shrinkage and patch matching, doi:10.1109/TIP.2020.3014721.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, ndimage

Floats = npt.NDArray[np.floating[Any]]


class Autocorrelation(NamedTuple):
    """Correlation of the noise at lags of 0, 1, 2 ... voxels along z, y and x, from 1 on; 0 at longer lags."""

    z: tuple[float, ...] = (1.0,)
    y: tuple[float, ...] = (1.0,)
    x: tuple[float, ...] = (1.0,)

    @property
    def white(self) -> bool:
        """Whether no lag but 0 is correlated.

        >>> Autocorrelation().white, Autocorrelation(x=(1.0, 0.5)).white
        (True, False)
        """
        return not any(any(lags[1:]) for lags in self)


WHITE = Autocorrelation()

WHITE_SHARE = 0.02
"""Share of the variance that is taken to be white noise, as that of rounding and of the read-out is: where all of it is
shared, there would be no noise at the highest frequencies, and none would be removed there."""

ROUNDING = 1e-3
"""A spectrum may be negative by so much, as that of correlations given with three digits is."""


def toeplitz(lags: Sequence[float], size: int) -> Floats:
    """Correlation matrix ``(size, size)`` of neighbours in a row.

    >>> toeplitz((1.0, 0.5), 3)
    array([[1. , 0.5, 0. ],
           [0.5, 1. , 0.5],
           [0. , 0.5, 1. ]])
    """
    lag = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return np.append(lags, 0.0)[np.minimum(lag, len(lags))]


def possible(lags: Sequence[float]) -> tuple[float, ...]:
    """The nearest multiple of these correlations that noise can have, with :data:`WHITE_SHARE` of white noise in it.

    No spectrum ``1 + 2 sum c_l cos(l w)`` is negative.

    >>> possible((1.0, 1.0))
    (1.0, 0.49)
    """
    share = (1 - WHITE_SHARE) / max(1.0, 1 - lowest(lags[1:]))
    return (1.0, *(share * float(c) for c in lags[1:]))


def mean_of(found: Sequence[Autocorrelation]) -> Autocorrelation:
    """The mean of several.

    >>> mean_of([Autocorrelation(), Autocorrelation(x=(1.0, 0.5))]).x
    (1.0, 0.25)
    """
    axes = (zip_longest(*(one[axis] for one in found), fillvalue=0.0) for axis in range(3))
    return Autocorrelation(*(tuple(sum(lags) / len(found) for lags in axis) for axis in axes))


def checked(given: Sequence[Sequence[float]]) -> Autocorrelation:
    """Three sequences of numbers that can be an autocorrelation.

    Raises
    ------
    ValueError
        If they do not begin with 1, or if no noise has such correlations.
    """
    if len(given) != 3 or not all(len(lags) and lags[0] == 1 for lags in given):
        raise ValueError(f"expected a correlation along z, y and x that is 1 at lag 0, got {tuple(given)}")
    for lags in given:
        if not np.all(np.isfinite(lags)) or lowest(lags[1:]) < -ROUNDING:
            raise ValueError(f"expected correlations whose spectrum is nowhere negative, got {tuple(lags)}")
    return Autocorrelation(*(tuple(float(c) for c in lags) for lags in given))


def lowest(later: Sequence[float]) -> float:
    """Smallest value of the spectrum ``1 + 2 sum c_l cos(l w)`` of the correlations from lag 1 on."""
    waves = np.cos(np.outer(np.linspace(0, np.pi, 257), np.arange(1, len(later) + 1)))
    return float(1 + 2 * np.min(waves @ np.asarray(later, float)))


def drawn(rng: np.random.Generator, shape: Sequence[int], correlation: Autocorrelation) -> Floats:
    """Gaussian noise of variance 1 and that autocorrelation along the last three axes, in float32.

    White noise is filtered by the square root of the spectrum, on a circle that is longer by the longest lag, so that
    the ends of the rows do not meet. A spectrum has no negative part; where that of the numbers given has, it is 0.
    """
    if correlation.white:
        return rng.standard_normal(shape).astype(np.float32)
    longer = [*shape[:-3], *(n + len(lags) - 1 for n, lags in zip(shape[-3:], correlation, strict=True))]
    noise: Floats = rng.standard_normal(longer)
    for axis, lags in zip((-3, -2, -1), correlation, strict=True):
        if len(lags) > 1:
            noise = np.moveaxis(filtered_rows(np.moveaxis(noise, axis, -1), lags), -1, axis)
    return noise[..., : shape[-3], : shape[-2], : shape[-1]].astype(np.float32)


def filtered_rows(rows: Floats, lags: Sequence[float]) -> Floats:
    """White noise in rows with the autocorrelation of these lags."""
    from scipy import fft

    size = rows.shape[-1]
    place = np.arange(size)
    circle = np.append(lags, 0.0)[np.minimum(np.minimum(place, size - place), len(lags))]
    power = np.maximum(fft.rfft(circle).real, 0)
    return np.asarray(fft.irfft(fft.rfft(rows) * np.sqrt(power / power_mean(power, size)), size))


def power_mean(power: Floats, size: int) -> float:
    """Mean of a spectrum over all frequencies, of which those above 0 stand for two."""
    twice = power[1 : (size + 1) // 2]
    return float((power.sum() + twice.sum()) / size)


def standardised_mean(values: Array, width: float, axes: Sequence[int], correlation: Autocorrelation = WHITE) -> Array:
    """Gaussian mean around each entry, in standard deviations that it would have if all were noise of variance 1.

    What neighbours share grows beside what is each one's own; entries at the border have fewer neighbours.

    Parameters
    ----------
    values : float array
        Its last three axes are z, y and x.
    width : float
        Standard deviation of the Gaussian.
    axes : sequence of int
        Axes along which it is taken, of -3, -2 and -1.
    correlation : Autocorrelation
        Of the noise.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal((40, 300, 300))
    >>> mean = standardised_mean(noise, 1.5, (-2, -1))
    >>> bool(abs(mean.std() - 1) < 0.01), bool(abs(mean[:, 0, 0].std() - 1) < 0.3)
    (True, True)
    """
    mean = ndimage("gaussian_filter", values, width, mode="constant", axes=tuple(axes))
    reach = int(4 * width + 0.5)
    kernel = ndimage("gaussian_filter1d", np.eye(1, 4 * reach + 1, 2 * reach)[0], width)[reach:-reach]
    for axis in axes:
        level = np.sqrt(smoothed_variance(kernel, correlation[axis], values.shape[axis]))
        mean /= from_host(level.reshape(-1, *(1,) * (-1 - axis)).astype(str(mean.dtype)), mean)
    return mean


def smoothed_variance(kernel: Floats, lags: Sequence[float], size: int) -> Floats:
    """Variance ``(size,)`` of noise of variance 1 and this autocorrelation in a row, after smoothing; 0 lies beyond it.

    It is ``sum_l c_l sum_n k_n k_(n + l)`` over the ``n`` and ``n + l`` that lie in the row.
    """
    reach = len(kernel) // 2
    total = np.zeros(size)
    for lag, share in enumerate(lags[: min(size, len(kernel))]):
        products = np.convolve(np.ones(size - lag), kernel[: len(kernel) - lag] * kernel[lag:])
        total += (2 if lag else 1) * share * products[reach - lag : reach - lag + size]
    return total
