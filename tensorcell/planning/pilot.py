"""The pilot stack of a plan: what it must hold, the part of it that is used, and its blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.planning.noise import PilotNoise
from tensorcell.stack import GivenStack, given_stack
from tensorcell.volume import Volume, stacks

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

FACTORS = (1, 2, 3, 4, 6, 8)
"""Axial factors that are tried where none are asked for."""
PILOT_VOXELS = 500_000
"""A larger pilot is cropped to its middle: then one recovery takes some ten seconds on two cores."""
PILOT_PLANES = 64
"""Planes that a crop leaves at least."""
SMALLEST_PLANE = 8
"""Pixels along y and along x."""
FEWEST_PLANES = 3
"""Imaged planes that a prediction needs: with two, every left-out plane lies in the gap at the border of the stack."""
FEWEST_LEFT_OUT = 100
"""Left-out voxels that a prediction needs."""
HELD_OUT, MOST_HELD_OUT = 0.05, 0.2
"""Share of the pilot that is left out where a choice leaves out nothing, and the largest share of a plane."""
FEWEST_MEASURED = 2000
"""Measured voxels that a prediction needs."""
BLOCKS = (2, 3, 3)
"""Large, since errors are correlated as far as the specimen has structure; from more and smaller blocks the intervals
would be too narrow."""


class Pilot(NamedTuple):
    """The pilot and what is known of it; arrays of one shape ``(Z, Y, X)``."""

    y: Floats
    mask: Bools
    """True = measured."""
    scored: Bools
    """Measured and no outlier."""
    intensity: Floats
    """Local mean, at which the variance of the noise is taken."""
    noise: PilotNoise
    data_range: float
    blocks: npt.NDArray[np.intp]


def stack_of(volume: Volume) -> GivenStack:
    """The one stack of a volume, checked; its unit has the zero of the data, since errors are relative to it."""
    parts = list(itertools.islice(stacks(volume), 2))
    if len(parts) > 1:
        raise InputError(
            f"expected a pilot of one stack (Z, Y, X), got {volume.shape} {volume.axes}: plan one channel and frame"
        )
    (part,) = parts
    return given_stack(part.data, part.mask, shift=False)


def possible_factors(planes: int) -> tuple[int, ...]:
    """Those of the usual axial factors for which a pilot has enough planes; at least 1.

    >>> possible_factors(16), possible_factors(2)
    ((1, 2, 3, 4, 6), (1,))
    """
    return tuple(factor for factor in FACTORS if factor == 1 or (FEWEST_PLANES - 1) * factor < planes)


def check_size(shape: Sequence[int], factors: Sequence[int]) -> None:
    """Refuse a pilot with too few planes for the largest axial factor, or with small planes."""
    planes = shape[0]
    if planes < FEWEST_PLANES:
        raise InputError(f"expected a pilot of at least {FEWEST_PLANES} planes, got {planes}")
    largest = (planes - 1) // (FEWEST_PLANES - 1)
    if max(factors) > largest:
        raise InputError(
            f"a pilot of {planes} planes is too small for axial factor {max(factors)}, which needs "
            f"{(FEWEST_PLANES - 1) * max(factors) + 1}: the largest possible is {largest}"
        )
    if min(shape[1:]) < SMALLEST_PLANE:
        raise InputError(
            f"expected planes of at least {SMALLEST_PLANE} x {SMALLEST_PLANE} pixels, got {shape[1]} x {shape[2]}"
        )


def check_content(y: Floats, mask: Bools) -> None:
    """Refuse a pilot with too few measured voxels, or with one value everywhere."""
    if mask.sum() < FEWEST_MEASURED:
        raise InputError(f"expected a pilot of at least {FEWEST_MEASURED} measured voxels, got {int(mask.sum())}")
    if np.ptp(y[mask]) == 0:
        raise InputError(f"expected a pilot that shows something, got the value {y[mask][0]:g} everywhere")


def pilot_block(shape: Sequence[int], largest: int) -> tuple[slice, ...]:
    """The middle of a pilot, at most about 500 000 voxels.

    Pixels are cut before planes, of which at least 64 are left, and ten times the largest factor.

    >>> pilot_block((94, 512, 712), 8)
    (slice(7, 87, None), slice(222, 289, None), slice(309, 402, None))
    """
    if math.prod(shape) <= PILOT_VOXELS:
        return tuple(slice(0, size) for size in shape)
    proportional = round(shape[0] * (PILOT_VOXELS / math.prod(shape)) ** (1 / 3))
    planes = min(shape[0], max(PILOT_PLANES, 10 * largest, proportional))
    shrink = min(1.0, math.sqrt(PILOT_VOXELS / (planes * shape[1] * shape[2])))
    sizes = (planes, *(max(SMALLEST_PLANE, round(size * shrink)) for size in shape[1:]))
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(shape, sizes, strict=True))


def intensity_range(y: Floats, scored: Bools, mask: Bools) -> float:
    """Width of the intensities for the PSNR: 0.1 to 99.9 percentile without outliers, else of all measured voxels."""
    low, high = np.percentile(y[scored], (0.1, 99.9))
    return float(high - low) or float(np.ptp(y[mask]))


def block_numbers(shape: Sequence[int]) -> npt.NDArray[np.intp]:
    """Number of the block that each voxel belongs to: 2 x 3 x 3 blocks, fewer in small pilots.

    >>> int(block_numbers((16, 32, 32)).max()) + 1
    18
    """
    parts = [min(most, max(1, size // 4)) for size, most in zip(shape, BLOCKS, strict=True)]
    places = [np.arange(size) * part // size for size, part in zip(shape, parts, strict=True)]
    z, y, x = np.ix_(*places)
    return np.asarray((z * parts[1] + y) * parts[2] + x)
