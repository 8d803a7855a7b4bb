"""`axial_verdict`: whether planes at some distance from each other carry a stack."""

from __future__ import annotations

import math

from tensorcell.axial.result import AxialBand, length_text
from tensorcell.errors import InputError

TOLERANCE = 0.1
"""Steps up to 10 % above the Nyquist step count as resolved ..."""

CLEARLY_ABOVE = 0.25
"""... and those from 25 % above as aliased: the limit is known to about 15 %."""


def axial_verdict(step: float, band: AxialBand) -> tuple[str, str]:
    """Whether planes ``step`` apart carry the stack: ``resolved``, ``aliased`` or ``unknown``, and a sentence.

    ``resolved``: the step is at most 10 % above the Nyquist step. ``aliased``: the step is more than 25 % above the
    Nyquist step of a limit that comes from the axial spectrum or from the optics; or the axial spectrum gives no limit
    and has power well above the noise beyond the frequency ``1 / (2 step)``, which filled pixels do not explain.
    ``unknown``: neither is shown, or another limit contradicts the spectrum.

    Parameters
    ----------
    step : float
        Distance between measured planes, in ``band.unit``.
    band : AxialBand
        From :func:`tensorcell.axial.axial_band`.

    Raises
    ------
    InputError
        If the step is not positive and finite.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorcell.axial import axial_band
    >>> axial_verdict(1.0, axial_band(np.zeros((20, 32, 32)), None))[0]
    'unknown'
    """
    if not (math.isfinite(step) and step > 0):
        raise InputError(f"step must be a positive distance between planes in {band.unit}, got {step}")
    planes = f"planes {length_text(step, band.unit)} apart"
    shown_above = band.at_least is not None and 2 * step * band.at_least >= 1 - 1e-9
    if band.limit is None or band.nyquist_step is None:
        if shown_above:
            return "aliased", f"aliased: {planes} are too far apart; {band.obtained}"
        return "unknown", f"unknown whether {planes} are close enough; {band.obtained}"
    excess = step / band.nyquist_step
    asks = "optics ask" if band.source == "optics" else f"{band.source} asks"
    needed = f"the {asks} for planes at most {length_text(band.nyquist_step, band.unit)} apart"
    if shown_above and excess <= 1 + TOLERANCE:  # the other limit says that no structure is that fine
        return "unknown", f"unknown whether {planes} are close enough: {needed}, but {band.obtained}"
    if shown_above:
        return "aliased", f"aliased: {planes} are too far apart, {band.obtained}"
    if excess <= 1 + TOLERANCE:
        return "resolved", f"resolved: {planes} are close enough, {needed}; {band.obtained}"
    if excess > 1 + CLEARLY_ABOVE and band.source != "lateral spectrum":
        return "aliased", f"aliased: {planes} are too far apart, {needed}; {band.obtained}"
    return "unknown", f"unknown whether {planes} are close enough: {needed}; {band.obtained}"
