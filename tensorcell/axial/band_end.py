"""Where a spectrum ends: the frequency at which its power falls below the noise, or below a level under its peak."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tensorcell.axial.result import AxialSpectrum

Floats = npt.NDArray[np.floating]

LEVEL = 3e-3
"""Of the peak: -25 dB. White noise blurred by a Gaussian of standard deviation s then has its limit at 0.38 / s."""

CLEAR_LEVEL = 1e-2
"""Of the peak: more than this at the Nyquist frequency shows aliasing."""

MARGIN = 0.15
"""Of the noise floor: less power than this above it cannot be distinguished from noise that is not quite white."""

RANGE = 10.0
"""The peak must exceed that margin by this factor, or noise may hide most of the band."""


def ended_spectrum(
    frequency: Floats, power: Floats, floor: float, samples: int, *, nyquist: float, along_z: bool
) -> AxialSpectrum:
    """Find where a spectrum, the mean of ``samples`` periodogram values at each frequency, falls below the level."""
    if along_z:
        floor = max(floor, flat_end(power))
    excess = power - floor
    # The first two frequencies hold what hardly changes along the axis, which may have far more power than the rest.
    peak = max(float(excess[2:].max()), 0.1 * float(excess.max()))
    # The windows correlate neighbouring frequencies: about 2.25 of a plane count as one.
    uncertainty = floor * max(MARGIN, 4 * math.sqrt(2.25 / max(samples, 1)))
    # The lateral bound has to be on the safe side: structure may be a little finer along z than along y and x.
    level = max(uncertainty, (LEVEL if along_z else LEVEL / 10) * peak)
    half_bin = 0.5 * float(frequency[1])

    limit, hidden = None, not peak > RANGE * uncertainty
    if not hidden and excess[-max(2, len(excess) // 12) :].max() <= level:
        # The window widens a band by about half a bin, which is subtracted, but not from the lateral bound.
        limit = max(half_bin, crossing(excess, level) * float(frequency[1]) - half_bin * along_z)

    # The window carries power of a band that ends at 0.9 of the Nyquist frequency to its end, the more the fewer the
    # planes: 12 % of the peak with 8 planes, 1 % with 16 (flat ellipsoidal bands). 30 / n^2 stays well above that.
    clear = max(3 * uncertainty, peak * max(CLEAR_LEVEL, 30 / (2 * len(power)) ** 2))
    held = np.flatnonzero(excess >= clear)
    at_least = None
    if peak > 0 and len(held):
        at_least = nyquist if held[-1] + 1 == len(power) else max(0.0, float(frequency[held[-1]]) - half_bin)
    return AxialSpectrum(
        frequency=tuple(map(float, frequency)),
        power=tuple(map(float, power)),
        floor=floor,
        level=floor + level,
        peak=floor + peak,
        limit=limit,
        hidden=hidden,
        at_least=at_least,
    )


def flat_end(power: Floats) -> float:
    """Power of the last third of an axial spectrum if it is flat there after a fall by ``RANGE``, else 0.

    Noise that is correlated within planes, and not between them, has more power at low lateral frequencies than at the
    highest, but the same at all axial ones. Folded structure that has fallen so far is still falling there: a decay
    as slow as ``1 / f^2`` loses 30 % over the last third.
    """
    third = power[len(power) * 2 // 3 :]
    if len(third) < 4:
        return 0.0
    half = len(third) // 2
    first, second = float(third[:half].mean()), float(third[half:].mean())
    flat = second > 0 and first / second < 1.15 and float(third.max()) < 1.5 * second
    return second if flat and float(power[2:].max()) > RANGE * second else 0.0


def crossing(excess: Floats, level: float) -> float:
    """The index, with a fraction, above which the excess stays below the level; logarithms are interpolated."""
    last = int(np.flatnonzero(excess > level)[-1])
    high, low = float(excess[last]), max(float(excess[last + 1]), 1e-3 * level)
    return last + math.log(high / level) / math.log(high / low)
