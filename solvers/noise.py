"""The noise of a volume: its variance against intensity, and its correlation between neighbouring voxels.

Model: ``var(y) = gain E[y] + offset`` (Poisson-Gaussian; ``gain = 0``: Gaussian). Nothing but the volume is given, and
real volumes have texture, so noise must be separated from structure. Square patches within planes are used, and no
intensities are compared across planes: a gap between planes changes nothing, and the lateral axes of real stacks are
sampled finely enough that the fit of a patch leaves no more structure than the fit of a cube of as many voxels would.

1. Each patch is fitted by its lowest cosines, over its observed voxels (:mod:`tensorcell.solvers.noise_fits`). For
   white Gaussian noise the residual and the fit are independent. Patches may therefore be chosen by the fit (the
   flattest ones, by the energy of its gradient) without bias of the noise in the residual. A choice by the residual
   itself would bias it low.
2. The residual of the flattest patches of a class of intensity is a mixture of a Gaussian and a uniform background of
   outliers and edges; the variance of the Gaussian is the noise of the class (:mod:`tensorcell.solvers.noise_classes`).
3. A line through the classes gives gain and offset. The gain is accepted where the line is better than a constant by
   more than the scatter of the classes explains. Where the values are counts of photons, gain and offset are those of
   the levels.
4. Noise that is correlated between voxels (resampled or demosaiced images) is weak at the highest frequencies
   (:mod:`tensorcell.solvers.noise_correlation`). Structure looks the same but is not spread evenly: where the flattest
   patches hold less than the others do, the question stays open, and the answer says so.

References
----------
A. Foi, M. Trimeche, V. Katkovnik, K. Egiazarian, Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data, IEEE TIP 17 (2008) 1737-1754, doi:10.1109/TIP.2008.2001399 (variance against intensity,
clipping). X. Liu, M. Tanaka, M. Okutomi, Single-image noise level estimation for blind denoising, IEEE TIP 22 (2013)
5226-5237, doi:10.1109/TIP.2013.2283400 (weak texture by gradients).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .arrays import Array, as_float, namespace_of
from .autocorrelation import WHITE, Autocorrelation
from .noise_classes import Classes, classes_of, line_of_counts, line_through, without_small_outliers
from .noise_correlation import (
    CORRELATED,
    NOT_TOLD,
    UNKNOWN,
    Along,
    Within,
    agreed,
    as_given,
    correlation_along_z,
    correlation_within_planes,
    may_be_structure,
    variance_left,
    weighed,
)
from .noise_fits import SMOOTH, Fits, cleaned, fitted
from .noise_patches import FEWEST_PATCHES, Sample, read_sample
from .stripes import Stripe, without_stripes
from .units import AS_GIVEN, Unit

UNMEASURABLE = "Every patch is mostly clipped or holds too few observed voxels: no noise could be measured."

NO_NOISE = "The flattest patches are constant but for rounding: no noise was found."

FAINT = 0.1
"""Stripes of a smaller amplitude than this share of the noise are not worth a word."""

LEAST_LEFT = 0.25
"""Share of the variance of correlated noise that must be left at the frequencies from which it is estimated."""

FLOOR_SHARE = 0.25
"""Share of the smallest variance of a class below which the line is not trusted."""


@dataclass(frozen=True)
class NoiseModel:
    """Model of the noise of a volume; intensities and standard deviations are in the data's unit.

    Attributes
    ----------
    gain, offset : float
        ``var(y) = gain E[y] + offset``; ``gain = 0`` where a constant variance explains the data as well. ``offset`` is
        the variance of the read noise less ``gain`` times the detector's pedestal, so that it may be negative.
    sigma : float
        Standard deviation at ``intensity``, ``sqrt(offset)`` where ``gain = 0``. Where no noise was found or none could
        be measured, it is that of rounding (0 for floats), and ``patches`` is 0.
    intensity : float
        Typical intensity: the mean over the analysed patches, weighted by what they hold above the darkest class, so
        that it lies in what was imaged even where most of the volume is background.
    correlation : tuple of three floats
        Correlation of the noise of neighbouring voxels along z, y, x; NaN where too few voxels were observed or where
        it cannot be separated from structure. ``gain``, ``offset`` and ``sigma`` are those of single voxels: the effect
        of the correlation on the residuals is undone.
    autocorrelation : Autocorrelation
        Correlation at several lags, which denoisers weigh with; white along axes where it is below .15 or cannot be
        separated from structure.
    correlated : bool or None
        Whether the correlation exceeds .08 along y or x, or .1 along z; None where correlated noise cannot be told from
        structure. White noise was assumed then, and ``sigma`` is too small if the noise is correlated within planes.
    low, high : float or None
        Lowest and highest value of the data where more voxels hold it than noise explains (background set to zero,
        saturation). Patches with more than a tenth of such voxels were left out; where fewer than 40 patches would have
        remained, only such voxels were.
    step : float
        Distance between the levels of the data where they are evenly spaced (integers), else 0.
    floor : float
        Smallest variance that :meth:`variance` returns: below the darkest patches the line is not trusted.
    patches : int
        Number of patches that the estimate rests on; 0 where it was given.
    counted : bool
        Whether the values count photons, so that the law is exact, whatever few photons there are.
    stripes : tuple of Stripe
        Periodic stripes of the data, which are not counted as noise.
    sentence : str
        All this in words, with numbers in the caller's unit.

    Raises
    ------
    ValueError
        If ``sigma`` is negative or not finite.
    """

    gain: float
    offset: float
    sigma: float
    intensity: float = 0.0
    correlation: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    autocorrelation: Autocorrelation = WHITE
    correlated: bool | None = None
    low: float | None = None
    high: float | None = None
    step: float = 0.0
    floor: float = 0.0
    patches: int = 0
    counted: bool = False
    stripes: tuple[Stripe, ...] = ()
    sentence: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"the standard deviation of the noise must be finite and not negative, got {self.sigma}")

    @staticmethod
    def white(sigma: float, unit: Unit = AS_GIVEN) -> NoiseModel:
        """White Gaussian noise of a standard deviation that was given; the sentence has it in the caller's unit.

        >>> NoiseModel.white(2.0).sentence
        'The standard deviation of the noise was given: 2 at all intensities.'
        """
        return NoiseModel(
            gain=0.0,
            offset=sigma**2,
            sigma=sigma,
            floor=sigma**2,
            sentence=f"The standard deviation of the noise was given: {unit.width(sigma):.3g} at all intensities.",
        )

    @staticmethod
    def of(noise: float | NoiseModel) -> NoiseModel:
        """The model itself, or white noise of the standard deviation given."""
        return noise if isinstance(noise, NoiseModel) else NoiseModel.white(noise)

    @property
    def unmeasurable(self) -> bool:
        """Whether no noise could be measured, so that a ``sigma`` of 0 says nothing."""
        return self.sentence.startswith(UNMEASURABLE)

    @property
    def told_apart(self) -> bool:
        """Whether the noise is told apart from structure: it was given, or is white, as structure is not.

        >>> NoiseModel.white(2.0).told_apart
        True
        """
        return self.patches == 0 or self.correlated is False

    def reduced(self, share: float, reason: str) -> NoiseModel:
        """The model with all standard deviations multiplied by a share; the reason is added to its sentence.

        >>> noise = NoiseModel(gain=2.0, offset=4.0, sigma=6.0).reduced(0.5, "Half of it is structure.")
        >>> noise.gain, noise.offset, noise.sigma, noise.sentence
        (0.5, 1.0, 3.0, 'Half of it is structure.')
        """
        return replace(
            self,
            gain=self.gain * share**2,
            offset=self.offset * share**2,
            sigma=self.sigma * share,
            floor=max(self.floor * share**2, self.step**2 / 12),
            sentence=f"{self.sentence} {reason}".strip(),
        )

    def in_unit(self, unit: Unit) -> NoiseModel:
        """The model in the caller's unit; its sentence has that unit already.

        >>> noise = NoiseModel(gain=2.0, offset=4.0, sigma=6.0, intensity=16.0).in_unit(Unit(scale=10.0, offset=1000.0))
        >>> noise.gain, noise.offset, noise.sigma, noise.intensity
        (20.0, -19600.0, 60.0, 1160.0)
        """
        if unit.same:
            return self
        low, high = (None if end is None else unit.intensity(end) for end in (self.low, self.high))
        return replace(
            self,
            gain=unit.width(self.gain),
            offset=unit.width(self.offset, power=2) - unit.width(self.gain) * unit.offset,
            sigma=unit.width(self.sigma),
            intensity=unit.intensity(self.intensity),
            low=low,
            high=high,
            step=unit.width(self.step),
            stripes=tuple(one._replace(amplitude=unit.width(one.amplitude)) for one in self.stripes),
            floor=unit.width(self.floor, power=2),
        )

    def variance(self, intensity: Array) -> Array:
        """``max(gain intensity + offset, floor)`` of an array of noise-free intensities (any shape; dtype kept)."""
        xp = namespace_of(intensity)
        line = self.gain * as_float(intensity) + self.offset
        return xp.where(line < self.floor, xp.asarray(self.floor, dtype=line.dtype), line)


def estimate_noise(
    data: Array, mask: Array | None = None, *, correlation: Autocorrelation | None = None, unit: Unit = AS_GIVEN
) -> NoiseModel:
    """Estimate of the noise of a stack, which is separated from its structure.

    Parameters
    ----------
    data : real array ``(Z, Y, X)``
        In any unit; values that are not finite count as missing. Planes may be any distance apart.
    mask : bool array ``(Z, Y, X)``, optional
        True = observed.
    correlation : Autocorrelation, optional
        Of the noise, where it is known, as from other frames of the same detector; by default it is estimated.
    unit : Unit
        How values become intensities of the caller; only the sentence of the result is in the caller's unit.

    Returns
    -------
    NoiseModel

    Raises
    ------
    TypeError
        If the mask is not boolean, the data not real.
    ValueError
        If the data has not three axes, the mask another shape, or nothing was observed.

    Notes
    -----
    A sample of patches is read and analysed on the host: memory and time stop growing at about two million voxels
    (below half a second on one core). The result is deterministic.

    Texture as fine as a pixel that fills the volume cannot be told from noise in a single noisy volume. It is counted
    as noise, so that ``sigma`` is an upper bound for white noise. Where few voxels are observed, less of the texture
    can be fitted, and the bound is looser.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z, y, x = np.indices((20, 64, 64)) / 64
    >>> noise = estimate_noise(np.sin(7 * y * x + z) + 0.1 * rng.standard_normal(z.shape))
    >>> round(noise.sigma, 2), noise.gain, noise.correlated
    (0.1, 0.0, False)
    """
    _check(data, mask)
    found = _estimated(data, mask, correlation, unit)
    if found.patches == 0:
        return found
    plain, stripes = without_stripes(data, mask)
    if plain is None or max(each.amplitude for each in stripes) < FAINT * found.sigma:
        return found
    found = _estimated(plain, mask, correlation, unit)
    return replace(found, stripes=stripes, sentence=f"{found.sentence} {_stripes_in_words(stripes, unit)}")


def _estimated(data: Array, mask: Array | None, correlation: Autocorrelation | None, unit: Unit) -> NoiseModel:
    """The estimate for a stack without periodic stripes."""
    sample = read_sample(data, mask)
    if sample.low is not None and sample.step > 0:  # few photons leave many voxels without any, too
        found = _of_sample(data, mask, read_sample(data, mask, dark=True), correlation, unit)
        if found.counted:
            return found
    return _of_sample(data, mask, sample, correlation, unit)


def _of_sample(
    data: Array, mask: Array | None, sample: Sample, correlation: Autocorrelation | None, unit: Unit
) -> NoiseModel:
    """The estimate from a sample of patches."""
    if len(sample.values) == 0:
        return _no_noise(sample, UNMEASURABLE)
    counts = line_of_counts(sample)
    sample, many_outliers = cleaned(sample)
    low_pass = fitted(sample, SMOOTH)
    if many_outliers and len(low_pass.rows) > 0 and not low_pass.observed.all():
        sample = without_small_outliers(sample, low_pass)
        low_pass = fitted(sample, SMOOTH)
    pixels = sample.values.shape[1]
    fits = fitted(sample, pixels * 3 // 4 if len(sample.values) > 500 else pixels // 2)
    bands = pixels * 3 // 8, pixels // 4, SMOOTH
    # Where voxels are missing, it may be the same one, with as many cosines as the patches allow.
    middle = fits if fits.basis.shape[1] <= bands[0] else fitted(sample, bands[0])
    if min(len(low_pass.rows), len(fits.rows), len(middle.rows)) == 0:
        return _no_noise(sample, UNMEASURABLE)
    classes = classes_of(fits)
    if not np.any(classes.variance > sample.step**2 / 24):  # rounding alone makes twice that, and 0 on flat ground
        return _no_noise(sample, NO_NOISE)

    if correlation is not None:
        within, along = as_given(correlation)
    else:
        within = correlation_within_planes(middle, sample.side)
        if within.correlated:
            within = agreed(within, correlation_within_planes(low_pass, sample.side))
        along = correlation_along_z(data, mask, sample, fits)
        if counts is not None:  # photons arrive one by one, whatever structure makes of their correlation
            within, along = within._replace(correlated=False), along._replace(correlated=False)
        if (within.correlated or along.correlated) and may_be_structure(low_pass, sample.side, within, along):
            within, along = UNKNOWN if within.correlated else within, NOT_TOLD if along.correlated else along
    if within.correlated:
        # High frequencies hold less structure, and too little noise where the blur is wide.
        for cosines in bands:
            fits = fitted(sample, cosines)
            left = variance_left(fits, sample.side, within)
            if left >= LEAST_LEFT:
                break
        classes = classes_of(fits)
        classes = classes._replace(variance=classes.variance / left)
    return _model(sample, fits, classes, within, along, unit, counts)


def _check(data: Array, mask: Array | None) -> None:
    xp = namespace_of(data, mask)
    if data.ndim != 3:
        raise ValueError(f"expected data with 3 axes (z, y, x), got shape {tuple(data.shape)}")
    if not xp.isdtype(data.dtype, ("bool", "integral", "real floating")):
        raise TypeError(f"expected real numbers, got dtype {data.dtype}")
    if mask is not None and tuple(mask.shape) != tuple(data.shape):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, data has shape {tuple(data.shape)}")
    if mask is not None and mask.dtype != xp.bool:
        raise TypeError(f"mask: expected a boolean array (True = observed), got dtype {mask.dtype}")


def _no_noise(sample: Sample, sentence: str) -> NoiseModel:
    """The model of data whose values vary by rounding alone."""
    variance = sample.step**2 / 12
    return NoiseModel(
        gain=0.0,
        offset=variance,
        sigma=math.sqrt(variance),
        low=sample.low,
        high=sample.high,
        step=sample.step,
        floor=variance,
        sentence=sentence,
    )


def _model(
    sample: Sample, fits: Fits, classes: Classes, within: Within, along: Along, unit: Unit,
    counts: tuple[float, float] | None,
) -> NoiseModel:  # fmt: skip
    """The line of the counts or through the classes, the correlations, and the sentence about them."""
    gain, offset = counts or line_through(classes)
    rounding = sample.step**2 / 12
    floor = max(rounding, FLOOR_SHARE * float(np.maximum(gain * classes.intensity + offset, 0).min()))
    if gain == 0:
        offset = floor = max(offset, rounding)
    flags = (within.correlated, along.correlated)
    model = NoiseModel(
        gain=gain,
        offset=offset,
        sigma=math.sqrt(max(gain * classes.typical + offset, floor)),
        intensity=classes.typical,
        correlation=(along.z[1], within.y[1], within.x[1]),
        autocorrelation=weighed(along, within),
        correlated=True if True in flags else None if None in flags else False,
        low=sample.low,
        high=sample.high,
        step=sample.step,
        floor=floor,
        patches=len(fits.intensity),
        counted=counts is not None,
    )
    return replace(model, sentence=_sentence(model.in_unit(unit), sample.side))


def _stripes_in_words(stripes: tuple[Stripe, ...], unit: Unit) -> str:
    """What the stripes are."""
    named = ", ".join(
        f"one of {each.period:.3g} voxels along {each.axis} with an amplitude of {unit.width(each.amplitude):.3g}"
        for each in stripes
    )
    return f"Periodic stripes are not counted as noise: {named}."


def _sentence(model: NoiseModel, side: tuple[int, int]) -> str:
    """What the model says, in words."""
    basis = f"estimated from {model.patches} patches of {side[0]} x {side[1]} voxels"
    if model.counted:
        said = (
            f"The noise is that of photons, which the values count: its variance is {model.gain:.3g} x intensity "
            f"{model.offset:+.3g}, as {model.patches} patches of {side[0]} x {side[1]} voxels confirm."
        )
    elif model.gain > 0:
        said = (
            f"The noise is Poisson-Gaussian: its variance is {model.gain:.3g} x intensity {model.offset:+.3g}, and its "
            f"standard deviation at intensity {model.intensity:.3g} is {model.sigma:.3g}, {basis}."
        )
    else:
        said = f"The noise is Gaussian: its standard deviation is {model.sigma:.3g} at all intensities, {basis}."
    named = [f"{c:.2f} along {axis}" for c, axis in zip(model.correlation, "zyx", strict=True) if abs(c) > CORRELATED]
    if model.correlated:
        said += f" It is correlated between neighbouring voxels: {', '.join(named)}."
    elif model.correlated is None:
        said += (
            " Whether it is correlated between neighbouring voxels cannot be told, since structure looks the same; it "
            "is taken as not correlated."
        )
    else:
        said += " It is not correlated between voxels."
    if model.patches < FEWEST_PATCHES:
        said += " The patches are few, so that these figures are rough."
    if model.low is not None:
        said += f" Voxels of value {model.low:g} are background set to one value and were left out."
    if model.high is not None:
        said += f" Voxels of value {model.high:g} are saturated and were left out."
    return said
