"""Stein's unbiased estimate of the squared error of a denoiser, without the truth.

For data ``y = v + sigma n`` with white Gaussian noise ``n``, and any estimate ``f(y)`` of ``v``,

    E |f - v|^2 = E [|f - y|^2 - N sigma^2 + 2 sigma^2 div f],        div f = E [b' (f(y + h b) - f(y)) / h],

where ``b`` is a random direction and ``h`` a small step. Both sums may be taken over some of the voxels only. If the
noise has the correlation ``C`` between voxels, ``tr(C df/dy)`` stands for the divergence, and ``b`` is drawn with that
correlation.

========  =====================================================================  =================
symbol    meaning                                                                shape
========  =====================================================================  =================
``y``     data; only measured voxels count                                       any
``f``     an estimate made of the data                                           as ``y``
``b``     random direction: entries of mean 0 and variance 1                     as ``y``
``h``     step, in the unit of the data                                          number
``a``     weights of ``m`` candidates, on the simplex                            ``(m,)``
========  =====================================================================  =================

The estimate of a mixture ``sum a_i f_i`` is a quadratic function of its weights, which has its minimum over the simplex
in closed form, face by face. One voxel's term is as uncertain as the noise is large: only sums over many voxels tell
anything, and an error law has few numbers for that reason.

References
----------
C. Stein, Estimation of the mean of a multivariate normal distribution, doi:10.1214/aos/1176345632. S. Ramani, T. Blu,
M. Unser, Monte-Carlo SURE, doi:10.1109/TIP.2008.2001404 (the divergence of a black box).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, interpolated, interpolation_at, namespace_of, within_mask
from .autocorrelation import WHITE, Autocorrelation, drawn
from .intensity_correction import Correction, correction
from .noise_terms import Noise

Floats = npt.NDArray[np.floating[Any]]
Interpolated = Callable[[Sequence[float]], Array]

TRIAL_VOXELS = 450_000
"""Voxels on which the divergence is measured; a larger volume is sampled by blocks."""

RIM = 3
"""Voxels at the border of a block that do not count, since they lack neighbours that they have in the volume."""

CLASSES, CLASS_VOXELS = 4, 30_000
"""Classes of local contrast with equal numbers of voxels, and the fewest voxels of each."""

TAIL, TAIL_VOXELS = 0.1, 300
"""Share of a class that a class of still higher contrast takes from it, and the fewest voxels of that one: what is rare
may be all that matters, and the mean over many other voxels does not speak for it."""

UNCERTAIN, GROUPS = 2.0, 16
"""Standard errors of the mean of what an estimate has of the noise: no less is believed. They are told by the means of
so many groups of voxels that lie together, since errors of neighbours are alike."""

PRIOR_VOXELS = 1000
"""Voxels of the class below for which its sums count in the weights of a small class."""


def random_direction(
    rng: np.random.Generator,
    measured: Array,
    law: Literal["normal", "signs"] = "normal",
    correlation: Autocorrelation = WHITE,
) -> Array:
    """``b``: float32 entries of mean 0 and variance 1 where ``measured`` is True, and 0 elsewhere.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws on the host.
    measured : bool array of any shape
        True = measured.
    law : {"normal", "signs"}
        Standard normal entries, or 1 and -1 with equal chances.
    correlation : Autocorrelation
        Of normal entries; signs are independent.
    """
    shape = tuple(measured.shape)
    if law == "signs":
        entries = rng.choice(np.array([-1, 1], np.float32), shape)
    else:
        entries = drawn(rng, shape, correlation)
    direction = from_host(entries, measured)
    return within_mask(direction, measured)


def divergence_terms(direction: Array, estimate: Array, moved: Array, step: float) -> Array:
    """Terms of the divergence, one a voxel: ``b (f(y + h b) - f(y)) / h``.

    Parameters
    ----------
    direction : array
        ``b``, from :func:`random_direction`.
    estimate, moved : arrays of the same shape
        ``f(y)`` and ``f(y + h b)``.
    step : float
        ``h``, in the unit of the data.

    Examples
    --------
    The divergence of ``f = y / 4`` is a quarter of the number of voxels:

    >>> b = random_direction(np.random.default_rng(0), np.ones((4, 5), bool), "signs")
    >>> round(float(divergence_terms(b, np.zeros((4, 5)), 0.1 * b / 4, 0.1).sum()), 3)
    5.0
    """
    return (moved - estimate) * direction / step


def squared_error_terms(misfit: Array, divergence: Array, sigma: float) -> Array:
    """Stein's estimate of the squared error, one term a voxel: ``(f - y)^2 - sigma^2 + 2 sigma^2 div``.

    Examples
    --------
    Data returned as they are have the error of the noise:

    >>> float(squared_error_terms(np.zeros(3), np.ones(3), 2.0).mean())
    4.0
    """
    return misfit**2 - sigma**2 + 2 * sigma**2 * divergence


class Trial(NamedTuple):
    """What is known of ``m`` candidates at ``n`` measured voxels, in float32 or float64 on the host."""

    values: Floats
    """``y``, shape ``(n,)``."""
    misfits: Floats
    """``f_i - y``, shape ``(m, n)``."""
    divergences: Floats
    """Terms of ``div f_i``, shape ``(m, n)``."""
    contrasts: Floats
    """Local contrast of the volume, shape ``(n,)``."""
    spreads: Floats
    """Disagreement of the candidates, shape ``(n,)``."""


class ErrorLaw(NamedTuple):
    """One class of local contrast: its weights, and its squared error ``least + slope min(spread, limit)^2``."""

    contrast: float
    """Median contrast of the class."""
    weights: Floats
    """``a``, shape ``(m,)``."""
    least: float
    slope: float
    limit: float


class Laws(NamedTuple):
    """How candidates are mixed, and how far the mixture is from the truth."""

    classes: list[ErrorLaw]
    """In ascending order of contrast; numbers in between are interpolated."""
    correction: Correction
    """Function of the mixture that is added to it."""

    @property
    def highest(self) -> float:
        """Contrast above which no class tells the error; it is taken to grow as the contrast does."""
        return self.classes[-1].contrast or 1.0

    def between(self, contrasts: Array) -> Interpolated:
        """A function that interpolates one number a class at these contrasts, in float32."""
        xp, last = namespace_of(contrasts), len(self.classes) - 1
        numbers = np.arange(last + 1)
        place = xp.astype(interpolated(contrasts, [law.contrast for law in self.classes], numbers), xp.float32)
        return interpolation_at(place, 0.0, float(last), last + 1)


def error_laws(trial: Trial, noise: Noise) -> Laws:
    """Weights of classes with equal numbers of sampled voxels, the correction of the mixture, and its error laws.

    Weights have the least squared error of the measured intensity, which changes with the last candidate where the
    values are stabilised.
    """
    order = np.argsort(trial.contrasts, kind="stable")
    parts = contrast_classes(order)
    last = trial.values + trial.misfits[-1]
    steep = noise.slope(last)
    level = steep**2 * noise.spread(last)
    del last
    classes: list[ErrorLaw] = []
    before: tuple[Any, Any] = (0.0, 0.0)
    for part in parts:
        misfits = trial.misfits[:, part] * steep[part]
        mean = misfits @ misfits.T / len(part), trial.divergences[:, part] @ level[part] / len(part)
        del misfits
        quadratic, linear = (len(part) * own + PRIOR_VOXELS * other for own, other in zip(mean, before, strict=True))
        weights, _ = simplex_weights(quadratic, linear)
        classes.append(ErrorLaw(float(np.median(trial.contrasts[part])), weights, 0.0, 0.0, 1.0))
        before = mean
    at = Laws(classes, Correction(np.zeros(1), np.zeros(1))).between(trial.contrasts)
    misfit, divergence = np.zeros((2, order.size))
    for number, (misfits, divergences) in enumerate(zip(trial.misfits, trial.divergences, strict=True)):
        share = at([law.weights[number] for law in classes])
        misfit += share * misfits
        divergence += share * divergences
    values, spreads = trial.values.astype(np.float64), trial.spreads
    del trial, misfits, divergences, steep, level  # they take more memory than all that follows
    estimate = values + misfit
    added = correction(estimate, misfit, divergence, noise)
    risks, passed_on = risk_terms(values, estimate + added(estimate), divergence * (1 + added.slope(estimate)), noise)
    for number, part in enumerate(parts):
        most = max(float(passed_on[part].mean()), UNCERTAIN * standard_error(passed_on[np.sort(part)]))
        least, slope, limit = error_law(risks[part], spreads[part].astype(np.float64), most)
        classes[number] = classes[number]._replace(least=least, slope=slope, limit=limit)
    return Laws(classes, added)


def contrast_classes(order: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """Classes of voxels that are sorted by their contrast: equal ones, of whose last the highest are split off again.

    >>> [len(part) for part in contrast_classes(np.arange(40_000))]
    [36000, 3600, 400]
    """
    *parts, last = np.array_split(order, max(1, min(CLASSES, len(order) // CLASS_VOXELS)))
    while (tail := int(TAIL * len(last))) >= TAIL_VOXELS:
        parts.append(last[:-tail])
        last = last[-tail:]
    return [*parts, last]


def risk_terms(values: Floats, estimate: Floats, divergence: Floats, noise: Noise) -> tuple[Floats, Floats]:
    """Terms of the squared error of an estimate, and of what it has of the noise, in the unit of the values.

    They are ``(F - x)^2 - var(x) + 2 c F'`` and ``c F'``, with ``F`` the intensity that the estimate means. Without
    counts of photons they are :func:`squared_error_terms` and ``sigma^2 f'``.
    """
    if not noise.counts:
        return squared_error_terms(estimate - values, divergence, noise.sigma), noise.sigma**2 * divergence
    measured, slope = noise.measured(values), noise.slope(estimate)
    passed_on = noise.factor(values) * divergence / slope
    misfit = (noise.expected(estimate) - measured) / slope
    return misfit**2 - noise.variance(measured) / slope**2 + 2 * passed_on, passed_on


def standard_error(terms: Floats) -> float:
    """Standard error of the mean of terms whose neighbours are alike; as large as the term if there is only one.

    >>> terms = np.repeat(np.random.default_rng(0).standard_normal(64), 100)
    >>> round(standard_error(terms), 2), round(float(np.std(terms)) / 80, 2)
    (0.13, 0.01)
    """
    if len(terms) < 2:
        return float(np.abs(terms).sum())
    means = [float(group.mean()) for group in np.array_split(terms, min(GROUPS, len(terms)))]
    return float(np.std(means, ddof=1)) / math.sqrt(len(means))


def error_law(risks: Floats, spreads: Floats, most: float) -> tuple[float, float, float]:
    """The risk as a function of the spread, ``a + b min(spread, limit)^2`` by least squares: ``a, b, limit``.

    Neither ``a`` nor ``b`` is negative, and the spread counts up to where its highest thousandth begins. The mean is
    held between 65 % and all of ``most``, the variance of the noise times the mean divergence. Where the weights have a
    minimum inside the simplex the two are equal, and an error of 1 % in ``sigma`` would move the mean of the risks by
    2 % of the noise. The mean of few risks is too uncertain for that: it is ``most``.
    """
    limit = float(np.quantile(spreads, 0.999)) or 1.0
    shape = np.minimum(spreads / limit, 1.0) ** 2
    b, a = np.polyfit(shape, risks, 1) if shape.std() > 1e-6 else (0.0, 1.0)
    if b < 0 or a + b * float(shape.mean()) <= 0:
        a, b = 1.0, 0.0
    a = max(a, 0.05 * (a + b * float(shape.mean())))
    least = 0.65 * most if len(risks) >= CLASS_VOXELS // 2 else most
    overall = min(max(float(risks.mean()), least), most)
    scale = overall / (a + b * float(shape.mean()))
    return float(scale * a), float(scale * b) / limit**2, limit


def simplex_weights(quadratic: Floats, linear: Floats) -> tuple[Floats, float]:
    """Minimum of ``a' Q a + 2 l' a`` over the simplex: the best of the solutions on its faces."""
    size = len(linear)
    scale = max(float(np.abs(np.diag(quadratic)).max()), float(np.abs(linear).max()), 1e-300)
    quadratic, linear = quadratic / scale, linear / scale  # as large as the ones of the constraint
    system, right = np.ones((size + 1, size + 1)), np.append(-linear, 1.0)
    system[:size, :size], system[size, size] = quadratic, 0.0
    best, least = np.eye(size)[0], math.inf
    for count in range(1, size + 1):
        for face in itertools.combinations(range(size), count):
            chosen = list(face)
            rows = np.array([*face, size])
            solved = np.linalg.lstsq(system[rows[:, None], rows], right[rows], rcond=None)[0][:count]
            if solved.min() < -1e-9:
                continue
            weights = np.zeros(size)
            weights[chosen] = np.clip(solved, 0, None) / np.clip(solved, 0, None).sum()
            risk = float(weights @ quadratic @ weights + 2 * linear @ weights)
            if risk < least:
                best, least = weights, risk
    return best, scale * least


def sample_blocks(shape: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Blocks spread evenly over a volume, ``TRIAL_VOXELS`` altogether, each with its inside without the rim.

    A small volume is one block. Sides of less than 40 voxels are taken whole, and two blocks lie along each other side.
    """
    if math.prod(shape) <= TRIAL_VOXELS:
        yield tuple(slice(0, size) for size in shape), tuple(slice(0, size) for size in shape)
        return
    whole = [size < 40 for size in shape]
    cut = len(shape) - sum(whole)
    count = 2**cut
    free = TRIAL_VOXELS / count / math.prod(size for size, all_of_it in zip(shape, whole, strict=True) if all_of_it)
    side = max(16, round(free ** (1 / max(1, cut))))
    ranges = []
    for size, all_of_it in zip(shape, whole, strict=True):
        length = size if all_of_it else min(side, size // 2)
        centres = [size / 2] if all_of_it else [size / 4, 3 * size / 4]
        ranges.append([slice(round(c - length / 2), round(c - length / 2) + length) for c in centres])
    for block in itertools.product(*ranges):
        lengths = [part.stop - part.start for part in block]
        inner = tuple(
            slice(0, n) if all_of_it else slice(RIM, n - RIM) for n, all_of_it in zip(lengths, whole, strict=True)
        )
        yield block, inner
