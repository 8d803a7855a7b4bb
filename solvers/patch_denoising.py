"""Denoising by groups of patches: estimates of different strength, mixed where each of them errs least.

The candidates are a first stage (hard threshold), a second one (Wiener's gains) with smaller patches and larger groups,
a third one with larger patches, the second and third with several strengths, and the data themselves. Their weights
minimise Stein's estimate of the squared error (:mod:`tensorcell.solvers.stein`), for each class of local contrast
separately: background is smoothed where structure is left alone. A function of the intensity corrects the mixture
(:mod:`tensorcell.solvers.intensity_correction`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .arrays import Array, clip, entries, namespace_of, ndimage, to_host, within_mask
from .autocorrelation import WHITE, Autocorrelation, standardised_mean
from .noise_terms import Gaussian, Noise
from .patch_groups import (
    HARD,
    LEAST_SIGMA,
    SLAB_VOXELS,
    Box,
    Drift,
    Geometry,
    PatchOptions,
    filtered,
    filtered_by,
    fitted,
    in_rim,
    smoothed,
    three,
)
from .slabs import in_parts
from .spread import robust_sigma
from .stein import Laws, Trial, divergence_terms, error_laws, random_direction, sample_blocks

SECOND = {"second": 1.0, "gentle": 0.3, "strong": 4.0}
"""Factors of the noise variance in Wiener's gains: below 1 the estimate keeps more noise and more detail. The first one
weighs the overlapping estimates."""

THIRD = {"third": 1.0, "smooth": 4.0}
"""The same of the third stage."""

PERTURBATION = 0.1
"""Step, in standard deviations of the noise, of the divergence's finite difference."""

CHANGE_WIDTH, CHANGED = 1.5, (3.5, 4.5)
"""Gaussian width, in voxels, and standard deviations of what noise is then, between which a residual is taken for
structure: in a series, for a change that a frame shows and the frames beside it do not."""

LOST_WIDTH, ADDED_WIDTH = 1.0, 0.7
"""Gaussian widths, in voxels, within which a stack's residual shows that a spot lost its peak, and of what is added of
it: the peak is narrower than the spot."""

STAGES_OF_RIM = (0.75, 0.5, 0.25)
"""Shares of the rim of a part that the three stages estimate: each reaches as far beyond what the next one needs."""

SPACE = (-3, -2, -1)
"""Axes of z, y and x."""

CONTRAST_WIDTH = 1.5
"""Gaussian width, in voxels, within which the local contrast is taken."""


class DenoisingLaws(NamedTuple):
    """All that is found from the data of a whole stack, with which its parts are denoised as the whole is."""

    mixing: Laws
    """How candidates are mixed, by contrast and intensity."""
    left: float
    """Standard deviation, where it is noise, of the smoothed residual from which a lost spot is told."""
    centre: float = 0.0
    """What was subtracted from the data."""


class Candidates(NamedTuple):
    """Estimates by their names, and how far the overlapping estimates of each voxel disagree."""

    values: dict[str, Array]
    square: Array
    """Mean over the candidates of the variance of the overlapping estimates."""


class Denoised(NamedTuple):
    """A volume after denoising, and how far from the truth Stein's estimate puts it."""

    value: Array
    spread: Array
    """Standard deviation over the overlapping estimates of all candidates."""
    error: Array
    """Standard deviation of the error."""
    weights: dict[str, float]
    """Mean share of each candidate."""
    predicted: float
    """Root mean squared error."""
    laws: DenoisingLaws
    """Those that were found, or given."""


def denoised(
    completed: Array,
    measured: Array,
    sigma: float,
    options: PatchOptions,
    seed: int,
    drift: Drift = (),
    noise: Noise | None = None,
    correlation: Autocorrelation = WHITE,
    laws: DenoisingLaws | None = None,
    inner: Box | None = None,
) -> Denoised:
    """The candidates, mixed by the weights that minimise Stein's estimate at measured voxels.

    Parameters
    ----------
    completed : float32 array ``(Z, Y, X)`` or ``(T, Z, Y, X)``
        Data where they were measured, and estimates elsewhere.
    measured : bool array of the same shape
        True = measured.
    sigma : float
        Standard deviation of the noise, above 0.
    options : PatchOptions
        Patches of the first stage; those of the second are smaller by a voxel, and of the third larger.
    seed : int
        Seed of the divergence's random directions.
    drift : T times three ints
        Where each frame lies along z, y and x; empty: all at the same place.
    noise : Gaussian or Photons, optional
        What the noise of the data is, where they are stabilised; Gaussian by default.
    correlation : Autocorrelation
        Of the noise.
    laws : DenoisingLaws, optional
        Those of another part of the same stack, less the same number; found from these data by default.
    inner : three slices, optional
        What is wanted of the volume; around it, estimates are as good as those inside need them.
    """
    found = candidates(completed, sigma, options, drift, correlation, inner)
    contrast, spread = local_contrast(found.values["third"]), total_spread(found)
    if laws is None:
        rng = np.random.default_rng([seed, 1])  # data simulated with the same seed must not meet their own noise again
        trial = tried(completed, measured, sigma, options, found, contrast, spread, rng, drift, correlation)
        mixing, left = error_laws(trial, noise or Gaussian(sigma)), None
        del trial
    else:
        mixing, left = laws.mixing, laws.left
    mixture = mixed(completed, found.values, contrast, spread, mixing)
    del found, contrast, spread  # the candidates take more memory than all that follows
    if completed.ndim == 3 or fitted(options, completed.shape).frames == 1:
        return with_residue(mixture, completed, measured, sigma, correlation, left)
    return with_changes(mixture, completed, measured, sigma, options, correlation, left)


def stages(options: PatchOptions, shape: Sequence[int], drift: Drift = ()) -> tuple[Geometry, Geometry, Geometry]:
    """Patches of the three stages.

    Small patches have many that are alike, which keeps texture; large ones bring out what is smooth. The small ones are
    followed over twice as many frames, where there are so many.
    """
    found = [fitted(options, shape, drift)]
    for larger, more, step in ((-1, 2, options.step), (1, 1, options.step + 1)):
        p, q, r = (max(1, side + larger * (side > 1)) for side in three(options.patch))
        frames = 1 if options.frames == 1 else more * options.frames
        wanted = Geometry((p, q, r), three(options.reach), more * options.group, step, frames)
        found.append(fitted(wanted, shape, drift))
    first, second, third = found
    return first, second, third


def candidates(
    completed: Array,
    sigma: float,
    options: PatchOptions,
    drift: Drift = (),
    correlation: Autocorrelation = WHITE,
    inner: Box | None = None,
) -> Candidates:
    """Estimates of three stages and different strengths."""
    first, *others = stages(options, completed.shape, drift)
    near, *nearer = (None if inner is None else in_rim(completed, inner, share) for share in STAGES_OF_RIM)
    pilot, square = filtered(completed, smoothed(completed), None, sigma, HARD, first, near, correlation)
    square *= square
    values = {"first": pilot}
    for strengths, geometry, near in zip((SECOND, THIRD), others, nearer, strict=True):
        factors = tuple(strengths.values())
        found, spread = filtered_by(completed, pilot, pilot, sigma, factors, geometry, near, correlation)
        spread *= spread
        spread *= len(strengths)
        square += spread
        del spread
        values |= dict(zip(strengths, found, strict=True))
        pilot = found[0]
    square /= len(values)
    return Candidates(values, square)


def tried(
    completed: Array,
    measured: Array,
    sigma: float,
    options: PatchOptions,
    found: Candidates,
    contrast: Array,
    spread: Array,
    rng: np.random.Generator,
    drift: Drift = (),
    correlation: Autocorrelation = WHITE,
) -> Trial:
    """Misfits and divergences of the data and of all candidates, at the measured voxels of blocks over the volume."""
    step, blocks = PERTURBATION * sigma, list(sample_blocks(completed.shape))
    count = sum(int(namespace_of(measured).count_nonzero(measured[block][inner])) for block, inner in blocks)
    values, contrasts, spreads = np.empty((3, count), np.float32)
    misfits, divergences = np.zeros((2, 1 + len(found.values), count), np.float32)
    divergences[0] = 1  # the data themselves
    last = 0
    for block, inner in blocks:
        part, known = completed[block], measured[block]
        direction = random_direction(rng, known, correlation=correlation)
        way = drift[block[0]] if completed.ndim == 4 else ()
        base = found if part.shape == completed.shape else candidates(part, sigma, options, way, correlation)
        moved = candidates(part + step * direction, sigma, options, way, correlation)
        use = known[inner]
        y, b = part[inner][use], direction[inner][use]
        here = slice(last, last + y.shape[0])
        last = here.stop
        for kept, array in ((values, completed), (contrasts, contrast), (spreads, spread)):
            kept[here] = to_host(array[block][inner][use])
        for number, (name, value) in enumerate(found.values.items(), start=1):
            before, after = (each.values[name][inner][use] for each in (base, moved))
            misfits[number, here] = to_host(value[block][inner][use] - y)
            divergences[number, here] = to_host(divergence_terms(b, before, after, step))
    return Trial(values, misfits, divergences, contrasts, spreads)


def mixed(completed: Array, found: dict[str, Array], contrast: Array, spread: Array, laws: Laws) -> Denoised:
    """The mixture, corrected; weights and error laws are interpolated between classes, so that no border shows.

    To save memory, its value is written over the first candidate, its error over the contrast.
    """
    xp = namespace_of(completed)
    estimates = {"data": completed, **found}
    (value, *_), error = found.values(), contrast

    def mix(planes: slice) -> Array:
        part, sums = (planes, ...), []
        between, mixture = laws.between(contrast[part]), xp.zeros_like(completed[part])

        for number, estimate in enumerate(estimates.values()):
            share = between([law.weights[number] for law in laws.classes])
            sums.append(xp.sum(share, dtype=xp.float64))
            mixture += share * estimate[part]
        value[part] = mixture + xp.astype(laws.correction(mixture), xp.float32)
        limit = between([law.limit for law in laws.classes])
        squared = xp.where(spread[part] < limit, spread[part], limit) ** 2
        least, slope = ([getattr(law, name) for law in laws.classes] for name in ("least", "slope"))
        squared = between(least) + between(slope) * squared
        squared *= xp.maximum(contrast[part] / laws.highest, xp.ones((), dtype=squared.dtype)) ** 2
        error[part] = xp.sqrt(squared)
        return xp.stack([xp.sum(squared, dtype=xp.float64), *sums])

    sums = to_host(xp.sum(xp.stack(in_parts(mix, completed, SLAB_VOXELS)), axis=0))
    mean, *means = (sums / math.prod(completed.shape)).tolist()
    weights = dict(zip(estimates, means, strict=True))
    return Denoised(value, spread, error, weights, math.sqrt(mean), DenoisingLaws(laws, math.nan))


def with_changes(
    mixture: Denoised, completed: Array, measured: Array, sigma: float, options: PatchOptions,
    correlation: Autocorrelation, left: float | None,
) -> Denoised:  # fmt: skip
    """The estimate of a series, with each frame by itself where it shows something that the others do not.

    A flash of one frame, or a spot that moves too fast to be followed, is rare among the patches of a group, and shrunk
    with what is noise in them. The error there grows by the difference of the two estimates.
    """
    xp = namespace_of(completed)
    share, left = changes(completed - mixture.value, measured, sigma, correlation, left=left)
    mixture = mixture._replace(laws=mixture.laws._replace(left=left))
    wanted = share > 0
    if not bool(xp.any(wanted)):
        return mixture
    alone = by_itself(completed, sigma, options, wanted, correlation)
    step = share * (alone - mixture.value)
    return mixture._replace(value=mixture.value + step, error=xp.sqrt(mixture.error**2 + step**2))


def with_residue(
    mixture: Denoised, completed: Array, measured: Array, sigma: float, correlation: Autocorrelation, left: float | None
) -> Denoised:
    """The estimate of a stack, with what it lacks of the measurement where that is surely no noise.

    A spot is rare among the patches of its group, and shrunk with what is noise in them. Where the smoothed residual
    stands out, it is added, smoothed less, and the error grows by what was added.
    """
    xp = namespace_of(completed)
    residual = completed - mixture.value
    step, left = changes(residual, measured, sigma, correlation, LOST_WIDTH, left)
    mixture = mixture._replace(laws=mixture.laws._replace(left=left))
    if not bool(xp.any(step > 0)):
        return mixture
    residual = within_mask(residual, measured)
    step *= ndimage("gaussian_filter", residual, ADDED_WIDTH, mode="constant", axes=SPACE)
    return mixture._replace(value=mixture.value + step, error=xp.sqrt(mixture.error**2 + step**2))


def changes(
    residual: Array,
    measured: Array,
    sigma: float,
    correlation: Autocorrelation = WHITE,
    width: float = CHANGE_WIDTH,
    left: float | None = None,
) -> tuple[Array, float]:
    """Where a residual ``(..., Z, Y, X)`` is more than noise: 0 where it is noise, 1 where it is surely none.

    The residual, smoothed as far as the optics smooth, is compared with the standard deviation that it has elsewhere,
    or that noise would have then, whichever is smaller. That standard deviation, ``left`` where it was given, is the
    second thing returned.
    """
    xp = namespace_of(residual, measured)
    off = standardised_mean(within_mask(residual, measured), width, SPACE, correlation)
    left = robust_sigma(entries(off, measured)) if left is None else left
    allowed = min(sigma, left)  # the estimate has some of the noise, and the residual lacks it
    off = ndimage("maximum_filter", xp.abs(off) / max(allowed, LEAST_SIGMA), 3, axes=SPACE)
    low, high = CHANGED
    return xp.astype(clip((off - low) / (high - low), 0.0, 1.0), xp.float32, copy=False), left


def by_itself(
    completed: Array, sigma: float, options: PatchOptions, wanted: Array, correlation: Autocorrelation
) -> Array:
    """The third stage of each frame by itself, where it is wanted; something else elsewhere."""
    xp = namespace_of(wanted)
    rim = [1, *(2 * side + 1 for side in three(options.patch))]  # what the last stage sees of the ones before
    near = ndimage("maximum_filter", xp.astype(wanted, xp.uint8), rim) > 0
    alone = Geometry(three(options.patch), three(options.reach), options.group, options.step)
    first, second, third = stages(alone, completed.shape)
    value, _ = filtered(completed, smoothed(completed), None, sigma, HARD, first, near, correlation)
    for geometry, where in ((second, near), (third, wanted)):
        value, _ = filtered(completed, value, value, sigma, 1.0, geometry, where, correlation)
    return value


def local_contrast(estimate: Array) -> Array:
    """Standard deviation within some three voxels, which is large at structure and small in the background."""
    off = ndimage("gaussian_filter", estimate, CONTRAST_WIDTH, axes=SPACE)
    off -= estimate
    off *= off
    return namespace_of(estimate).sqrt(ndimage("gaussian_filter", off, CONTRAST_WIDTH, axes=SPACE))


def total_spread(found: Candidates) -> Array:
    """Standard deviation over the overlapping estimates of all candidates; it is written over ``found.square``."""
    spread, number = found.square, len(found.values)

    def add(planes: slice) -> None:
        part = planes, ...
        mean = sum(value[part] for value in found.values.values()) / number
        square = sum((value[part] - mean) ** 2 for value in found.values.values()) / number
        spread[part] = namespace_of(spread).sqrt(spread[part] + square)

    in_parts(add, spread, SLAB_VOXELS)
    return spread
