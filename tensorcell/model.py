"""Noise, rank and outliers of a stack: `recover`, `diagnose`, `plan` and `evaluate` all take them from here.

1. **Defects** of the camera: those that the measurement itself shows (:mod:`tensorcell.solvers.defects`), before
   anything is fitted to them. Where they are many they are searched again, with the noise of the other voxels.
2. **Rank** of the global model: the one that predicts left-out voxels best
   (:mod:`tensorcell.solvers.predictive_rank`).
3. **Outliers**: the defects, and those that a robust fit of that rank brings out (:mod:`tensorcell.solvers.outliers`).
   Where these are many, rank, fit and noise are determined again without them.
4. **Noise**: :func:`tensorcell.solvers.estimate_noise` on the measured voxels that are no outliers. It takes texture as
   fine as a pixel for noise. If the residual of the low-rank model is less than half as large as that estimate, the
   model has explained most of the estimate as structure, and the size of the residual is taken instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.device import on_device
from tensorcell.errors import InputError
from tensorcell.fitting import Fitting
from tensorcell.settled import Settled
from tensorcell.solvers import CompletionResult, NoiseModel, RankEstimate, degrees_of_freedom, estimate_noise
from tensorcell.solvers.arrays import count, from_host, namespace_of
from tensorcell.solvers.autocorrelation import WHITE, Autocorrelation
from tensorcell.solvers.defects import find_defects
from tensorcell.solvers.neighbourhoods import excluding, surroundings
from tensorcell.solvers.outliers import Outliers, find_outliers, no_defects, no_outliers
from tensorcell.solvers.predictive_rank import choose_rank
from tensorcell.solvers.rank_limits import affordable
from tensorcell.solvers.slabs import central_block, model_planes
from tensorcell.solvers.spread import robust_sigma
from tensorcell.solvers.units import AS_GIVEN, Unit
from tensorcell.stack import given_stack
from tensorcell.stages import stage

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

TEXTURE = 0.5
"""If the residual of the model is below this share of the estimated noise, the residual is taken as the noise."""

FEW = 0.01
"""Defects of a complete stack that are a smaller share than this are filled before the fit, not treated as gaps."""

FEW_OUTLIERS = 1e-3
"""If more voxels than this share are outliers, the noise is estimated again without them."""

ROUNDS = 2
"""Rounds in which defects are found, and the noise is estimated without them."""

FITS = 3
"""Largest number of fits: each is made without the outliers that the one before brought out."""

MOST = 0.5
"""Largest share of the measured voxels that may be taken for wrong."""

BELOW, MANY_BELOW = 1.0, 0.01
"""A law of noise is wrong if more than the second share of the voxels is this many standard deviations of its floor
below the intensity at which its variance is zero."""

FEWEST = 50
"""Fewest voxels from which the spread of a residual is computed."""


@dataclass(frozen=True, eq=False)
class StackModel:
    """Noise, rank, global fit and outliers of a stack of measured planes.

    Attributes
    ----------
    noise : NoiseModel
        Given or estimated.
    rank : RankEstimate
        ``rank.rank`` is the rank of the fit; its other fields say where it comes from.
    fit : CompletionResult
        Robust Tucker model, on the host.
    outliers : Outliers
    inlier : bool array ``(K, Y, X)``
        True = measured and no outlier.
    """

    noise: NoiseModel
    rank: RankEstimate
    fit: CompletionResult
    outliers: Outliers
    inlier: Bools


def model_of(
    values: Array,
    mask: Bools,
    fitting: Fitting,
    *,
    noise: float | None = None,
    rank: Sequence[int] | None = None,
    psf: Sequence[float] | None = None,
    correlation: Autocorrelation | None = None,
    unit: Unit = AS_GIVEN,
    settled: Settled | None = None,
) -> StackModel:
    """Noise, rank, fit and outliers of a stack, found on the device of the fit and told on the host.

    Parameters
    ----------
    values : float array ``(K, Y, X)``
        Intensities; any finite number where the mask is False.
    mask : bool array of the same shape
        True = measured.
    fitting : Fitting
        How the global model is fitted.
    noise : float, optional
        Standard deviation of the noise, where it was given.
    rank : three ints, optional
        Multilinear rank, where it was given.
    psf : three floats, optional
        Standard deviation of the point spread function along z, y and x in voxels, where it was given.
    correlation : Autocorrelation, optional
        Of the noise, where it is known.
    unit : Unit
        How values become intensities of the caller, whose unit the sentence on the noise is in.
    settled : Settled, optional
        What a sample of the stack told of noise and rank, where this is a part of it; what is found is kept there if
        this is the sample.

    Raises
    ------
    InputError
        If more than half of the measured voxels were taken for wrong.
    """
    settled = Settled() if settled is None else settled
    stack, observed = (on_device(array, fitting.device) for array in (values, mask))
    given = settled.told("noise") if noise is None else NoiseModel.white(noise, unit)
    if rank is None and settled.told("rank") is not None:
        rank = affordable(tuple(map(min, settled.told("rank"), values.shape)), values.shape, np.count_nonzero(mask) / 2)

    def estimated(known: Bools) -> NoiseModel:
        with stage("noise"):
            return given or estimate_noise(stack, known, correlation=correlation, unit=unit)

    law = estimated(observed)
    robust, measured = fitting.options.robust, int(np.count_nonzero(mask))
    defects, sound = no_defects(), observed
    for _ in range(ROUNDS if robust else 0):  # defects that were not known hide others, and make the noise seem larger
        before = len(defects.positions)
        with stage("defects"):
            defects = find_defects(stack, observed, law, psf, fitting.seed, defects.positions)
        wrong = len(defects.positions)
        check_share(wrong, measured)
        sound = defects.inliers(observed)
        if abs(wrong - before) <= FEW_OUTLIERS * measured:
            break
        law = estimated(sound)

    def fitted(wrong: Array) -> tuple[RankEstimate, CompletionResult]:
        filled, known = without(stack, observed, wrong)
        with stage("rank"):
            found = given_rank(rank) or choose_rank(
                filled, known, fitting.quick(), noise=noise, neighbours=bool(fitting.options.neighbours),
                seed=fitting.seed,
            )  # fmt: skip
        with stage("fit"):
            return found, fitting(filled, known, found.rank)

    found, fit = fitted(defects.positions)
    outliers, wrong = no_outliers(values.dtype), len(defects.positions)
    for further in reversed(range(FITS if robust else 0)):  # fits that may follow
        with stage("outliers"):
            outliers = find_outliers(stack, sound, fit, law, defects, seed=fitting.seed)
        check_share(len(outliers.positions), measured)
        if not further or abs(len(outliers.positions) - wrong) <= FEW_OUTLIERS * measured:
            break
        wrong = len(outliers.positions)
        law = estimated(outliers.inliers(observed))
        found, fit = fitted(outliers.positions)
    inlier = outliers.inliers(mask)
    if given is None:
        law = anchored(bounded_by_fit(law, values, inlier, fit, unit), stack[outliers.inliers(observed)])
        settled.once("noise", lambda: law)
    settled.once("rank", lambda: found.rank)
    return StackModel(law, found, fit, outliers, inlier)


def given_rank(rank: Sequence[int] | None) -> RankEstimate | None:
    """A rank that was given, in the form of an estimate."""
    if rank is None:
        return None
    return RankEstimate(rank=tuple(rank), spectra=(), thresholds=(), noise=math.nan, reason="given")


def check_share(flagged: int, measured: int) -> None:
    """Raise `InputError` if more than half of the measured voxels were taken for wrong."""
    if flagged > MOST * measured:
        raise InputError(
            f"{flagged} of {measured} measured voxels look like defects, expected at most half; if they are signal, "
            "pass robust=False (--no-robust) or the width of the point spread function (psf_fwhm, --psf-fwhm)"
        )


def without(values: Any, mask: Any, defects: Array) -> tuple[Any, Any]:
    """The stack without its defects: a few in a complete stack get their neighbours' median, others become gaps."""
    if not len(defects):
        return values, mask
    sound = excluding(mask, defects)
    if len(defects) > FEW * mask.size or count(mask) < mask.size:
        return values, sound
    places = from_host(defects, values)
    middle = surroundings(values, sound, places).middle
    if count(namespace_of(middle).isnan(middle)):
        return values, sound
    filled = values.copy()
    filled.ravel()[places] = middle
    return filled, mask


def anchored(noise: NoiseModel, measured: Any) -> NoiseModel:
    """The noise, with a law that holds down to the darkest voxels.

    A line through the variances of bright voxels may fall to zero above intensities that many voxels have, such as a
    background that was set to one value. Such a law says that they cannot exist, and a denoiser that believes it moves
    them. The line is then drawn from the lowest intensity to the typical one.
    """
    if noise.gain == 0 or not len(measured):
        return noise
    pedestal, lowest = -noise.offset / noise.gain, float(measured.min())
    below = pedestal - BELOW * math.sqrt(max(noise.floor, noise.gain**2))
    if lowest >= below or count(measured < below) / len(measured) < MANY_BELOW or noise.intensity <= lowest:
        return noise
    gain = noise.sigma**2 / (noise.intensity - lowest)
    reason = "Many voxels are darker than this law allows; it is drawn from the lowest intensity to that one instead."
    return replace(noise, gain=gain, offset=-gain * lowest, sentence=f"{noise.sentence} {reason}")


def noise_of_stack(values: Array, mask: Bools, seed: int = 0, unit: Unit = AS_GIVEN) -> NoiseModel:
    """The noise of a stack that is not constant, as `recover` estimates it; arguments as for :func:`model_of`."""
    given = given_stack(values, mask)
    told = given.unit.within(unit)
    return model_of(given.values, given.mask, Fitting(seed=seed), unit=told).noise.in_unit(given.unit)


def bounded_by_fit(
    noise: NoiseModel, values: Array, inlier: Bools, fit: CompletionResult, unit: Unit = AS_GIVEN
) -> NoiseModel:
    """The noise, lowered to the residual of the model where that is less than half of it.

    The residual is divided by the standard deviation of the noise at the model's intensity, on a central block and
    without values that the detector clipped, and is corrected for the degrees of freedom of the model. The correlation
    that was found is then that of structure, and is not relied on. Counts of photons keep their law, which patches
    confirmed: where most voxels caught none, the median of the residual is 0, and says nothing.
    """
    if not noise.sigma > 0 or noise.counted:
        return noise
    block = central_block(values.shape)
    y, x = values[block], model_planes(fit, block[0])[:, block[1], block[2]]
    counted = inlier[block]
    for clipped in (noise.low, noise.high):
        if clipped is not None:
            counted = counted & (y != clipped)
    if np.count_nonzero(counted) < FEWEST:
        return noise
    variance = np.asarray(noise.variance(x[counted]))
    told = variance > 0  # a law of noise may say that there is none at the intensities of the background
    if np.count_nonzero(told) < FEWEST:
        return noise
    off = (y - x)[counted][told] / np.sqrt(variance[told])
    free = 1 - degrees_of_freedom(fit.rank, values.shape) / max(1, int(np.count_nonzero(inlier)))
    share = robust_sigma(off) / math.sqrt(max(0.1, free))
    if share >= TEXTURE:
        return noise
    rank, sigma = " x ".join(map(str, fit.rank)), noise.sigma * share
    reason = (
        f"The residual of a model of rank {rank} is only {share:.2g} of that: most of it is structure, and the "
        f"standard deviation is {unit.width(sigma):.3g}."
    )
    return replace(noise.reduced(share, reason), autocorrelation=WHITE)
