"""Where the planes given lie among those of the wanted stack.

The wanted stack begins at the first plane given and ends at the last one, or less than a plane before it. Successive
planes given are ``p / q`` of its planes apart (in lowest terms): plane ``k`` given lies at ``k p / q``, so that planes
0, q, 2q, ... given are planes 0, p, 2p, ... of the wanted stack, and the others lie between planes of it. An axial
factor s is the case p = s, q = 1, in which every plane given is one of the wanted stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.arguments import checked_axial_factor, positive, whole_number
from tensorcell.errors import InputError
from tensorcell.volume_checks import Described

Array = npt.NDArray[Any]

ROUNDING = 5e-6
"""Ratios of distances whose relative difference is smaller are taken as one: files hold voxel sizes with about six
digits, and 0.9 / 0.3 is not 3 in floating-point numbers."""


@dataclass(frozen=True)
class PlaneGrid:
    """Where the planes given lie among those of the wanted stack.

    Attributes
    ----------
    given : int
        Number of planes given.
    step : Fraction
        Their distance, in planes of the wanted stack; at least 1.
    spacing : float or None
        Distance of the wanted planes in micrometres; None if it is unknown.

    Examples
    --------
    >>> grid = PlaneGrid(5, Fraction(3, 2))
    >>> grid.planes, grid.positions.tolist()
    (7, [0.0, 1.5, 3.0, 4.5, 6.0])
    >>> np.arange(5)[grid.shared].tolist(), np.arange(7)[grid.places].tolist()
    ([0, 2, 4], [0, 3, 6])
    """

    given: int
    step: Fraction = Fraction(1)
    spacing: float | None = None

    @property
    def planes(self) -> int:
        """Number of planes of the wanted stack."""
        return math.floor((self.given - 1) * self.step) + 1

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """Where the planes given lie, in planes of the wanted stack ``(given,)``."""
        return np.array([float(k * self.step) for k in range(self.given)])

    @property
    def whole(self) -> bool:
        """Whether every plane given is one of the wanted stack."""
        return self.step.denominator == 1

    @property
    def shared(self) -> slice:
        """The planes given that are planes of the wanted stack."""
        return slice(None, None, self.step.denominator)

    @property
    def places(self) -> slice:
        """The planes of the wanted stack that were given, in the same order as `shared`."""
        return slice(None, None, self.step.numerator)

    def spread(self, mask: Array) -> Array:
        """The mask ``(planes, Y, X)`` of the wanted stack for that of the planes given; other planes are False."""
        wanted = np.zeros((self.planes, *mask.shape[1:]), bool)
        wanted[self.places] = mask[self.shared]
        return wanted

    def notes(self) -> tuple[str, ...]:
        """A line where planes given lie between planes of the wanted stack.

        >>> PlaneGrid(5).notes(), PlaneGrid(5, Fraction(10, 3)).notes()[0][:60]
        ((), '2 of the 5 planes given are planes of the result, whose plan')
        """
        if self.whole:
            return ()
        shared, near = len(range(self.given)[self.shared]), round(self.step)
        return (
            f"{shared} of the {self.given} planes given {'is a plane' if shared == 1 else 'are planes'} of the result, "
            f"whose planes are {float(1 / self.step):.4g} of their distance apart; the others lie between planes of it "
            f"and are not in it{f' (axial factor {near} keeps every plane)' if near > 1 else ''}",
        )


def wanted_grid(
    volume: Described,
    axial_factor: Any = 1,
    spacing_z: Any = None,
    lateral_factor: Any = 1,
) -> PlaneGrid:
    """The planes that are wanted of a volume.

    Parameters
    ----------
    volume : Volume
    axial_factor : int
        The planes given are planes 0, s, 2s, ... of the wanted stack.
    spacing_z : float, "isotropic" or None
        In its place, the distance of the wanted planes in micrometres; "isotropic": the height of the wanted pixels.
    lateral_factor : int
        Pixels of the wanted volume a side of a given one.

    Raises
    ------
    InputError
        If the arguments are not valid, exclude each other, or ask for planes that cannot be interpolated.

    Examples
    --------
    >>> from tensorcell.volume import Volume
    >>> wanted_grid(Volume(np.zeros((4, 8, 8)), spacing=(0.9, 0.3, 0.3)), spacing_z="isotropic")
    PlaneGrid(given=4, step=Fraction(3, 1), spacing=0.3)
    """
    factor, finer = checked_axial_factor(axial_factor), whole_number("lateral factor", lateral_factor)
    if spacing_z is None:
        if volume.planes == 1 and factor > 1:
            raise InputError(f"expected axial factor 1, since single planes have none between them, got {factor}")
        spacing = None if volume.spacing is None else volume.spacing[0] / factor
        return PlaneGrid(volume.planes, Fraction(factor), spacing)
    if factor > 1:
        raise InputError(f"expected axial factor 1 with spacing_z, which tells where planes are wanted, got {factor}")
    if volume.planes == 1:
        raise InputError(f"expected no spacing_z, since single planes have none between them, got {spacing_z!r}")
    if volume.spacing is None:
        raise InputError(
            f"spacing_z={spacing_z!r} needs the voxel size, which is not known here: give spacing=(dz, dy, dx)"
        )
    dz, dy, _ = volume.spacing
    wanted = dy / finer if isotropic(spacing_z) else positive("spacing_z", spacing_z)
    if wanted > (1 + ROUNDING) * dz:
        raise InputError(
            f"expected spacing_z of at most {dz:g} um, the distance of the planes given, got {wanted:g}: planes of a "
            "coarser stack are means of these, not planes between them"
        )
    return PlaneGrid(volume.planes, simplest_near(Fraction(dz) / Fraction(wanted)), wanted)


def isotropic(spacing_z: Any) -> bool:
    """Whether the wanted planes are to be as far apart as the rows; other words are refused."""
    if isinstance(spacing_z, str) and spacing_z != "isotropic":
        raise InputError(f"expected spacing_z 'isotropic' or a number of micrometres, got {spacing_z!r}")
    return isinstance(spacing_z, str)


def simplest_near(ratio: Fraction) -> Fraction:
    """A fraction with few digits that is the ratio to within `ROUNDING`; the ratio is at least about 1.

    >>> simplest_near(Fraction(0.9) / Fraction(0.3)), simplest_near(1 / Fraction(0.29))
    (Fraction(3, 1), Fraction(100, 29))
    """
    tried = (ratio.limit_denominator(10**digits) for digits in range(7))
    return next(near for near in tried if abs(near - ratio) <= ROUNDING * ratio)
