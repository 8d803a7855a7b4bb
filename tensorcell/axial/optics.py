"""The frequencies that a widefield microscope transmits."""

from __future__ import annotations

import math

import numpy as np

from tensorcell.errors import InputError


def optics_limits(
    na: float | None, wavelength: float | None, refractive_index: float | None
) -> tuple[float, float] | None:
    """Axial and lateral cutoff of a widefield microscope in cycles per um; None if no optics are given.

    ``(n - sqrt(n^2 - NA^2)) / wavelength`` and ``2 NA / wavelength`` (Frieden 1967, doi:10.1364/JOSA.57.000056).

    Parameters
    ----------
    na, wavelength, refractive_index : float or None
        As for :func:`tensorcell.axial.axial_band`: all three or none.

    Raises
    ------
    InputError
        If one or two of them are missing, a value is not positive and finite, the numerical aperture is above the
        refractive index, the refractive index is below 1, or the wavelength is above 10 (nanometres).

    Examples
    --------
    >>> axial, lateral = optics_limits(1.2, 0.5, 1.3)
    >>> round(axial, 12), round(lateral, 12)
    (1.6, 4.8)
    """
    given = {"na": na, "wavelength": wavelength, "refractive_index": refractive_index}
    if all(value is None for value in given.values()):
        return None
    missing = [name for name, value in given.items() if value is None]
    if na is None or wavelength is None or refractive_index is None:
        raise InputError(f"optics need na, wavelength and refractive_index together, {' and '.join(missing)} not given")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise InputError(f"{name} must be a number, got {value!r}")
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive and finite, got {value}")
    if wavelength > 10:
        raise InputError(f"wavelength must be in micrometres, got {wavelength}, which looks like nanometres")
    if refractive_index < 1:
        raise InputError(f"refractive_index must be at least 1, got {refractive_index}")
    if na > refractive_index:
        raise InputError(f"na must not exceed the refractive index {refractive_index}, got {na}")
    # This equals n - sqrt(n^2 - NA^2), without the cancellation at small apertures.
    axial = na**2 / (refractive_index + math.sqrt((refractive_index - na) * (refractive_index + na)))
    return float(axial / wavelength), float(2 * na / wavelength)
