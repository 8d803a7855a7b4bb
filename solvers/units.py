"""The unit of intensities: how the numbers of a computation become those of the caller."""

from __future__ import annotations

import math
from typing import NamedTuple

LARGEST = 1.7976931348623157e308
"""The largest float."""


class Unit(NamedTuple):
    """A computation's value ``v`` is the intensity ``scale v + offset`` of the caller."""

    scale: float = 1.0
    offset: float = 0.0

    @property
    def same(self) -> bool:
        """Whether both units are one."""
        return self.scale == 1 and self.offset == 0

    @property
    def of_powers(self) -> Unit:
        """The unit itself, or that of the computation where squares in the caller's unit would not fit into a float.

        >>> Unit(scale=2.0).of_powers, Unit(scale=2.0**500).of_powers
        (Unit(scale=2.0, offset=0.0), Unit(scale=1.0, offset=0.0))
        """
        return self if 1e-140 < self.scale < 1e140 else AS_GIVEN

    @property
    def remark_on_powers(self) -> str:
        """What is to be said of squares that are not in the caller's unit; empty where they are."""
        said = f"; powers are in the square of a unit of {self.scale:.3g}, since those of the data fit into no float"
        return "" if self.of_powers == self else said

    def within(self, outer: Unit) -> Unit:
        """The unit of a computation whose results are values in another unit.

        >>> Unit(scale=2.0, offset=1.0).within(Unit(scale=10.0, offset=100.0))
        Unit(scale=20.0, offset=110.0)
        """
        return Unit(self.scale * outer.scale, outer.intensity(self.offset))

    def intensity(self, value: float) -> float:
        """An intensity in the caller's unit."""
        return self.scale * value + self.offset

    def width(self, value: float, power: int = 1) -> float:
        """A difference of intensities in the caller's unit, or a square of one (power 2), at most the largest float.

        >>> Unit(scale=2.0, offset=100.0).width(3.0), Unit(scale=2.0**600).width(1.0, power=2) > 1e308
        (6.0, True)
        """
        found = value * self.scale if power == 1 else value * self.scale * self.scale
        return math.copysign(LARGEST, found) if math.isinf(found) else found


AS_GIVEN = Unit()
"""The unit of a computation on the caller's own numbers."""
