"""Variance-stabilising transform of Poisson-Gaussian noise, and its exact unbiased inverse.

References
----------
M. Makitalo, A. Foi, Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian noise, IEEE TIP
22 (2013) 91-103, doi:10.1109/TIP.2012.2202675.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Array, as_float, interpolation_at, namespace_of
from .noise import NoiseModel

EVEN = 1 << 13
"""Evenly spaced places of a table: ten for each of those that quadrature tells."""

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


def stabilised(values: Array, noise: NoiseModel) -> tuple[Array, float]:
    """Values whose noise has the same standard deviation at all intensities, and that standard deviation.

    Gaussian noise has it already, so that the values come back as they are; else it is 1, see
    :func:`generalised_anscombe`. The way back is :func:`destabilised`.

    Examples
    --------
    >>> stabilised(np.array([3.0]), NoiseModel.white(2.0))
    (array([3.]), 2.0)
    """
    return (values, noise.sigma) if noise.gain == 0 else (generalised_anscombe(values, noise), 1.0)


def destabilised(values: Array, noise: NoiseModel) -> Array:
    """Mean intensities of denoised values of :func:`stabilised`, see :func:`inverse_anscombe`."""
    return values if noise.gain == 0 else inverse_anscombe(values, noise)


def destabilised_error(values: Array, errors: Array, noise: NoiseModel) -> Array:
    """Standard deviations of the errors of :func:`destabilised`, from those of the stabilised values.

    They are half the distance between the intensities one standard deviation above and below.
    """
    if noise.gain == 0:
        return errors
    return (inverse_anscombe(values + errors, noise) - inverse_anscombe(values - errors, noise)) / 2


def generalised_anscombe(y: Array, noise: NoiseModel) -> Array:
    """Values whose noise has standard deviation 1: ``2 sqrt(max(y / a + 3/8 + b / a^2, 0))``, or ``y / sigma``.

    Parameters
    ----------
    y : real array of any shape
        Measured intensities; NaN stays NaN. Every real number is allowed: below the root the result is 0.
    noise : NoiseModel
        ``a`` is its gain and ``b`` its offset; without gain the values are divided by sigma.

    Returns
    -------
    array of the same shape; float32 stays float32, all other types become float64
        Rises with `y`. Its standard deviation is within 4 % of 1 where ``a y + b >= 4 a^2`` (four photons).

    Raises
    ------
    ValueError
        If the noise model says that there is no noise.

    Examples
    --------
    >>> import numpy as np
    >>> noise = NoiseModel(gain=2.0, offset=4.0, sigma=2.0)
    >>> generalised_anscombe(np.array([-100.0, 0.0, 100.0]), noise).round(3)
    array([ 0.   ,  2.345, 14.335])
    """
    y = as_float(y)
    a, b = noise.gain, noise.offset
    if a == 0:
        return y / _positive(noise.sigma)
    photons = y / a + (0.375 + b / a**2)  # in numbers of photons, so that no unit over- or underflows in float32
    xp = namespace_of(photons)
    return 2 * xp.sqrt(xp.where(photons < 0, xp.asarray(0.0, dtype=photons.dtype), photons))


def inverse_anscombe(d: Array, noise: NoiseModel) -> Array:
    """Mean intensities whose transform has the expectation `d`: the exact unbiased inverse, or ``sigma d``.

    Parameters
    ----------
    d : real array of any shape
        Denoised values of :func:`generalised_anscombe`, taken as expectations; NaN stays NaN.
    noise : NoiseModel

    Returns
    -------
    array of the same shape; float32 stays float32, all other types become float64

    Raises
    ------
    ValueError
        If the noise model says that there is no noise.

    Notes
    -----
    With ``y = a P + pedestal + read noise``, `P` Poisson of mean `m`, the expectation ``E[d | m]`` is tabulated by
    quadrature for ``m`` in [0, 100], and ``m = d^2 / 4 + correction(d)`` is interpolated; the inverse agrees with
    the quadrature to .001 gain (the closed form of Makitalo and Foi to .05 gain). Beyond, the correction is the
    asymptotic one, ``- 1/8 - b / a^2`` plus a term in ``1 / d^2`` matched at the end. Below ``E[d | 0]`` no mean
    exists, and ``d^2 / 4`` continues the table, so that noise around zero is not rectified; the result rises with `d`.
    The offset does not tell pedestal from read noise: a negative one is taken as pedestal without read noise,
    a positive one as read noise without pedestal.

    Examples
    --------
    >>> import numpy as np
    >>> noise = NoiseModel(gain=2.0, offset=0.0, sigma=2.0)
    >>> y = 2.0 * np.random.default_rng(0).poisson(1.5, 1_000_000)
    >>> stabilised = generalised_anscombe(y, noise)
    >>> round(float(inverse_anscombe(stabilised.mean(), noise)), 2)
    3.0
    """
    d = as_float(d)
    a, b = noise.gain, noise.offset
    if a == 0:
        return d * _positive(noise.sigma)
    places, corrections, tail, _ = _inverse_table(max(b, 0.0) / a**2)
    xp = namespace_of(d)
    low, high = float(places[0]), float(places[-1])
    zero = xp.asarray(0.0, dtype=d.dtype)
    d = xp.where(d < 0, zero, d)
    inside = interpolation_at(d, low, high, EVEN)(_evenly_spaced(max(b, 0.0) / a**2))
    square = xp.where(d > high, d, xp.asarray(high, dtype=d.dtype)) ** 2
    far = float(corrections[-1]) + tail * (1 / square - 1 / high**2)
    correction = xp.where(d > high, far, xp.astype(inside, d.dtype))
    mean = d**2 / 4 + correction
    return a * mean - min(b, 0.0) / a


def stabilised_variance(d: Floats, noise: NoiseModel) -> Floats:
    """Variance of the noise of transformed values whose expectation is `d`; it is below 1 for a few photons.

    Parameters
    ----------
    d : float array of any shape
        Denoised values of :func:`generalised_anscombe`, on the host.
    noise : NoiseModel
        With a gain.

    Examples
    --------
    >>> noise = NoiseModel(gain=1.0, offset=0.0, sigma=1.0)
    >>> stable = generalised_anscombe(np.random.default_rng(0).poisson(0.5, 1_000_000), noise)
    >>> round(float(stable.var()), 2), round(float(stabilised_variance(stable.mean(), noise)), 2)
    (0.47, 0.47)
    """
    places, _, _, variances = _inverse_table(max(noise.offset, 0.0) / noise.gain**2)
    return np.asarray(np.interp(d, places, variances))


@lru_cache(maxsize=16)
def _evenly_spaced(read: float) -> Doubles:
    """The corrections of :func:`_inverse_table` at evenly spaced ``d``, closer than there: no search finds a place."""
    places, corrections, _, _ = _inverse_table(read)
    return np.asarray(np.interp(np.linspace(places[0], places[-1], EVEN), places, corrections))


def _positive(sigma: float) -> float:
    if not sigma > 0:
        raise ValueError(f"expected noise with a positive standard deviation, got sigma = {sigma:g}")
    return sigma


@lru_cache(maxsize=16)
def _inverse_table(read: float) -> tuple[Doubles, Doubles, float, Doubles]:
    """``d``, ``m - d^2 / 4``, the factor of ``1 / d^2`` in its tail and the variance about ``d``.

    The variance of the read noise is ``read``, the gain 1.

    ``E[d | m] = sum_k P(k; m) E_n[2 sqrt(max(k + n + 3/8 + read, 0))]``, `n` Gaussian (trapezoidal rule).
    """
    from scipy.special import gammaln, xlogy

    means = np.linspace(0, 10, 801) ** 2
    k = np.arange(260.0)  # P(k >= 260; 100) < 1e-37
    n, step = np.linspace(-9, 9, 721, retstep=True)
    weight = np.exp(-(n**2) / 2) * step / np.sqrt(2 * np.pi)
    squares = 4 * np.maximum(k[:, None] + np.sqrt(read) * n + 0.375 + read, 0)
    poisson = np.exp(xlogy(k, means[:, None]) - gammaln(k + 1) - means[:, None])
    d = poisson @ (np.sqrt(squares) @ weight)
    variances = poisson @ (squares @ weight) - d**2
    corrections = means - d**2 / 4
    tail = (corrections[-1] + 0.125 + read) * d[-1] ** 2
    return d, corrections, float(tail), variances
