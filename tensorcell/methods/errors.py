"""Standard deviations of the error of a method's estimate, with notes where little or nothing tells them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.methods.protocol import Gaps, Problem
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.arrays import from_host, namespace_of
from tensorcell.solvers.calibration import Calibration
from tensorcell.solvers.neighbour_errors import NeighbourErrors, neighbour_errors
from tensorcell.solvers.residual_kriging import NeighbourEstimate
from tensorcell.solvers.slabs import in_parts

Array = npt.NDArray[Any]
GapError = Callable[[slice], Array]
"""The standard deviation of the error in gaps, on a range of planes."""

SLAB_VOXELS = 1 << 18
"""Voxels whose errors are computed at a time: temporary arrays of them, in double precision, are small."""

NOTHING_TOLD = (
    "uncertainty: too few measured voxels tell the error of the estimate; it is the standard deviation of the measured "
    "intensities, {:.4g}"
)

NOISE_NOT_MEASURED = (
    "uncertainty: the noise could not be measured; at measured voxels the uncertainty is the error with which their "
    "neighbours predict them, an upper bound"
)


NO_NOISE_FOUND = (
    "uncertainty: no noise was found in the measured voxels, which is why it is 0 there; give noise= where you know it"
)


OwnErrors = tuple[NeighbourErrors, tuple[str, ...]]
"""The errors of the global estimate, and what is to be said of them."""


class Errors(NamedTuple):
    """Standard deviations, shaped like the stack, and what is to be said of them."""

    value: Array
    notes: tuple[str, ...]


def errors_of(
    problem: Problem,
    start: NeighbourEstimate | None,
    value: Array,
    *,
    gap: GapError | None = None,
    denoised: Array | None = None,
    own: OwnErrors | None = None,
) -> Errors:
    """Errors of an estimate at measured voxels and in gaps; an outlier is a gap.

    Parameters
    ----------
    problem : Problem
    start : NeighbourEstimate or None
        The global estimate, which gives the errors that are not given here; None where all voxels were denoised,
        or ``own`` is given.
    value : array ``(K, Y, X)``
        The estimate.
    gap : callable, optional
        Errors in gaps, where left-out voxels told them.
    denoised : array ``(K, Y, X)``, optional
        Errors at denoised voxels.
    own : pair of NeighbourErrors and notes, optional
        What :func:`own_errors` returns.
    """
    noise, inlier, has_gaps = problem.model.noise, problem.model.inlier, problem.has_gaps
    notes: tuple[str, ...] = ()
    if denoised is not None and gap is None and not has_gaps:
        return Errors(np.asarray(denoised, dtype=problem.stack.values.dtype), notes)
    from_noise = denoised is None and not noise.unmeasurable and problem.keep
    if (denoised is None and not from_noise) or (has_gaps and gap is None):
        if own is None:
            assert start is not None
            own = own_errors_once(problem, start)
        found, notes = own
    if denoised is None and noise.unmeasurable:
        notes = (*notes, NOISE_NOT_MEASURED)
    elif denoised is None and noise.sigma == 0 and problem.noise is None:
        notes = (*notes, NO_NOISE_FOUND)
    intensity = value if start is None else start.intensity
    error = np.empty(value.shape, problem.stack.values.dtype)

    def fill(planes: slice) -> None:
        if denoised is not None:
            here = denoised[planes]
        elif noise.unmeasurable:
            here = found.gap(intensity[planes])
        elif not problem.keep:
            here = found.denoised(value[planes])
        else:
            level = light_around(problem.stack.values[planes], inlier[planes], intensity[planes], noise)
            here = np.sqrt(noise.variance(level))
        if denoised is not None and gap is not None:
            here = np.maximum(here, with_own_measurement(gap(planes), noise.variance(value[planes])))
        if has_gaps:
            here = np.where(inlier[planes], here, found.gap(value[planes]) if gap is None else gap(planes))
        error[planes] = here

    in_parts(fill, value, SLAB_VOXELS)
    return Errors(error, notes)


def light_around(values: Array, inlier: Array, intensity: Array, noise: NoiseModel) -> Array:
    """The intensity that tells the noise of measured voxels: the global estimate, and the light that it lacks there.

    The model is too dark where structure is too rare for it. A voxel's own value would make its noise small where it
    happens to be low: so the residual is averaged over 3 x 3 measured pixels, and counts where it is positive.
    """
    from scipy.ndimage import uniform_filter

    if noise.gain == 0:
        return intensity
    lacking = np.where(inlier, values - intensity, 0)
    share = uniform_filter(inlier.astype(lacking.dtype), (0, 3, 3))
    mean = uniform_filter(lacking, (0, 3, 3)) / np.maximum(share, 1 / 9)
    return np.asarray(intensity + np.maximum(mean, 0), intensity.dtype)


def with_own_measurement(error: Array, variance: Array) -> Array:
    """The error of the best mean of an estimate from other voxels and the voxel's own measurement, both unbiased.

    Denoising hardly does better: the errors in gaps say how far the other voxels are from telling what a voxel holds,
    while Stein's estimate takes the estimates that fill the gaps around for measurements.

    >>> float(with_own_measurement(np.array(3.0), np.array(16.0)))
    2.4
    """
    square = np.square(error)
    product = np.divide(square * variance, square + variance, out=np.zeros_like(square), where=square > 0)
    return np.asarray(np.sqrt(product))


def own_errors_once(problem: Problem, start: NeighbourEstimate) -> OwnErrors:
    """The same as :func:`own_errors`, once for all parts of a stack."""
    return problem.settled.once("errors beside measured voxels", lambda: own_errors(problem, start))


def own_errors(problem: Problem, start: NeighbourEstimate) -> OwnErrors:
    """The errors of the global estimate, or the spread of the data and a note where too few voxels tell them."""
    stack, model = problem.stack, problem.model
    found = neighbour_errors(stack.values, model.inlier, model.fit, start, model.noise, problem.fitting.seed)
    measured = stack.values[stack.mask]
    spread = float(np.std(measured, dtype=np.float64))
    if found is None:
        constant = Calibration.constant(spread)
        return NeighbourErrors(constant, constant), (NOTHING_TOLD.format(spread),)
    rounding = float(np.finfo(np.float32).eps) * float(np.max(np.abs(measured)))
    if np.sqrt(found.gap.squares.max()) <= rounding:  # as in `GlobalTrial.least`: one in so many may err by the spread
        return found._replace(gap=found.gap.bounded(spread / math.sqrt(measured.size))), ()
    return found, ()


def carried_on(gaps: Gaps) -> Array:
    """Squared error ``(planes, Y, X)`` (or one 0) that estimated voxels of measured planes carry into the others.

    Errors of neighbouring planes are alike, so that they do not average out: the squares are interpolated along z. Kept
    voxels carry their noise, of which the filling of the planes takes account.
    """
    square = np.square(gaps.estimate.error)
    if gaps.problem.keep:
        if not gaps.problem.has_gaps:
            return np.zeros((1, 1, 1), square.dtype)
        square = np.where(gaps.problem.model.inlier, 0, square)
    return interpolated_along_z(square, gaps)


def interpolated_along_z(square: Array, gaps: Gaps) -> Array:
    """Squares at the measured planes, interpolated linearly at all planes of the wanted stack."""
    xp = namespace_of(square)
    place = np.interp(np.arange(gaps.planes), gaps.grid, np.arange(len(gaps.grid)))
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, len(gaps.grid) - 1)
    share = from_host((place - below)[:, None, None].astype(str(square.dtype)), square)
    lower, upper = (xp.take(square, from_host(index, square), axis=0) for index in (below, above))
    carried: Array = (1 - share) * lower + share * upper
    return carried
