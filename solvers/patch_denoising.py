"""Denoising by groups of patches: estimates of different strength, mixed where each of them errs least.

The candidates are a first stage (hard threshold), a second one (Wiener's gains) with smaller patches and larger groups,
a third one with larger patches, the second and third with several strengths, and the data themselves. Their weights
minimise Stein's estimate of the squared error (:mod:`tensorcell.solvers.stein`), for each class of local contrast
separately: background is smoothed where structure is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, from_host, namespace_of, scalar, to_host
from .patch_groups import HARD, Geometry, PatchOptions, filtered, filtered_by, fitted, smoothed, three
from .slabs import slabs
from .stein import ErrorLaw, Trial, divergence_terms, error_laws, random_direction, sample_blocks

SECOND = {"second": 1.0, "gentle": 0.3, "strong": 4.0}
"""Factors of the noise variance in Wiener's gains: below 1 the estimate keeps more noise and more detail. The first one
weighs the overlapping estimates."""

THIRD = {"third": 1.0, "smooth": 4.0}
"""The same of the third stage."""

PERTURBATION = 0.1
"""Step, in standard deviations of the noise, of the divergence's finite difference."""

SLAB_VOXELS = 1 << 19
"""Voxels that are mixed at a time: temporary arrays of them are small beside the estimates."""

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


def denoised(completed: Array, measured: Array, sigma: float, options: PatchOptions, seed: int) -> Denoised:
    """The candidates, mixed by the weights that minimise Stein's estimate at measured voxels.

    Parameters
    ----------
    completed : float32 array ``(Z, Y, X)``
        Data where they were measured, and estimates elsewhere.
    measured : bool array ``(Z, Y, X)``
        True = measured.
    sigma : float
        Standard deviation of the noise, above 0.
    options : PatchOptions
        Patches of the first stage; those of the second are smaller by a voxel, and of the third larger.
    seed : int
        Seed of the divergence's random directions.
    """
    found = candidates(completed, sigma, options)
    contrast, spread = local_contrast(found["third"].value), total_spread(found)
    rng = np.random.default_rng([seed, 1])  # data simulated with the same seed must not meet their own noise again
    trial = tried(completed, measured, sigma, options, found, contrast, spread, rng)
    return mixed(completed, found, contrast, spread, error_laws(trial, sigma))


def candidates(completed: Array, sigma: float, options: PatchOptions) -> dict[str, Candidate]:
    """Estimates of three stages and different strengths.

    Small patches have many that are alike, which keeps texture; large ones bring out what is smooth.
    """
    reach, group, step, shape = three(options.reach), options.group, options.step, completed.shape
    found = {"first": Candidate(*filtered(completed, smoothed(completed), None, sigma, HARD, fitted(options, shape)))}
    pilot = found["first"].value
    for strengths, larger, members, apart in ((SECOND, -1, 2 * group, step), (THIRD, 1, group, step + 1)):
        p, q, r = (max(1, side + larger * (side > 1)) for side in three(options.patch))
        geometry = fitted(Geometry((p, q, r), reach, members, apart), shape)
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
) -> Trial:
    """Misfits and divergences of the data and of all candidates, at the measured voxels of blocks over the volume."""
    xp = namespace_of(completed)
    step = PERTURBATION * sigma
    columns: list[Trial] = []
    for block, inner in sample_blocks(completed.shape):
        part, known = completed[block], measured[block]
        direction = random_direction(rng, known)
        base = found if part.shape == completed.shape else candidates(part, sigma, options)
        moved = candidates(part + step * direction, sigma, options)
        use = known[inner]
        y, b = part[inner][use], direction[inner][use]
        misfits, divergences = [xp.zeros_like(y)], [xp.ones_like(y)]
        for name in found:
            before, after = (each[name].value[inner][use] for each in (base, moved))
            misfits.append(found[name].value[block][inner][use] - y)
            divergences.append(divergence_terms(b, before, after, step))
        columns.append(
            Trial(
                to_host(xp.stack(misfits, axis=0)).astype(np.float64),
                to_host(xp.stack(divergences, axis=0)).astype(np.float64),
                to_host(contrast[block][inner][use]),
                to_host(spread[block][inner][use]).astype(np.float64),
            )
        )
    return Trial(*(np.concatenate(parts, axis=-1) for parts in zip(*columns, strict=True)))


def mixed(
    completed: Array, found: dict[str, Candidate], contrast: Array, spread: Array, laws: Sequence[ErrorLaw]
) -> Denoised:
    """The mixture; weights and error laws are interpolated between the classes, so that no border shows."""
    xp = namespace_of(completed)
    estimates = {"data": completed, **{name: candidate.value for name, candidate in found.items()}}
    value, error, square = xp.zeros_like(completed), xp.empty_like(completed), 0.0
    shares = dict.fromkeys(estimates, 0.0)
    classes = np.arange(len(laws))
    for planes in slabs(completed.shape, SLAB_VOXELS):
        part = planes, ...
        class_of = np.interp(to_host(contrast[part]), [law.contrast for law in laws], classes).astype(np.float32)

        def interpolated(numbers: Sequence[float], class_of: Any = class_of) -> Array:
            return from_host(np.interp(class_of, classes, numbers).astype(np.float32), completed)

        for number, (name, estimate) in enumerate(estimates.items()):
            share = interpolated([law.weights[number] for law in laws])
            shares[name] += scalar(xp.sum(share, dtype=xp.float64))
            value[part] += share * estimate[part]
        limit = interpolated([law.limit for law in laws])
        squared = xp.where(spread[part] < limit, spread[part], limit) ** 2
        squared = interpolated([law.least for law in laws]) + interpolated([law.slope for law in laws]) * squared
        square += scalar(xp.sum(squared, dtype=xp.float64))
        error[part] = xp.sqrt(squared)
    size = math.prod(completed.shape)
    weights = {name: share / size for name, share in shares.items()}
    return Denoised(value, spread, error, weights, math.sqrt(square / size))


def local_contrast(estimate: Array) -> Array:
    """Standard deviation within some three voxels, which is large at structure and small in the background."""
    from scipy import ndimage

    host = to_host(estimate)
    mean = ndimage.gaussian_filter(host, CONTRAST_WIDTH)
    square = ndimage.gaussian_filter((host - mean) ** 2, CONTRAST_WIDTH)
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
