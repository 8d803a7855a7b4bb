"""One stack as computations need it: checked, converted to floats, and without planes that were not measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.solvers.units import AS_GIVEN, Unit
from tensorcell.standard import exponent_in, standardised, unit_of

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

EMPTY_PLANE = 0.01
"""A plane with a smaller share of measured voxels than this is left out of the model and filled along z."""


def float_type(dtype: npt.DTypeLike) -> type[np.floating]:
    """Float type that holds all values of the dtype: float32 up to 16-bit integers, float64 above."""
    dtype = np.dtype(dtype)
    small = (
        dtype == np.bool_ or (dtype.kind in "iu" and dtype.itemsize <= 2) or (dtype.kind == "f" and dtype.itemsize <= 4)
    )
    return np.float32 if small else np.float64


@dataclass(frozen=True, eq=False)
class GivenStack:
    """A stack as it was given, checked.

    Attributes
    ----------
    values : float array ``(Z, Y, X)``
        Intensities in the unit of computations, finite where measured, 0 elsewhere.
    mask : bool array of the same shape
        True = measured.
    lowest, highest : float
        Smallest and largest measured value, in the unit of computations.
    unit : Unit
        How these values become intensities in the caller's unit (see `tensorcell.standard`).
    given : array of the same shape, or None
        Intensities as they were given, where they are not ``values``; anything where nothing was measured.
    """

    values: Array
    mask: Bools
    lowest: float
    highest: float
    unit: Unit = AS_GIVEN
    given: Array | None = None

    @property
    def given_values(self) -> Array:
        """Intensities as they were given."""
        return self.values if self.given is None else self.given

    @property
    def complete(self) -> bool:
        """Whether every voxel was measured."""
        return bool(self.mask.all())

    @property
    def constant(self) -> bool:
        """Whether all measured voxels have one value."""
        return self.lowest == self.highest


def given_stack(
    data: Array, mask: Bools | None, *, shift: bool = True, like: Unit | None = None, exactly: Unit | None = None
) -> GivenStack:
    """Check a stack and convert it to floats in the unit of computations.

    A voxel is measured where the mask is True and the value is not NaN. With ``shift=False`` the unit has the zero of
    the data, however large its offset is. ``like`` is the unit of another frame; it is taken if its scale is the same.
    ``exactly`` is that of the stack of which these data are a part; it is taken in any case.

    Raises
    ------
    InputError
        If nothing was measured, or a measured voxel is infinite.
    """
    seen = ~np.isnan(data)
    if mask is not None:
        seen &= mask
    if not seen.any():
        raise InputError(
            f"expected at least one measured voxel, got none of {data.size} (NaN or False in the mask everywhere)"
        )
    infinite = int(np.count_nonzero(np.isinf(data) & seen))
    if infinite:
        raise InputError(f"expected finite values at measured voxels, got {infinite} infinite")
    lowest, highest = ends(data, seen)
    unit = unit_of(data, seen, lowest, highest, shift=shift) if exactly is None else exactly
    if like is not None and like.scale == unit.scale:
        unit = like
    values = standardised(data, seen, unit, float_type(data.dtype))
    start = type(lowest)(unit.offset)
    low, high = (math.ldexp(float(end - start), -exponent_in(unit)) for end in (lowest, highest))
    return GivenStack(values, seen, low, high, unit, None if unit.same else data)


def ends(data: Array, seen: Bools) -> tuple[Any, Any]:
    """Smallest and largest measured value, as Python numbers."""
    if data.dtype.kind == "b":
        data = data.view(np.uint8)
    limits: Any = (np.inf, -np.inf)
    if data.dtype.kind in "iu":
        limits = np.iinfo(data.dtype).max, np.iinfo(data.dtype).min
    return np.min(data, where=seen, initial=limits[0]).item(), np.max(data, where=seen, initial=limits[1]).item()


@dataclass(frozen=True, eq=False)
class MeasuredStack:
    """The planes of a stack that hold enough measured voxels for a model.

    Attributes
    ----------
    values : float array ``(K, Y, X)``
        Finite where measured, 0 elsewhere.
    mask : bool array ``(K, Y, X)``
        True = measured.
    planes : int array ``(K,)``
        Their places in the stack that was given.
    given_planes : int
        Number of planes of that stack.
    """

    values: Array
    mask: Bools
    planes: npt.NDArray[np.integer]
    given_planes: int

    @property
    def some_set_aside(self) -> bool:
        """Whether planes of the given stack are not among these."""
        return len(self.planes) < self.given_planes


def measured_stack(given: GivenStack) -> MeasuredStack:
    """Set aside the planes that hold (nearly) no measured voxel: a low-rank model cannot predict them."""
    share = given.mask.mean(axis=(1, 2))
    planes = np.flatnonzero(share >= min(EMPTY_PLANE, 0.5 * share.max()))
    if len(planes) == len(share):
        return MeasuredStack(given.values, given.mask, planes, len(share))
    return MeasuredStack(given.values[planes], given.mask[planes], planes, len(share))


def check_planes(stack: MeasuredStack) -> None:
    """Raise `InputError` if fewer than two planes of a stack of several were measured."""
    if len(stack.planes) < min(2, stack.given_planes):
        raise InputError(f"expected at least 2 measured planes, got {len(stack.planes)} of {stack.given_planes}")
