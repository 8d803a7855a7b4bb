"""One degradation of a pilot, its recovery, and sums of squared errors over the measured voxels that were left out.

The left-out voxels are noisy themselves. With ``y = x + n`` measured, ``x`` noise-free and an estimate ``e`` that has
not seen ``n``, the mean of ``(y - e)^2`` is that of ``(x - e)^2`` plus the variance of the noise, which is subtracted
from the sums.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.interpolation import interpolate_planes
from tensorcell.planning.noise import exposure_variance
from tensorcell.planning.pilot import FEWEST_LEFT_OUT, FEWEST_PLANES, HELD_OUT, Pilot
from tensorcell.recovery import recover

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


class Sampling(NamedTuple):
    """A way to sample: every s-th plane, a share of the pixels, a share of the exposure."""

    axial_factor: int
    pixel_fraction: float
    exposure_factor: float

    @property
    def leaves_out_nothing(self) -> bool:
        """Whether every plane and every pixel is measured."""
        return self.axial_factor == 1 and self.pixel_fraction == 1


class Sums(NamedTuple):
    """Over the left-out voxels of each block; float arrays ``(blocks,)``."""

    voxels: Floats
    """How many there are."""
    error: Floats
    """Squared errors of the recovery."""
    linear: Floats
    """Squared errors of linear interpolation along z."""
    noise: Floats
    """Variances of the noise."""
    power: Floats
    """Squared noise-free intensities."""


class _Degraded(NamedTuple):
    """The planes of a pilot that a trial spans, and what of them is measured."""

    part: slice
    given: Floats
    """Intensities at the exposure of the trial."""
    mask: Bools
    """True = measured in this trial."""
    left_out: Bools
    """True = measured in the pilot, not in this trial, and scored."""


def outliers_of(y: Floats, mask: Bools, seed: int) -> Bools:
    """Where a recovery of the pilot takes a measured voxel for an outlier."""
    found: Bools = recover(np.where(mask, y, np.nan), keep_measured=True, seed=seed).outliers != 0
    return found


def trial(pilot: Pilot, way: Sampling, turn: int, seed: int) -> Sums:
    """Degrade the pilot one way, recover it, and sum the errors over what was left out."""
    degraded = _degrade(pilot, way, turn, seed)
    data = np.where(degraded.mask, degraded.given, np.nan)
    factor = way.axial_factor
    try:
        recovered = recover(data[::factor], axial_factor=factor, seed=seed).volume.data
    except InputError as error:
        raise InputError(
            f"axial factor {factor} with {way.pixel_fraction:g} of the pixels leaves too little of this pilot: {error}"
        ) from None
    count = int(degraded.left_out.sum())
    if count < FEWEST_LEFT_OUT:
        raise InputError(
            f"expected at least {FEWEST_LEFT_OUT} measured voxels to be left out at axial factor {factor} and "
            f"{way.pixel_fraction:g} of the pixels, got {count}"
        )
    return _sums(pilot, degraded, recovered)


def _degrade(pilot: Pilot, way: Sampling, turn: int, seed: int) -> _Degraded:
    """Leave out planes and pixels, and add the noise of a lower exposure."""
    # The same pixels and the same noise whatever the other factors: choices differ by what they are, not by chance.
    pixels, light = (np.random.default_rng([seed, turn, stream]) for stream in (0, 1))
    factor = way.axial_factor
    part = _span(len(pilot.y), factor, turn)
    chosen = pixels.random(pilot.y.shape, np.float32)[part]
    share = 1 - HELD_OUT if way.leaves_out_nothing else way.pixel_fraction
    mask = pilot.mask[part] & (chosen < share)
    mask[np.arange(len(mask)) % factor != 0] = False
    given = pilot.y[part]
    if way.exposure_factor < 1:
        deviation = np.sqrt(exposure_variance(pilot.noise.model, pilot.intensity, way.exposure_factor))
        given = given + (deviation * light.standard_normal(pilot.y.shape, np.float32))[part].astype(given.dtype)
    left_out = pilot.scored[part] & ~mask
    if factor > 1:  # pixels left out of imaged planes are not scored, since measured ones are nearer to them
        left_out[::factor] = False
    return _Degraded(part, given, mask, left_out)


def _span(planes: int, factor: int, turn: int) -> slice:
    """From the first to the last imaged plane; each turn begins a plane later, where enough planes are left."""
    first = turn % factor
    last = first + (planes - 1 - first) // factor * factor
    if (last - first) // factor + 1 < FEWEST_PLANES:
        first, last = 0, (planes - 1) // factor * factor
    return slice(first, last + 1)


def _sums(pilot: Pilot, degraded: _Degraded, recovered: Floats) -> Sums:
    """Sums over the left-out voxels of each block."""
    part, left_out = degraded.part, degraded.left_out
    straight = interpolate_planes(np.where(degraded.mask, degraded.given, 0), degraded.mask)
    np.copyto(straight, degraded.given[degraded.mask].mean(), where=np.isnan(straight))  # columns never measured
    y = pilot.y[part][left_out].astype(float)
    noise = np.asarray(pilot.noise.model.variance(pilot.intensity[part][left_out].astype(float)))
    where = pilot.blocks[part][left_out]

    def by_block(values: Floats) -> npt.NDArray[Any]:
        return np.bincount(where, values, minlength=int(pilot.blocks.max()) + 1)

    return Sums(
        voxels=by_block(np.ones(len(y))),
        error=by_block((recovered[left_out] - y) ** 2),
        linear=by_block((straight[left_out] - y) ** 2),
        noise=by_block(noise),
        power=by_block(y**2 - noise),
    )
