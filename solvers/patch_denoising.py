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

from .arrays import Array, from_host, namespace_of, scalar, to_host
from .noise_terms import Gaussian, Noise
from .patch_groups import (
    HARD,
    LEAST_SIGMA,
    Drift,
    Geometry,
    PatchOptions,
    filtered,
    filtered_by,
    fitted,
    smoothed,
    three,
)
from .slabs import slabs
from .spread import robust_sigma
from .stein import Interpolated, Laws, Trial, divergence_terms, error_laws, random_direction, sample_blocks

SECOND = {"second": 1.0, "gentle": 0.3, "strong": 4.0}
"""Factors of the noise variance in Wiener's gains: below 1 the estimate keeps more noise and more detail. The first one
weighs the overlapping estimates."""

THIRD = {"third": 1.0, "smooth": 4.0}
"""The same of the third stage."""

PERTURBATION = 0.1
"""Step, in standard deviations of the noise, of the divergence's finite difference."""

SLAB_VOXELS = 1 << 19
"""Voxels that are mixed at a time: temporary arrays of them are small beside the estimates."""

CHANGE_WIDTH, CHANGED = 1.5, (3.5, 4.5)
"""Gaussian width, in voxels, and standard deviations of what noise is then, between which a residual is taken for a
change that a frame shows and the frames beside it do not."""

CONTRAST_WIDTH = 1.5
"""Gaussian width, in voxels, within which the local contrast is taken."""


class Candidate(NamedTuple):
    """An estimate, and the standard deviation of the overlapping estimates of each voxel."""

    value: Array
    spread: Array


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


def denoised(
    completed: Array,
    measured: Array,
    sigma: float,
    options: PatchOptions,
    seed: int,
    drift: Drift = (),
    noise: Noise | None = None,
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
    """
    found = candidates(completed, sigma, options, drift)
    contrast, spread = local_contrast(found["third"].value), total_spread(found)
    rng = np.random.default_rng([seed, 1])  # data simulated with the same seed must not meet their own noise again
    trial = tried(completed, measured, sigma, options, found, contrast, spread, rng, drift)
    mixture = mixed(completed, found, contrast, spread, error_laws(trial, noise or Gaussian(sigma)))
    if completed.ndim == 3 or fitted(options, completed.shape).frames == 1:
        return mixture
    del found, trial, contrast, spread  # the candidates take more memory than all that follows
    return with_changes(mixture, completed, measured, sigma, options)


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


def candidates(completed: Array, sigma: float, options: PatchOptions, drift: Drift = ()) -> dict[str, Candidate]:
    """Estimates of three stages and different strengths."""
    first, *others = stages(options, completed.shape, drift)
    found = {"first": Candidate(*filtered(completed, smoothed(completed), None, sigma, HARD, first))}
    pilot = found["first"].value
    for strengths, geometry in zip((SECOND, THIRD), others, strict=True):
        values, spread = filtered_by(completed, pilot, pilot, sigma, tuple(strengths.values()), geometry)
        found |= {name: Candidate(value, spread) for name, value in zip(strengths, values, strict=True)}
        pilot = values[0]
    return found


def tried(
    completed: Array,
    measured: Array,
    sigma: float,
    options: PatchOptions,
    found: dict[str, Candidate],
    contrast: Array,
    spread: Array,
    rng: np.random.Generator,
    drift: Drift = (),
) -> Trial:
    """Misfits and divergences of the data and of all candidates, at the measured voxels of blocks over the volume."""
    xp = namespace_of(completed)
    step = PERTURBATION * sigma
    columns: list[Trial] = []
    for block, inner in sample_blocks(completed.shape):
        part, known = completed[block], measured[block]
        direction = random_direction(rng, known)
        way = drift[block[0]] if completed.ndim == 4 else ()
        base = found if part.shape == completed.shape else candidates(part, sigma, options, way)
        moved = candidates(part + step * direction, sigma, options, way)
        use = known[inner]
        y, b = part[inner][use], direction[inner][use]
        misfits, divergences = [xp.zeros_like(y)], [xp.ones_like(y)]
        for name in found:
            before, after = (each[name].value[inner][use] for each in (base, moved))
            misfits.append(found[name].value[block][inner][use] - y)
            divergences.append(divergence_terms(b, before, after, step))
        columns.append(
            Trial(
                to_host(y).astype(np.float64),
                to_host(xp.stack(misfits, axis=0)).astype(np.float64),
                to_host(xp.stack(divergences, axis=0)).astype(np.float64),
                to_host(contrast[block][inner][use]),
                to_host(spread[block][inner][use]).astype(np.float64),
            )
        )
    return Trial(*(np.concatenate(parts, axis=-1) for parts in zip(*columns, strict=True)))


def mixed(completed: Array, found: dict[str, Candidate], contrast: Array, spread: Array, laws: Laws) -> Denoised:
    """The mixture, corrected; weights and error laws are interpolated between classes, so that no border shows."""
    xp = namespace_of(completed)
    estimates = {"data": completed, **{name: candidate.value for name, candidate in found.items()}}
    value, error, square = xp.zeros_like(completed), xp.empty_like(completed), 0.0
    shares = dict.fromkeys(estimates, 0.0)
    for planes in slabs(completed.shape, SLAB_VOXELS):
        part = planes, ...
        between = laws.between(to_host(contrast[part]))

        def interpolated(numbers: Sequence[float], between: Interpolated = between) -> Array:
            return from_host(between(numbers).astype(np.float32), completed)

        for number, (name, estimate) in enumerate(estimates.items()):
            share = interpolated([law.weights[number] for law in laws.classes])
            shares[name] += scalar(xp.sum(share, dtype=xp.float64))
            value[part] += share * estimate[part]
        value[part] += from_host(laws.correction(to_host(value[part])).astype(np.float32), completed)
        limit = interpolated([law.limit for law in laws.classes])
        squared = xp.where(spread[part] < limit, spread[part], limit) ** 2
        least, slope = ([getattr(law, name) for law in laws.classes] for name in ("least", "slope"))
        squared = interpolated(least) + interpolated(slope) * squared
        square += scalar(xp.sum(squared, dtype=xp.float64))
        error[part] = xp.sqrt(squared)
    size = math.prod(completed.shape)
    weights = {name: share / size for name, share in shares.items()}
    return Denoised(value, spread, error, weights, math.sqrt(square / size))


def with_changes(mixture: Denoised, completed: Array, measured: Array, sigma: float, options: PatchOptions) -> Denoised:
    """The estimate of a series, with each frame by itself where it shows something that the others do not.

    A flash of one frame, or a spot that moves too fast to be followed, is rare among the patches of a group, and shrunk
    with what is noise in them. The error there grows by the difference of the two estimates.
    """
    xp = namespace_of(completed)
    share = from_host(changes(to_host(completed - mixture.value), to_host(measured), sigma), completed)
    wanted = share > 0
    if not bool(xp.any(wanted)):
        return mixture
    alone = by_itself(completed, sigma, options, wanted)
    step = share * (alone - mixture.value)
    return mixture._replace(value=mixture.value + step, error=xp.sqrt(mixture.error**2 + step**2))


def changes(residual: Array, measured: Array, sigma: float) -> Array:
    """Share of a frame by itself, ``(T, Z, Y, X)``: 0 where the residual is noise, 1 where it is surely none.

    The residual, smoothed as far as the optics smooth, is compared with the standard deviation that it has elsewhere,
    or that noise would have then, whichever is smaller.
    """
    from scipy import ndimage

    space = (-3, -2, -1)
    off = ndimage.gaussian_filter(np.where(measured, residual, 0), CHANGE_WIDTH, mode="constant", axes=space)
    reach = int(4 * CHANGE_WIDTH + 0.5)
    kernel = ndimage.gaussian_filter1d(np.eye(1, 4 * reach + 1, 2 * reach)[0], CHANGE_WIDTH)[reach:-reach] ** 2
    for axis, size in zip(space, residual.shape[1:], strict=True):
        level = np.sqrt(np.convolve(np.ones(size), kernel)[reach : reach + size])
        off /= np.expand_dims(level, tuple(n for n in range(4) if n != 4 + axis))
    allowed = min(sigma, robust_sigma(off[measured]))  # the estimate has some of the noise, and the residual lacks it
    off = ndimage.maximum_filter(np.abs(off) / max(allowed, LEAST_SIGMA), 3, axes=space)
    low, high = CHANGED
    return np.clip((off - low) / (high - low), 0, 1).astype(np.float32)


def by_itself(completed: Array, sigma: float, options: PatchOptions, wanted: Array) -> Array:
    """The third stage of each frame by itself, where it is wanted; something else elsewhere."""
    from scipy import ndimage

    rim = [1, *(2 * side + 1 for side in three(options.patch))]  # what the last stage sees of the ones before
    near = from_host(ndimage.maximum_filter(to_host(wanted), rim), completed)
    alone = Geometry(three(options.patch), three(options.reach), options.group, options.step)
    first, second, third = stages(alone, completed.shape)
    value, _ = filtered(completed, smoothed(completed), None, sigma, HARD, first, near)
    for geometry, where in ((second, near), (third, wanted)):
        value, _ = filtered(completed, value, value, sigma, 1.0, geometry, where)
    return value


def local_contrast(estimate: Array) -> Array:
    """Standard deviation within some three voxels, which is large at structure and small in the background."""
    from scipy import ndimage

    host = to_host(estimate)
    space = (-3, -2, -1)
    mean = ndimage.gaussian_filter(host, CONTRAST_WIDTH, axes=space)
    square = ndimage.gaussian_filter((host - mean) ** 2, CONTRAST_WIDTH, axes=space)
    return from_host(np.sqrt(square), estimate)


def total_spread(found: dict[str, Candidate]) -> Array:
    """Standard deviation over the overlapping estimates of all candidates."""
    first, *_ = (candidate.value for candidate in found.values())
    xp, number = namespace_of(first), len(found)
    spread = xp.empty_like(first)
    for planes in slabs(first.shape, SLAB_VOXELS):
        part = planes, ...
        mean = sum(candidate.value[part] for candidate in found.values()) / number
        square = sum(one.spread[part] ** 2 + (one.value[part] - mean) ** 2 for one in found.values()) / number
        spread[part] = xp.sqrt(square)
    return spread
