"""Classes of intensity: the variance of the noise in each of them, and the line through them.

The residual of the flattest patches of a class is a mixture of a Gaussian, whose variance is that of the noise, and a
uniform background of outliers and edges. Where the values are counts of photons, which a few levels show, the line is
known from the levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .noise_fits import Fits, cleaned, fitted
from .noise_patches import Doubles, Ints, Sample
from .spread import MEDIAN_SQUARE, robust_sigma

FLAT = 0.3
"""Share of the patches of a class that its noise is taken from."""

SETTLED = 1e-7
"""Relative change of a variance at which it is settled."""

SHRUNK = 0.01
"""A variance that falls below this share of the robust one is that of residuals that are all but 0, not of noise."""

TOLERATED = 0.1
"""Smaller changes of the variance with the intensity are ignored (5 % in sigma), and smaller correlations along z."""

ZEROS = 30
"""Counts of none that are expected of photons at the least; the lowest value is no count of none without them."""


class Classes(NamedTuple):
    """Classes ``K`` of intensity, from dark to bright."""

    intensity: Doubles  # (K,)
    variance: Doubles  # (K,)
    error: Doubles  # (K,) standard error of the variance, relative to it
    blur: Doubles  # (K,) standard error of a patch's intensity: how far noise can move the patch to another class
    typical: float


def groups_of(intensity: Doubles, fewest: int = 40) -> list[Ints]:
    """Patches by classes of intensity, at least `fewest` in each.

    The classes divide the range of the intensities as well as the patches.
    """
    pieces = int(np.clip(len(intensity) // 50, 1, 14))
    share = np.linspace(0, 1, pieces + 1)
    low, high = float(intensity.min()), float(intensity.max())
    edges = np.sort(np.concatenate([np.quantile(intensity, share), low + (high - low) * share]))
    order = np.argsort(intensity, kind="stable")
    groups: list[Ints] = []
    first = 0
    for last in np.searchsorted(intensity[order], edges[1:-1]):
        if last - first >= fewest and len(order) - last >= fewest:
            groups.append(order[first:last])
            first = int(last)
    groups.append(order[first:])
    return groups


def flattest(fits: Fits, share: float, fewest: int = 30, in_class: int = 40) -> list[Ints]:
    """The patches of each class whose fits have the least gradients: this share of them, but at least `fewest`.

    A class has at least `in_class` patches.
    """
    chosen = []
    for group in groups_of(fits.intensity, in_class):
        count = max(int(share * len(group)), min(len(group), fewest))
        chosen.append(group[np.argsort(fits.roughness[group], kind="stable")[:count]])
    return chosen


def classes_of(fits: Fits) -> Classes:
    """Variance of the noise in each class of intensity, and the typical intensity.

    The typical intensity is the mean over the patches, weighted by what they hold above the darkest class.
    """
    chosen = flattest(fits, FLAT)
    intensity = np.array([fits.intensity[group].mean() for group in chosen])
    variance = np.array([gaussian_variance(fits.scaled[group]) for group in chosen])
    error = np.array([np.sqrt(2 / fits.freedom[group].sum()) for group in chosen])
    voxels = np.array([fits.observed[group].sum(axis=1).mean() for group in chosen])
    span = float(np.ptp(fits.intensity))
    if span > 0:  # a billionth of the span, so that some weight is left where no patch is above the darkest class
        bright = np.maximum(fits.intensity - intensity[0], 0) / span + 1e-9
        typical = float(np.average(fits.intensity, weights=bright))
    else:
        typical = float(fits.intensity.mean())
    return Classes(intensity, variance, error, np.sqrt(variance / voxels), typical)


def gaussian_variance(values: Doubles) -> float:
    """Variance of the Gaussian in a mixture with a uniform distribution over the range (at most 40 steps of EM).

    The range is at least ten standard deviations either way: a narrower one would take part of the Gaussian. Where many
    residuals are 0, as on background that was set to one value, the Gaussian that is most likely is a spike on them;
    the variance is the robust one of all residuals then.

    >>> noise = np.random.default_rng(0).standard_normal(1000)
    >>> gaussian_variance(np.append(noise, np.zeros(800))) > 0.01
    True
    """
    squares = values[np.isfinite(values)] ** 2
    if squares.size == 0:
        return 0.0
    robust = variance = float(np.median(squares)) / MEDIAN_SQUARE
    if variance == 0:
        return float(squares.mean())
    reach = max(float(np.sqrt(squares.max())), 10 * np.sqrt(variance))
    share = 0.05
    for _ in range(40):
        bell = (1 - share) * np.exp(-squares / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        belongs = bell / (bell + share / (2 * reach))
        before, variance = variance, float(belongs @ squares / belongs.sum())
        if variance < SHRUNK * robust:
            return robust
        share = float(1 - belongs.mean())
        if abs(variance - before) <= SETTLED * before:
            break
    return variance


def without_small_outliers(sample: Sample, fits: Fits) -> Sample:
    """The sample without voxels 3.5 standard deviations of their class from a smooth fit.

    A Gaussian loses .5 % of its variance. In patches with edges the limit of ``noise_fits.cleaned`` is wide; here it is
    that of the flat patches.
    """
    classes = classes_of(fits)
    limit = 3.5 * np.sqrt(np.interp(fits.intensity, classes.intensity, classes.variance))
    observed = fits.observed & ~(np.abs(fits.scaled) > limit[:, None])
    values = np.where(observed, sample.values[fits.rows], 0.0)
    some = observed.any(axis=1)
    return sample._replace(values=values[some], observed=observed[some], corners=fits.corners[some])


def line_through(classes: Classes) -> tuple[float, float]:
    """Gain and offset through the classes; the gain is 0 unless it is more than chance and than :data:`TOLERATED`.

    The slope must be four of its standard errors, which contain the scatter of the classes, and must change the
    variance by a tenth from the darkest to the brightest class.
    """
    x, v = classes.intensity, classes.variance
    constant, _ = reweighted(np.ones((len(x), 1)), classes, 0.0)
    span = x[-1] - x[0]
    if len(x) < 3 or span <= 0:
        return 0.0, float(constant[0])
    design = np.stack([(x[-1] - x) / span, (x - x[0]) / span], axis=1)  # unknowns: the variances at both ends
    slope = np.polynomial.polynomial.polyfit(x, v, 1)[1]
    for _ in range(3):
        ends, covariance = reweighted(design, classes, slope)
        slope = (ends[1] - ends[0]) / span
    rise = ends[1] - ends[0]
    error = np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    if rise <= 4 * error or rise <= TOLERATED * max(ends[0], 0):
        return 0.0, float(constant[0])
    return float(slope), float(ends[0] - slope * x[0])


def line_of_counts(sample: Sample) -> tuple[float, float] | None:
    """Gain and offset of counted photons, ``step`` and ``-step lowest``, where this is the noise of the sample.

    Each photon raises a value by one step, and the lowest value is a count of none: so many voxels must be expected to
    have none. The variance must be that of photons, up to :data:`TOLERATED`, in the darker half of the classes and in
    the brighter one. It is a mean of squares, which the skewness of few counts does not bias.
    """
    if sample.step == 0 or sample.low is not None:
        return None
    step, lowest = sample.step, float(np.min(sample.values, where=sample.observed, initial=np.inf))
    count = sample.observed.sum(axis=1)
    photons = (sample.values.sum(axis=1) / count - lowest) / step
    if count @ np.exp(-photons) < ZEROS:
        return None
    pixels = sample.values.shape[1]
    # The median of few counts says that there is no noise, and most photons would be outliers.
    fits = fitted(cleaned(sample, step * np.sqrt(photons)[:, None])[0], pixels * 3 // 4)
    if len(fits.rows) == 0:
        return None
    chosen = [group for group in flattest(fits, FLAT) if (fits.intensity[group] > lowest).any()]
    for half in (chosen[: (len(chosen) + 1) // 2], chosen[len(chosen) // 2 :]):
        if not half:
            return None
        rows = np.concatenate(half)
        expected = step * (fits.intensity[rows] - lowest) @ np.sum(np.isfinite(fits.scaled[rows]), axis=1)
        if not abs(float(np.nansum(fits.scaled[rows] ** 2)) / expected - 1) <= TOLERATED:
            return None
    return step, 0.0 - step * lowest


def reweighted(design: Doubles, classes: Classes, slope: float) -> tuple[Doubles, Doubles]:
    """Coefficients of the line and their covariance: least squares, reweighted 20 times with Huber's weights.

    A class is off by its own error, by 3 % (texture differs), and by the slope times the error of its intensity.
    Huber's limit is 1.5 times the scatter found: a class that structure leaks into is an outlier here.
    """
    v = classes.variance
    line, robust, scatter = v, np.ones(len(v)), 1.0
    for _ in range(20):
        own = np.maximum(line, 0.5 * v.min()) * np.hypot(classes.error, 0.03)
        scale = np.maximum(np.hypot(own, slope * classes.blur), 1e-9 * v.max())
        weights = robust / scale**2
        inverse = np.linalg.pinv((design.T * weights) @ design)
        coefficients = inverse @ (design.T @ (weights * v))
        line = design @ coefficients
        distance = np.abs(v - line) / scale
        scatter = max(1.0, robust_sigma(distance))
        robust = np.minimum(1, 1.5 * scatter / np.maximum(distance, 1e-300))
    return coefficients, scatter**2 * inverse
