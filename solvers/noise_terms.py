"""What noise does to the product of a datum and a function of it: Stein's lemma, and its counterpart for photons.

Estimates are made of values ``s`` whose noise has one standard deviation, and are judged in the unit of the
measurement. Let ``x(s)`` be the measurement, ``v`` its mean, and ``g`` a function of ``s``. Then

    E [(x - v) g] = E [c(s) g'],

and the squared error of an estimate, its bias at an intensity and the best mixture follow without the truth.

=============  =================================  ================================================================
noise          ``x(s)``                           ``c(s)``
=============  =================================  ================================================================
Gaussian       ``s``                              ``sigma^2``, exactly
photons        ``s^2 / 4 - 3/8``                  ``x (s(x) - s(x - 1))``, as far as ``g`` is straight in between
=============  =================================  ================================================================

The second line is ``E [(x - v) g(x)] = E [x (g(x) - g(x - 1))]``, which holds for counts of any mean, down to none.

References
----------
C. Stein, Estimation of the mean of a multivariate normal distribution, doi:10.1214/aos/1176345632. L. H. Y. Chen,
Poisson approximation for dependent trials, doi:10.1214/aop/1176996359. F. Luisier, T. Blu, M. Unser, Image denoising in
mixed Poisson-Gaussian noise, doi:10.1109/TIP.2010.2073477 (the squared error of a denoiser from such terms).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .anscombe import inverse_anscombe, stabilised_variance
from .noise import NoiseModel

Floats = npt.NDArray[np.floating[Any]]

STEP = 0.01
"""Distance, in stabilised values, at which the way from photons to stabilised values is tabulated."""

FEW = 4.2
"""Stabilised value of four photons, above which the noise of stabilised values is Gaussian, to 4 % of its standard
deviation, and what few photons are does not matter."""

LEAST_SLOPE = 0.5
"""Least change of the photons with the stabilised value: that of dark estimates, which lie below any mean, is 0."""


class Gaussian(NamedTuple):
    """White Gaussian noise: values are the measurement."""

    sigma: float

    @property
    def counts(self) -> bool:
        """Whether the values are counts of photons."""
        return False

    @property
    def above(self) -> float:
        """Denoised values above which these terms hold."""
        return -math.inf

    def measured(self, values: Floats) -> Floats:
        """``x`` of each value."""
        return values

    def step(self, values: Floats) -> Floats:
        """Change of each value on which the lemma rests."""
        return np.zeros(values.shape)

    def factor(self, values: Floats) -> Floats:
        """``c`` of each value."""
        return np.full(values.shape, self.sigma**2)

    def expected(self, estimates: Floats) -> Floats:
        """Mean measurement where the denoised value is this."""
        return estimates

    def slope(self, estimates: Floats) -> Floats:
        """Derivative of :meth:`expected`."""
        return np.ones(estimates.shape)

    def reached(self, expected: Floats) -> Floats:
        """Denoised values of these mean measurements: the inverse of :meth:`expected`."""
        return expected

    def variance(self, measured: Floats) -> Floats:
        """An unbiased estimate of the variance of each measurement."""
        return np.full(measured.shape, self.sigma**2)

    def spread(self, estimates: Floats) -> Floats:
        """Variance of the values where the denoised one is this."""
        return np.full(estimates.shape, self.sigma**2)


class Photons(NamedTuple):
    """Noise that :func:`tensorcell.solvers.anscombe.stabilised` has made one of variance 1.

    The measurement is counted in photons, ``x = y / a + b / a^2``: its variance is its mean.

    Examples
    --------
    Of every count, half the excess over the mean stays in an estimate; the lemma knows by how much they go together:

    >>> noise, rng = Photons(read=0.0, centre=0.0), np.random.default_rng(0)
    >>> counts = rng.poisson(0.3, 1_000_000)
    >>> values = 2 * np.sqrt(counts + 0.375)
    >>> round(float(np.mean((counts - 0.3) * values / 2)), 2), round(float(np.mean(noise.factor(values) / 2)), 2)
    (0.15, 0.15)
    """

    read: float
    """``max(b, 0) / a^2``: variance of the read noise; an offset that is negative is a pedestal."""
    centre: float
    """What was subtracted from the stabilised values."""
    counts: bool = True
    """Whether the values are counts. If not, gain and offset are no better than their estimate, and what they say of a
    few photons is not relied on: the variance of stabilised values is taken for 1."""

    @staticmethod
    def of(noise: NoiseModel, centre: float = 0.0) -> Photons:
        """The photons of a law of noise with a gain."""
        return Photons(max(noise.offset, 0.0) / noise.gain**2, centre, noise.counted)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise of the values."""
        return 1.0

    @property
    def above(self) -> float:
        """Denoised values above which these terms hold."""
        return -math.inf if self.counts else FEW - self.centre

    @property
    def law(self) -> NoiseModel:
        """The law of the noise of photons."""
        return NoiseModel(gain=1.0, offset=self.read, sigma=1.0)

    def measured(self, values: Floats) -> Floats:
        """``x`` of each value."""
        return (values + self.centre) ** 2 / 4 - 0.375

    def step(self, values: Floats) -> Floats:
        """Change of each value on which the lemma rests: by one photon."""
        return np.asarray(values + self.centre - 2 * np.sqrt(np.maximum(self.measured(values) - 0.625, 0)))

    def factor(self, values: Floats) -> Floats:
        """``c`` of each value."""
        return self.measured(values) * self.step(values)

    def expected(self, estimates: Floats) -> Floats:
        """Mean measurement where the denoised value is this."""
        return np.asarray(inverse_anscombe(estimates + self.centre, self.law) + self.read)

    def slope(self, estimates: Floats) -> Floats:
        """Derivative of :meth:`expected`, at least :data:`LEAST_SLOPE`."""
        rise = self.expected(estimates + STEP) - self.expected(estimates - STEP)
        return np.asarray(np.maximum(rise / (2 * STEP), LEAST_SLOPE))

    def reached(self, expected: Floats) -> Floats:
        """Denoised values of these mean measurements: the inverse of :meth:`expected`."""
        places = np.arange(0, 2 * np.sqrt(max(float(np.max(expected)), 0.0) + 2), STEP) - self.centre
        return np.interp(expected, self.expected(places), places)

    def variance(self, measured: Floats) -> Floats:
        """An unbiased estimate of the variance of each measurement."""
        return measured

    def spread(self, estimates: Floats) -> Floats:
        """Variance of the values where the denoised one is this."""
        if not self.counts:
            return np.ones(estimates.shape)
        return stabilised_variance(estimates + self.centre, self.law)


Noise = Gaussian | Photons


def terms_of(noise: NoiseModel, sigma: float, centre: float = 0.0) -> Noise:
    """The noise of values that :func:`tensorcell.solvers.anscombe.stabilised` returned with this standard deviation.

    ``centre`` is what was subtracted from them.

    >>> terms_of(NoiseModel.white(2.0), 2.0), terms_of(NoiseModel(gain=2.0, offset=8.0, sigma=3.0), 1.0, centre=5.0)
    (Gaussian(sigma=2.0), Photons(read=2.0, centre=5.0, counts=False))
    """
    return Gaussian(sigma) if noise.gain == 0 else Photons.of(noise, centre)
