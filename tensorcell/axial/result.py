"""What `tensorcell.axial` finds: spectra and a band limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tensorcell.solvers.units import Unit

Source = Literal["axial spectrum", "optics", "lateral spectrum", "none"]


@dataclass(frozen=True)
class AxialSpectrum:
    """Power density against frequency, averaged over the other two axes.

    White noise of standard deviation ``s`` has the power ``s^2`` at every frequency.
    """

    frequency: tuple[float, ...]
    """Cycles per unit of length, rising from 0."""
    power: tuple[float, ...]
    """In the square of the data's unit, noise included."""
    floor: float
    """Power of the noise."""
    level: float
    """Power, noise included, below which nothing counts as signal."""
    limit: float | None
    """Where the power falls below the level; None if it does not do so before the Nyquist frequency."""
    peak: float
    """Largest power, noise included; the power of what hardly changes along the axis counts for a tenth."""
    hidden: bool
    """Whether the peak is too weak against the noise to give a limit."""
    at_least: float | None
    """Highest frequency with power well above noise and level: a lower bound of the limit. None if there is none."""

    def in_unit(self, unit: Unit) -> AxialSpectrum:
        """The spectrum with its powers in the caller's unit."""
        return replace(
            self,
            power=tuple(unit.width(value, power=2) for value in self.power),
            floor=unit.width(self.floor, power=2),
            level=unit.width(self.level, power=2),
            peak=unit.width(self.peak, power=2),
        )


@dataclass(frozen=True)
class AxialBand:
    """Result of :func:`tensorcell.axial.axial_band`; frequencies are in cycles per ``unit``, lengths in ``unit``."""

    limit: float | None
    """Axial band limit, None if neither the spectra nor the optics give one."""
    nyquist_step: float | None
    """Largest distance between planes that still carries the limit: ``1 / (2 limit)``."""
    unit: str
    """``"um"``, or ``"plane"`` (the distance between planes of the array) if the spacing is unknown."""
    optics_limit: float | None
    """Axial cutoff of a widefield microscope, in cycles per um whatever ``unit`` is."""
    obtained: str
    """One sentence: how the limit was obtained, or why there is none, and what was done to the data."""
    source: Source
    """What ``limit`` rests on. From ``"lateral spectrum"`` and ``"optics"`` it is an upper bound."""
    at_least: float | None
    """Lower bound if the axial spectrum gives no limit: the highest frequency with power well above the noise."""
    lateral_limit: float | None
    """Lateral band limit, in cycles per um or, if the spacing is unknown, per pixel."""
    optics_lateral_limit: float | None
    """Lateral cutoff of a widefield microscope, in cycles per um."""
    step: float | None
    """Distance between the planes from which the axial spectrum was computed."""
    axial: AxialSpectrum | None
    """Along z."""
    lateral: AxialSpectrum | None
    """Along y and x, averaged."""

    def in_unit(self, unit: Unit) -> AxialBand:
        """The same with the powers of its spectra in the caller's unit."""
        parts = (None if part is None else part.in_unit(unit.of_powers) for part in (self.axial, self.lateral))
        axial, lateral = parts
        return replace(self, axial=axial, lateral=lateral, obtained=self.obtained + unit.remark_on_powers)


def length_text(length: float | None, unit: str) -> str:
    """A length along z with its unit; where the voxel size is unknown it is counted in voxels of the array.

    >>> length_text(0.25, "um"), length_text(1.0, "plane"), length_text(3.0, "plane")
    ('0.25 um', '1 voxel', '3 voxels')
    """
    return f"{length:.3g} {unit}" if unit == "um" else f"{length:.3g} voxel{'' if length == 1 else 's'}"
