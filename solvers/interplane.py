"""Planes between measured planes: best linear prediction along z, one lateral frequency band at a time.

Linear interpolation treats all detail alike, but detail in a stack differs: coarse structure passes through several
planes, fine structure is gone at the next one, and the mean of two unrelated planes is a worse estimate of the fine
structure between them than its shrunken mean. How fast each lateral frequency decays along z is measured on the planes
themselves; simple kriging (Wiener prediction) with that correlation then gives the weights. Nothing is trained: all
that depends on the data comes from the stack itself, at a cost of a few cosine transforms a plane. The fixed choices
(roots, a third of the mean, neighbours, nugget, pchip beneath, root of the slope, share of the noise) were compared on
real volumes of which every plane was measured, so figures on those volumes are somewhat too good.

Symbols:

=======  ==============================================================  =================
letter   meaning                                                         shape
=======  ==============================================================  =================
`x`      measured planes, in the caller's unit                           (m, Y, X)
`y`      roots ``sqrt(x - floor + offset)``, see below                   (m, Y, X)
`D`      orthonormal cosine transform of each plane of `y`               (m, Y, X)
`H`      radial bands, half an octave each, a partition of unity         (J, Y X)
`rho_j`  correlation of band `j` along z                                 function of z
=======  ==============================================================  =================

1. `y` replaces `x`, since light is counted (its noise grows with the root) and brightness differs by factors between
   structures: roots are closer to Gaussian, and a few bright spots do not decide the correlation of everything else.
2. ``rho_j(t) = c exp(-h t^2) + (1 - c) exp(-g t^2)``: a Gaussian, as every blurred image has it at small distances, and
   a wider one for larger structures. It passes through the measured values of planes one and two gaps apart and, where
   there are such, near that of planes four gaps apart; values below one gap, where nothing was measured, follow from
   it. A correlation at one gap that cannot be told from 0 is taken as the largest that cannot: detail that has nothing
   in common one gap apart still has some half a gap apart, and 0 would lose against linear interpolation where it is
   blurred, while the largest loses little where it is not.
3. Weights of the nearest planes: ``w = (R + q I)^-1 r`` with ``R = rho_j(z_k - z_l)``, ``r = rho_j(z_k - z)``, and
   `q` the ratio of noise to signal in the band; noise that cannot be told from structure is taken for structure. The
   trend, structure that has at most one period a side, is kriged about a mean that is not known: the weights of
   each of its planes sum to one (ordinary kriging).
4. The result is ``pchip + weight (kriged - pchip)``. The weight is judged on the measured planes: every second plane
   is left out and predicted in the same way at twice the gap. The slope `b` of the true on the predicted correction is
   the weight there; before it is measured it is expected to be 1 +- .5, and the two are averaged by their precision. At
   the gap itself the slope cannot be measured; the geometric mean of one, its value at no gap, and `b` is taken:
   ``sqrt(b)``.
5. What moves sideways from plane to plane is followed along its optical flow, as far as the left-out planes support it
   (:mod:`tensorcell.solvers.plane_flow`).
6. What left-out planes show and none of their neighbours does widens the intervals around it
   (:mod:`tensorcell.solvers.plane_surprises`).

References
----------
N. Cressie, The origins of kriging, Mathematical Geology 22 (1990) 239-252, doi:10.1007/BF00889887. N. Wiener,
Extrapolation, Interpolation, and Smoothing of Stationary Time Series, MIT Press, 1949.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, as_double, as_float, from_host, namespace_of, to_host
from .calibration import Calibration, calibrated, neighbours_mean
from .interpolation import pchip
from .kriging import KrigedPlane, kriged
from .left_out_planes import LeftOut, at_gap, every_second
from .noise import NoiseModel
from .plane_errors import Between, between_two, power_of_variogram, repeated
from .plane_flow import MOST, SMALLEST_SIDE, FlowLaw, MovingPlanes, Proposal, flow_law
from .plane_surprises import Surprises, surprise
from .positions import rounded, snapped

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

FEWEST_PLANES = 5
"""Fewer measured planes than this do not determine the correlation along z: pchip interpolates between them."""

CONFIDENCE = 0.95
"""Probability that the weight of the correction is not too large."""

UNSURE = 0.5
"""Standard deviation of the weight that kriging is expected to deserve before it was judged; its mean is one."""

MOST_WIDTHS = 4
"""Widths of gaps that are judged by themselves."""

SAMPLE = 1 << 15
"""Voxels of all left-out planes together that calibrate the errors."""

LEAST_VARIANCE = 0.01
"""Smallest predicted variance, as a share of its mean at left-out planes: two measured planes that are alike do not
prove that the plane between them is like them."""


@dataclass(frozen=True)
class PlaneFill:
    """A stack with its missing planes filled.

    Attributes
    ----------
    volume
        Array (planes, Y, X); where a plane was measured at its very position, that plane bit for bit.
    error
        Predicted standard deviation of `volume`, array (planes, Y, X), in its unit; zero at measured planes.
    measured
        Bool (planes,), host: True = measured.
    weight
        Share of the kriged planes in [0, 1]; the rest is pchip interpolation. NaN if nothing was kriged.
    slope, slope_error
        Slope of the true on the predicted correction at left-out measured planes and its jackknife standard error.
    sentence
        What was blended, and how it was judged.
    """

    volume: Array
    error: Array
    measured: npt.NDArray[np.bool_]
    weight: float
    slope: float
    slope_error: float
    sentence: str


def fill_planes(
    stack: Array,
    grid: npt.ArrayLike,
    planes: int,
    *,
    noise: float | NoiseModel = 0.0,
    each_gap: bool = False,
) -> PlaneFill:
    """Planes ``0 .. planes - 1`` of a volume of which the planes at `grid` are measured.

    Parameters
    ----------
    stack : array (m, Y, X)
        Measured planes, finite. NumPy or CuPy: planes are computed where they lie. Correlations, weights, calibrations
        and the optical flow of small planes are found on the host.
    grid : array_like (m,)
        Their positions, strictly increasing, in output planes; gaps may differ. A plane whose position is no whole
        number (to within a millionth) is none of the volume, which is predicted from it.
    planes : int
        Number of planes wanted. Planes beyond the first and last measured one repeat it.
    noise : float or NoiseModel
        Standard deviation of the noise in `stack`, in its unit, or a model of its variance; filled planes are estimates
        without it. A model that cannot tell noise from structure (:attr:`NoiseModel.told_apart`) enters the error and
        the trend alone, and filled planes keep what may be structure.
    each_gap : bool
        True: gaps of each width are judged by themselves, at left-out measured planes that lie as far apart (up to four
        widths). It is meant for stacks of which most planes were measured. False: all by every second plane.

    Returns
    -------
    PlaneFill
        ``volume`` and ``error`` have the library and float dtype of `stack` (integers: float64).

    Raises
    ------
    ValueError
        If shapes disagree, positions do not increase, a value is not finite or `noise` is negative.

    Notes
    -----
    Time: one cosine transform a measured plane and one a filled plane, twice over for the left-out planes.
    Memory: the volume, the error, and some three times the stack.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.ndimage import gaussian_filter
    >>> truth = gaussian_filter(np.random.default_rng(0).standard_normal((65, 48, 48)), 2.0)
    >>> filled = fill_planes(truth[::2], range(0, 65, 2), 65)
    >>> linear = (truth[:-2:2] + truth[2::2]) / 2
    >>> bool(np.square(filled.volume - truth)[1::2].mean() < 0.2 * np.square(linear - truth[1::2]).mean())
    True
    """
    xp = namespace_of(stack)
    if stack.ndim != 3 or min(stack.shape) < 1:
        raise ValueError(f"stack must have three axes (z, y, x) and be not empty, got shape {tuple(stack.shape)}")
    positions = snapped(grid)
    if positions.shape != (stack.shape[0],):
        raise ValueError(f"grid must hold one position a plane, {stack.shape[0]}, got shape {positions.shape}")
    if not np.all(np.diff(positions) > 0):
        raise ValueError("grid must increase from plane to plane, got positions that do not")
    if planes < 1:
        raise ValueError(f"planes must be at least 1, got {planes}")
    model = NoiseModel.of(noise)
    values = as_float(stack)
    if not bool(xp.all(xp.isfinite(values))):
        raise ValueError("stack must be finite, got NaN or infinity")

    targets = np.arange(planes, dtype=np.float64)
    place = np.clip(np.searchsorted(positions, targets), 0, len(positions) - 1)
    measured = positions[place] == targets
    inside = ~measured & (targets > positions[0]) & (targets < positions[-1])

    volume = xp.take(values, from_host(place, values), axis=0)
    error = xp.zeros_like(volume)
    filled = np.flatnonzero(inside)
    blend = None
    for left_out, chosen in _groups(positions, filled, each_gap):
        blend = _judge(values, positions, model, left_out)
        new = _filled(values, positions, targets[chosen], model, blend)
        for n, (plane, deviation) in zip(chosen, new, strict=True):
            volume[n], error[n] = plane, deviation
    assert blend is not None
    beyond = np.flatnonzero(~measured & ~inside)
    if beyond.size:
        distances = np.abs(targets - positions[place])
        law = repeated(values, positions, model, float(distances[beyond].max()))
        for n in beyond:
            error[n] = law(values[place[n]], float(distances[n]))
    return PlaneFill(volume, error, measured, blend.weight, blend.slope, blend.slope_error, blend.sentence)


class PlaneLaw(NamedTuple):
    """Standard deviations of the error of a filled plane from its predicted variance."""

    factors: Calibration
    least: float = 0.0
    """Smallest predicted variance."""

    def __call__(self, value: Array, variance: Array) -> Array:
        """The standard deviations, for the estimated plane and its predicted variance."""
        xp = namespace_of(value)
        return self.factors(value, xp.sqrt(xp.maximum(variance, self.least)))


class _Blend(NamedTuple):
    """How kriged and pchip planes are mixed, and the factors of the predicted errors."""

    weight: float
    slope: float
    slope_error: float
    law: PlaneLaw
    sentence: str
    flow: FlowLaw | None = None
    surprises: Surprises | None = None


def _groups(positions: Doubles, filled: Indices, each_gap: bool) -> Iterator[tuple[LeftOut, Indices]]:
    """The planes to fill in groups that are judged together, narrow gaps first, and the planes left out for that."""
    if not each_gap or not filled.size or len(positions) < FEWEST_PLANES:
        yield every_second(len(positions)), filled
        return
    upper = np.searchsorted(positions, filled)
    gap = rounded(positions[upper] - positions[upper - 1])
    widths = np.unique(gap)
    judged = np.unique(widths[np.linspace(0, len(widths) - 1, MOST_WIDTHS).astype(int)])
    nearest = judged[np.searchsorted(judged, gap)]  # a width that is not judged itself is judged as the next larger one
    for width in judged:
        yield at_gap(positions, width), filled[nearest == width]


def _filled(
    values: Array, positions: Doubles, targets: Doubles, noise: NoiseModel, blend: _Blend
) -> Iterator[tuple[Array, Array]]:
    """Blended planes at targets strictly inside the measured range, and their standard deviations, one by one."""
    simple = pchip(values, positions, targets)
    if np.isnan(blend.weight):
        power = power_of_variogram(values, positions, noise)
        for target, base in zip(targets, simple, strict=True):
            yield base, _error(between_two(values, positions, target, noise, power), base, blend)
        return
    moving = MovingPlanes(values, positions)
    for target, base, plane in zip(targets, simple, kriged(values, positions, targets, noise), strict=True):
        value = base + blend.weight * (plane.value - base)
        if blend.flow is not None:
            value += blend.flow.correction(value, moving.at(target), plane.left)
        error = _error(plane, value, blend)
        if blend.surprises is not None:
            error = namespace_of(error).maximum(error, blend.surprises.least_error(target, float(plane.left.sum())))
        yield value, error


def _error(predicted: KrigedPlane | Between, value: Array, blend: _Blend) -> Array:
    """Standard deviation of the error of a filled plane: the calibrated prediction, and the noise passed on."""
    xp = namespace_of(value)
    return xp.sqrt(xp.square(blend.law(value, predicted.variance)) + predicted.passed)


class _LeftOutPlane(NamedTuple):
    """A left-out plane and its predictions."""

    fold: int
    position: float
    base: Array
    """Interpolated by pchip."""
    kriged: KrigedPlane
    truth: Array
    """The measured plane."""


def _left_out_planes(
    values: Array, positions: Doubles, noise: NoiseModel, folds: Sequence[tuple[Indices, Indices]]
) -> Iterator[_LeftOutPlane]:
    """All planes of the folds, one by one."""
    for n, (used, out) in enumerate(folds):
        planes = _planes(values, used)
        predicted = kriged(planes, positions[used], positions[out], noise)
        simple = pchip(planes, positions[used], positions[out])
        for place, base, plane in zip(out, simple, predicted, strict=True):
            yield _LeftOutPlane(n, float(positions[place]), base, plane, values[int(place)])


def _planes(values: Array, used: Indices) -> Array:
    """The planes of these indices."""
    return namespace_of(values).take(values, from_host(used, values), axis=0)


def _judge(values: Array, positions: Doubles, noise: NoiseModel, left_out: LeftOut) -> _Blend:
    """How planes are predicted and how far they err, judged at measured planes left out."""
    if len(positions) < FEWEST_PLANES:
        sentence = f"pchip interpolation: {len(positions)} measured planes, kriging along z needs {FEWEST_PLANES}"
        return _Blend(np.nan, np.nan, np.nan, _judge_few(values, positions, noise), sentence)
    blend, flowed = _weighed(values, positions, noise, left_out)
    found = _surprises(values, positions, noise, left_out, blend, flowed)
    if not found.planes:
        return blend
    sentence = (
        f"{blend.sentence}; {100 * found.share:.2g} % of the pixels of these planes stood out of their prediction, and "
        "intervals between planes reach at least as far there"
    )
    return blend._replace(sentence=sentence, surprises=found)


def _weighed(
    values: Array, positions: Doubles, noise: NoiseModel, left_out: LeftOut
) -> tuple[_Blend, dict[tuple[int, float], Array]]:
    """Weights of the kriged planes and of their correction along the flow, and the law of their errors.

    What was found along the flow is returned, too, by fold and position of the left-out plane.

    With ``d = kriged - pchip`` and ``e = measured - pchip`` at each left-out plane, the weight of least squares is the
    slope ``sum <d, e> / sum <d, d>``, which is averaged with what is expected of it (`deserved`). Where planes were
    left out at the gap itself, that is the weight. Else it is that of twice the gap, and the weight of no gap is one;
    the geometric mean of the two is used at the gap itself.
    """
    xp = namespace_of(values)
    sums, samples, some = [], [], []
    count = sum(len(out) for _, out in left_out.folds)
    moved = set(np.linspace(0, count - 1, MOST).astype(int).tolist())  # planes that judge the flow
    places = from_host(spread_out_places(values[0].size, SAMPLE // count), values)
    for n, one in enumerate(_left_out_planes(values, positions, noise, left_out.folds)):
        change, truth = one.kriged.value - one.base, one.truth - one.base
        sums.append(xp.stack([xp.sum(part, dtype=xp.float64) for part in (change * truth, change * change)]))
        samples.append(_sampled(one.kriged, one.base, change, truth, noise, places))
        if n in moved:
            some.append(one)
    products, squares = to_host(xp.stack(sums)).T
    slope, slope_error, _ = judged_slope(products, squares)
    weight = deserved(slope, slope_error)
    if not left_out.same_gap:
        weight = float(np.sqrt(weight))
    sentence = (
        f"{weight:.0%} kriging by lateral frequency and {1 - weight:.0%} pchip interpolation ({len(sums)} left-out "
        f"planes: slope of the true on the predicted correction {slope:.2f} +- {slope_error:.2f})"
    )
    proposals = _proposals(values, positions, left_out, some, weight)
    flow, share = flow_law(proposals), weight
    if flow is not None:
        places, share = from_host(spread_out_places(values[0].size, SAMPLE // len(some)), values), 0.0
        samples = []
        for one, proposal in zip(some, proposals, strict=True):
            value = proposal.value + flow.correction(proposal.value, proposal.flowed, flow.left)
            samples.append(_sampled(one.kriged, value, xp.zeros_like(value), one.truth - value, noise, places))
        sentence += (
            "; structure was followed sideways from plane to plane (optical flow) by up to "
            f"{flow.weights.max():.0%} of its correction"
        )
    base, change, truth, near_change, near_truth, variance, noisy = to_host(xp.concat(samples, axis=1))
    errors = share * change - truth
    structure = errors * (share * near_change - near_truth)
    law = _scale(base + share * change, errors, variance, noisy, structure, same_gap=left_out.same_gap)
    flowed = {(one.fold, one.position): proposal.flowed for one, proposal in zip(some, proposals, strict=False)}
    return _Blend(weight, slope, slope_error, law, sentence, flow), flowed


def _surprises(
    values: Array,
    positions: Doubles,
    noise: NoiseModel,
    left_out: LeftOut,
    blend: _Blend,
    flowed: Mapping[tuple[int, float], Array],
) -> Surprises:
    """Where left-out planes stand out of their prediction; the flow is only followed in planes that do without it."""
    moving = [MovingPlanes(_planes(values, used), positions[used]) for used, _ in left_out.folds]
    planes: dict[int, Array] = {}
    energies = []
    for one in _left_out_planes(values, positions, noise, left_out.folds):
        energies.append(float(one.kriged.left.sum()))
        value = one.base + blend.weight * (one.kriged.value - one.base)
        height = _surprise(one, value, noise, blend)
        if height is not None and blend.flow is not None:
            place = one.fold, one.position
            carried = flowed[place] if place in flowed else moving[one.fold].at(one.position)
            value = value + blend.flow.correction(value, carried, blend.flow.left)
            height = _surprise(one, value, noise, blend)
        if height is not None:
            index = int(np.searchsorted(positions, one.position))
            planes[index] = namespace_of(height).maximum(height, planes[index]) if index in planes else height
    return Surprises(planes, positions, float(np.mean(energies)))


def _surprise(one: _LeftOutPlane, value: Array, noise: NoiseModel, blend: _Blend) -> Array | None:
    """Where a left-out plane stands out of this prediction."""
    xp = namespace_of(value)
    expected = xp.square(_error(one.kriged, value, blend)) + noise.variance(value)
    return surprise(value - one.truth, xp.sqrt(expected))


def _proposals(
    values: Array, positions: Doubles, left_out: LeftOut, planes: Sequence[_LeftOutPlane], weight: float
) -> list[Proposal]:
    """The left-out planes with what is found along the flow; none where planes are too small to have one."""
    if min(values.shape[1:]) < SMALLEST_SIDE:
        return []
    moving = [MovingPlanes(_planes(values, used), positions[used]) for used, _ in left_out.folds]
    found = []
    for one in planes:
        value = one.base + weight * (one.kriged.value - one.base)
        found.append(Proposal(value, one.kriged.left, moving[one.fold].at(one.position), one.truth))
    return found


def deserved(slope: float, error: float) -> float:
    """Weight of a correction that is expected to deserve 1, give or take `UNSURE`, and was measured to deserve `slope`.

    >>> round(deserved(0.2, 0.0), 9), deserved(0.0, UNSURE), deserved(0.0, np.inf)
    (0.2, 0.5, 1.0)
    """
    before, measured = 1 / UNSURE**2, 1 / max(error, 1e-9) ** 2
    return float(np.clip((before + slope * measured) / (before + measured), 0, 1))


def judged_slope(products: Doubles, squares: Doubles) -> tuple[float, float, float]:
    """Slope of a true on a predicted correction, its jackknife error, and the weight that the correction deserves.

    Parameters
    ----------
    products, squares : float arrays (n,)
        ``<d, e>`` and ``<d, d>`` of each left-out plane, for corrections ``d`` predicted and ``e`` true.

    Returns
    -------
    (slope, error, weight)
        ``sum <d, e> / sum <d, d>``; its standard error over planes; the lower end of its one-sided 95 % confidence
        interval (Student's t), between 0 and 1; the weight of a single plane is 0.

    Examples
    --------
    >>> slope, error, weight = judged_slope(np.array([2.0, 2.0, 2.0]), np.array([4.0, 4.0, 4.0]))
    >>> slope, error, weight
    (0.5, 0.0, 0.5)
    """
    from scipy.special import stdtrit

    slope = _ratio(products.sum(), squares.sum())
    without = np.array([_ratio(products.sum() - c, squares.sum() - p) for c, p in zip(products, squares, strict=True)])
    count = len(products)
    error = float(np.sqrt((count - 1) * np.mean(np.square(without - without.mean()))))
    margin = float(stdtrit(count - 1, CONFIDENCE)) * error if count > 1 else np.inf
    return slope, error, min(max(slope - margin, 0.0), 1.0)


def _judge_few(values: Array, positions: Doubles, noise: NoiseModel) -> PlaneLaw:
    """Calibration of the predicted errors of interpolation between few planes.

    Every plane between two others is left out in turn. Of two planes none can be: their prediction is taken as it is.
    """
    xp = namespace_of(values)
    samples = []
    power = power_of_variogram(values, positions, noise)
    count = len(positions)
    places = from_host(spread_out_places(values[0].size, SAMPLE // count), values)
    for n in range(1, count - 1):
        others = np.delete(np.arange(count), n)
        planes = _planes(values, others)
        (base,) = pchip(planes, positions[others], positions[n : n + 1])
        plane = between_two(planes, positions[others], positions[n], noise, power)
        samples.append(_sampled(plane, base, xp.zeros_like(base), values[n] - base, noise, places))
    if not samples:
        return PlaneLaw(Calibration.constant(1.0))
    base, _, truth, _, near_truth, variance, noisy = to_host(xp.concat(samples, axis=1))
    return _scale(base, -truth, variance, noisy, truth * near_truth)


def _sampled(
    plane: KrigedPlane | Between, base: Array, change: Array, truth: Array, noise: NoiseModel, places: Array
) -> Array:  # fmt: skip
    """Voxels of a left-out plane, in rows: pchip, predicted and true correction, the means of these two over
    neighbours, predicted variance, and variance from noise; in double precision."""
    xp = namespace_of(base)
    noisy = plane.passed + noise.variance(base)
    rows = (base, change, truth, neighbours_mean(change), neighbours_mean(truth), plane.variance, noisy)
    return xp.stack([as_double(xp.take(xp.reshape(row, (-1,)), places)) for row in rows])


def spread_out_places(size: int, count: int) -> Indices:
    """That many of `size` places, spread evenly; all where there are no more, and at least 512.

    Their distances follow the golden ratio, since steps of one length would meet the same columns in every row.
    """
    count = max(count, 512)
    if count >= size:
        return np.arange(size)
    return np.unique((np.arange(count) * (math.sqrt(5) - 1) / 2 % 1 * size).astype(np.intp))


def _scale(
    value: Doubles,
    errors: Doubles,
    variance: Doubles,
    noise: Doubles,
    structure: Doubles,
    *,
    same_gap: bool = False,
) -> PlaneLaw:
    """Factors with which the predicted intervals cover nine in ten left-out voxels.

    ``errors`` are those at left-out voxels, of which ``noise`` is expected from noise alone; ``structure`` are products
    with the errors of neighbours; the factors depend on the estimate ``value``. Unless they were found at the gap
    itself, they were found at twice the gap, and at no gap the prediction needs none. At the gap itself the geometric
    mean of one and the factor is taken where errors were smaller than predicted, as for the weight of the kriged
    planes. Where they were larger, the factor is taken as it is: on ten volumes of which every plane was measured
    (gaps of 2 to 4 planes) that covered .90 of the voxels and .84 of the brightest tenth, the root .87 and .75.
    """
    least = LEAST_VARIANCE * float(np.mean(variance))
    if not least > 0:
        return PlaneLaw(Calibration.constant(1.0))
    found = calibrated(errors, noise, np.sqrt(np.maximum(variance, least)), value, structure)
    if not same_gap:
        found = found._replace(squares=np.maximum(found.squares, np.sqrt(found.squares)))
    return PlaneLaw(found, least)


def _ratio(above: float, below: float) -> float:
    """The quotient, and 0 where the divisor is 0."""
    return float(above / below) if below > 0 else 0.0
