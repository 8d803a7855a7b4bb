"""One degradation of a pilot, its recovery, and sums of squared errors over the measured voxels that were left out.

All choices of a plan are scored at the same voxels, those that each of them leaves out: errors differ from place to
place by more than from choice to choice.

The left-out voxels are noisy themselves. With ``y = x + n`` measured, ``x`` noise-free and an estimate ``e`` that has
not seen ``n``, the mean of ``(y - e)^2`` is that of ``(x - e)^2`` plus the variance of the noise, which is subtracted
from the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.interpolation import interpolate_planes
from tensorcell.planning.noise import exposure_variance
from tensorcell.planning.pilot import FEWEST_LEFT_OUT, FEWEST_PLANES, HELD_OUT, MOST_HELD_OUT, Pilot
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
    """True = measured in the pilot, in no trial of any choice, and scored."""


def outliers_of(y: Floats, mask: Bools, seed: int) -> Bools:
    """Where a recovery of the pilot takes a measured voxel for an outlier."""
    found: Bools = recover(np.where(mask, y, np.nan), keep_measured=True, seed=seed).outliers != 0
    return found


def left_out_by_all(pilot: Pilot, ways: Sequence[Sampling], turn: int, seed: int) -> Bools:
    """True at the voxels that every way leaves out in this turn, in the pilot's shape; all of them are scored.

    They lie in planes that no axial factor images. Where a way images every plane, they are also a few of the pixels of
    these planes, which it then leaves out.
    """
    planes = np.ones(len(pilot.y), bool)
    for factor in {way.axial_factor for way in ways} - {1}:
        span, without = _span(len(planes), factor, turn), np.zeros(len(planes), bool)
        without[span] = True
        without[span.start :: factor] = False
        planes &= without
    common: Bools = pilot.scored & planes[:, None, None]
    dense = [way.pixel_fraction for way in ways if way.axial_factor == 1]
    if dense:
        held = min(MOST_HELD_OUT, HELD_OUT * len(planes) / max(int(planes.sum()), 1))
        common &= _pixels(pilot, turn, seed) >= min(max(dense), 1 - held)
    count = int(common.sum())
    if count < FEWEST_LEFT_OUT:
        raise InputError(
            f"expected at least {FEWEST_LEFT_OUT} measured voxels that every choice leaves out, got {count}: the pilot "
            "is too small to compare these choices; give a larger one, or fewer axial factors"
        )
    return common


def _pixels(pilot: Pilot, turn: int, seed: int) -> Floats:
    """A random number for each voxel: a share f of the pixels is imaged where it is below f.

    It is the same whatever the other factors, so that choices differ by what they are, not by chance.
    """
    return np.random.default_rng([seed, turn, 0]).random(pilot.y.shape, np.float32)


def trial(pilot: Pilot, way: Sampling, scored: Bools, turn: int, seed: int) -> Sums:
    """Degrade the pilot one way, recover it, and sum the errors over the voxels that are scored."""
    degraded = _degrade(pilot, way, scored, turn, seed)
    data = np.where(degraded.mask, degraded.given, np.nan)
    factor = way.axial_factor
    try:
        recovered = recover(data[::factor], axial_factor=factor, seed=seed).volume.data
    except InputError as error:
        raise InputError(
            f"axial factor {factor} with {way.pixel_fraction:g} of the pixels leaves too little of this pilot: {error}"
        ) from None
    return _sums(pilot, degraded, recovered)


def _degrade(pilot: Pilot, way: Sampling, scored: Bools, turn: int, seed: int) -> _Degraded:
    """Leave out planes and pixels, and add the noise of a lower exposure, which is the same whatever the factors."""
    light = np.random.default_rng([seed, turn, 1])
    factor = way.axial_factor
    part = _span(len(pilot.y), factor, turn)
    left_out = scored[part]
    mask = pilot.mask[part] & (_pixels(pilot, turn, seed)[part] < way.pixel_fraction) & ~left_out
    mask[np.arange(len(mask)) % factor != 0] = False
    given = pilot.y[part]
    if way.exposure_factor < 1:
        deviation = np.sqrt(exposure_variance(pilot.noise.model, pilot.intensity, way.exposure_factor))
        given = given + (deviation * light.standard_normal(pilot.y.shape, np.float32))[part].astype(given.dtype)
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
