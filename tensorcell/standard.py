"""Every stack is computed on in a unit of its own, so that neither its scale nor a large offset matters.

An estimate squares, divides and compares intensities. In single precision the square of 1e-30 is 0 and that of 1e20 is
infinite, and a contrast of 1 on an offset of 1e7 has lost its digits before the work begins. So the range of the
intensities is brought near 100 where it is far from that, and an offset that is large beside the range is subtracted.

The scale is a power of four: multiplying by it is exact, and so is the square root of it. Stacks whose range is
anywhere near 1 to 1000, and whose offset is not large, keep their unit. An offset is only subtracted where no estimate
comes near a true zero, so that nothing that depends on zero (a sign, photons counted from zero) is touched.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.solvers.units import AS_GIVEN, Unit

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

COMFORTABLE = (2.0**-10, 2.0**20)
"""Ranges of intensities that need no other scale."""

USUAL = 8
"""The range of the intensities in a standard unit is a power of two near this one: 64 to 256."""

HIGHEST = 50
"""No value exceeds two to this power in a standard unit: then no sum of squares overflows in single precision."""

FAR = 16.0
"""An offset is subtracted where it is more than this multiple of the range of the intensities. Of a contrast that is
a sixteenth of its offset, a low-rank model in single precision finds the components down to a thousandth."""

TAILS = 0.01
"""Share of the measured voxels at either end that does not count for the range: they may be outliers."""

SAMPLE = 1 << 17
"""Number of voxels from which the range is read."""

EXACT = 2.0**53
"""Above this a float64 does not hold every integer."""


def unit_of(data: Array, measured: Bools, lowest: float, highest: float, *, shift: bool = True) -> Unit:
    """The unit in which a stack is computed on.

    Parameters
    ----------
    data : real array of any shape
        Intensities as given; anything where nothing was measured.
    measured : bool array of that shape
        True = measured, at one voxel at least.
    lowest, highest : int or float
        The smallest and the largest measured intensity.
    shift : bool
        Whether a large offset is subtracted.

    Examples
    --------
    >>> ramp = np.linspace(0.0, 1.0, 1000)
    >>> everywhere = np.ones(1000, bool)
    >>> unit_of(ramp, everywhere, 0.0, 1.0)
    Unit(scale=1.0, offset=0.0)
    >>> unit = unit_of(1e-30 * ramp, everywhere, 0.0, 1e-30)
    >>> bool(64 <= 1e-30 / unit.scale < 256), math.log2(unit.scale) % 2
    (True, 0.0)
    """
    if lowest == highest:
        return AS_GIVEN
    low, high = bulk(data, measured)
    if low == high:  # most measured voxels have one value
        high, low = highest, lowest
    half = max(half_distance(low, high), math.ulp(0.0))
    offset = float(low) if shift and abs(low) / (2 * FAR) > half else 0.0
    start = int(offset) if isinstance(low, int) else offset  # differences of integers are exact
    largest = max(half_distance(start, highest), half_distance(lowest, start))
    return Unit(math.ldexp(1.0, exponent_of(half, largest)), offset)


def bulk(data: Array, measured: Bools) -> tuple[Any, Any]:
    """The intensities below and above which a hundredth of the measured voxels lies, as Python numbers."""
    sample = np.sort(some_of(data, measured))
    low = round(TAILS * (len(sample) - 1))
    return sample[low].item(), sample[len(sample) - 1 - low].item()


def half_distance(low: Any, high: Any) -> float:
    """Half the distance of two numbers, without overflow; exact for integers.

    >>> half_distance(-1.7e308, 1.7e308), half_distance(10**18, 10**18 + 3)
    (1.7e+308, 1.5)
    """
    return (int(high) - int(low)) / 2 if isinstance(low, int) and isinstance(high, int) else high / 2 - low / 2


def exponent_of(half: float, largest: float) -> int:
    """The even exponent of the scale, from half the range and half the largest distance from the offset."""
    exponent = 0
    if not COMFORTABLE[0] <= 2 * half <= COMFORTABLE[1]:
        exponent = even(math.frexp(half)[1] + 1 - USUAL)
    exponent = max(exponent, even(math.frexp(largest)[1] + 1 - HIGHEST))
    return min(max(exponent, -1022), 1022)


def even(exponent: int) -> int:
    """The exponent, or the even number above it.

    >>> even(3), even(-3), even(4)
    (4, -2, 4)
    """
    return exponent + exponent % 2


def some_of(data: Array, measured: Bools) -> Array:
    """Measured intensities from all over a stack: all of them, or a random part of a large stack."""
    if data.size > SAMPLE:
        places = np.random.default_rng(0).integers(0, data.size, SAMPLE)
        where = np.unravel_index(places, data.shape)
        found: Array = data[where][measured[where]]
        if len(found) >= SAMPLE // 100:
            return found
    every: Array = data[measured]
    return every


def standardised(data: Array, measured: Bools, unit: Unit, dtype: Any) -> Array:
    """Intensities in the standard unit, 0 where nothing was measured; differences of 64-bit integers are exact."""
    whole = bool(measured.all())
    if unit.same:
        values = np.ascontiguousarray(data, dtype=dtype)
        return values if whole else np.where(measured, values, values.dtype.type(0))
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        values = far_integers(data, int(unit.offset))
    else:
        given = data if whole else np.where(measured, data, data.dtype.type(0))
        values = given.astype(np.float64 if unit.offset else dtype)
        values -= unit.offset
    np.ldexp(values, -exponent_in(unit), out=values)
    values = np.ascontiguousarray(values, dtype=dtype)
    if not whole:
        values[~measured] = 0
    return values


def far_integers(data: Array, offset: int) -> Array:
    """``data - offset`` of 64-bit integers, each rounded only once."""
    half, mask = 32, 0xFFFFFFFF
    upper = (data >> half).astype(np.float64) - (offset >> half)
    lower = (data & data.dtype.type(mask)).astype(np.float64) - (offset & mask)
    return np.asarray(upper * 2.0**half + lower)


def exponent_in(unit: Unit) -> int:
    """The exponent of the scale of a unit."""
    return math.frexp(unit.scale)[1] - 1


def intensities(values: Array, unit: Unit) -> Array:
    """Values of a computation as intensities of the caller, in the same float type; the array may be returned."""
    if unit.same:
        return values
    found = np.ldexp(values, exponent_in(unit)) if not unit.offset else exact_sum(values, unit)
    return np.asarray(found, dtype=values.dtype)


def exact_sum(values: Array, unit: Unit) -> Array:
    """``scale v + offset`` in double precision."""
    return np.asarray(np.ldexp(values.astype(np.float64), exponent_in(unit)) + unit.offset)


def widths(values: Array, unit: Unit) -> Array:
    """Differences of intensities, such as standard deviations, in the caller's unit; the array may be returned."""
    return values if unit.scale == 1 else np.asarray(np.ldexp(values, exponent_in(unit)), dtype=values.dtype)


def uncertainties(errors: Array, unit: Unit) -> Array:
    """Standard deviations in the caller's unit; beside an offset they hold the rounding of the intensities, too."""
    found = widths(errors, unit)
    if unit.offset:
        step = float(np.spacing(np.asarray(abs(unit.offset), errors.dtype)))
        found = np.hypot(found, found.dtype.type(step / math.sqrt(12)))
    return found


def check_representable(values: Array, name: str, unit: Unit) -> None:
    """Raise `InputError` where an estimate is larger than its float type can hold in the caller's unit."""
    count = int(np.count_nonzero(~np.isfinite(values)))
    if count:
        raise InputError(
            f"expected intensities that leave room in {values.dtype}, got {count} voxels whose {name} overflows it "
            f"in a unit of {unit.scale:.3g}; divide the data"
        )
