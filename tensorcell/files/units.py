"""Units of length and time, and lengths in micrometres as files state them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Spacing = tuple[float, float, float]

UNITS = {  # size in micrometres: names in lower case
    1e-6: ("pm",),
    1e-4: ("\u00e5", "angstrom"),
    1e-3: ("nm", "nanometer", "nanometre"),
    # The first five: the micro sign, the Greek mu, ImageJ's escape, and UTF-8 that was taken for Latin-1.
    1.0: ("um", "\u00b5m", "\u03bcm", "\\u00b5m", "\u00e2\u00b5m", "micron", "microns", "micrometer", "micrometre"),
    1e3: ("mm", "millimeter", "millimetre"),
    1e4: ("cm", "centimeter", "centimetre"),
    25400.0: ("in", "inch", "inches"),
    1e6: ("m", "meter", "metre"),
}
MICROMETRES = {name: size for size, names in UNITS.items() for name in names}
SECONDS = {"ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0}


def finite(value: Any) -> float | None:
    """The value as a float, or None unless it is a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def length(value: Any, unit: Any) -> float | None:
    """A length in micrometres, or None unless it is a number other than zero in a unit of length.

    >>> length(-500, "nm")
    0.5
    """
    number = finite(value)
    scale = MICROMETRES.get(str(unit).strip().strip('"').lower())
    if number is None or scale is None or number == 0:
        return None
    return abs(number) * scale  # ImageJ has negative steps for stacks taken downwards


def pixel(resolution: Any, unit: Any) -> float | None:
    """Size of a pixel in micrometres, from a TIFF resolution (pixels, units)."""
    try:
        pixels, units = resolution
        return length(units / pixels, unit)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def voxel_size(steps: Sequence[float | None], metadata: dict[str, Any]) -> Spacing | None:
    """(dz, dy, dx) if all three are known; a pixel size alone is put into the metadata as ``pixel_size``."""
    dz, dy, dx = steps
    if dy is None or dx is None:
        return None
    if dz is None:
        metadata["pixel_size"] = (dy, dx)
        return None
    return dz, dy, dx
