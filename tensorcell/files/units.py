"""Units of length and time, and lengths in micrometres as files state them."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Spacing = tuple[float, float, float]

PREFIXES = {  # by the sign and the word: in millionths
    ("p", "pico"): 1e-6, ("n", "nano"): 1e-3, ("u", "micro"): 1.0, ("\u03bc", "micro"): 1.0, ("m", "milli"): 1e3,
    ("c", "centi"): 1e4, ("d", "deci"): 1e5, ("", ""): 1e6, ("k", "kilo"): 1e9,
}  # fmt: skip
MICROMETRES = {
    name: size for (sign, word), size in PREFIXES.items() for name in (f"{sign}m", f"{word}meter", f"{word}metre")
}
"""Units of length: names in lower case, without the s of the plural."""

MICROMETRES |= dict.fromkeys(("\u00e5", "angstrom", "\u00e5ngstr\u00f6m"), 1e-4)
MICROMETRES |= dict.fromkeys(("micron", "\u00e2\u03bcm"), 1.0)  # the second: UTF-8 that was taken for Latin-1
MICROMETRES |= dict.fromkeys(("in", "inch", "inche"), 25400.0)

SECONDS = {name: size / 1e6 for (sign, word), size in PREFIXES.items() for name in (f"{sign}s", f"{word}second")}
"""Units of time, in the same way."""

SECONDS |= {f"{sign}sec": size / 1e6 for (sign, _), size in PREFIXES.items()}
SECONDS |= {"min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
NO_UNITS = ("", "pixel", "pixels", "px")
"""What programs write that know no unit."""

SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e3
"""Voxel sizes in micrometres beyond which a microscope is hardly meant."""

PRINT_RESOLUTIONS = (72, 75, 90, 96, 100, 120, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)
"""Pixels per inch that programs write for screens and printers."""

ESCAPED = re.compile(r"\\(?:u([0-9a-f]{4})|x([0-9a-f]{2}))", re.IGNORECASE)
"""A character as ImageJ and others write it where a file has ASCII only, such as ``\\u00B5``."""


def finite(value: Any) -> float | None:
    """The value as a float, or None unless it is a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def micrometres(unit: Any) -> float | None:
    """The size of a unit of length in micrometres, however its name is spelt; None if it is no unit of length.

    >>> [micrometres(name) for name in ("\\\\u00B5m", "&micro;m", "Microns", "\\u212b", "nanometres", "pixel")]
    [1.0, 1.0, 1.0, 0.0001, 0.001, None]
    """
    return _size_of(unit, MICROMETRES)


def seconds_of(unit: Any) -> float | None:
    """The size of a unit of time in seconds, in the same way.

    >>> [seconds_of(name) for name in ("millisecond", "\\u00B5s", "min", "hours", "")]
    [0.001, 1e-06, 60.0, 3600.0, None]
    """
    return _size_of(unit, SECONDS)


def _size_of(unit: Any, sizes: Mapping[str, float]) -> float | None:
    name = ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), html.unescape(str(unit)))
    # The normal form has one sign each for micro and for angstrom.
    name = unicodedata.normalize("NFKC", name).strip().strip("\"'").strip().lower()
    return sizes.get(name, sizes.get(name.removesuffix("s")) if len(name) > 2 else None)


def length(value: Any, unit: Any) -> float | None:
    """A length in micrometres, or None unless it is a number other than zero in a unit of length.

    >>> length(-500, "nm")
    0.5
    """
    number, scale = finite(value), micrometres(unit)
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


def print_resolution(resolution: Any, unit: str | None) -> int | None:
    """The pixels per inch if they are a number that programs write for screens and printers, else None.

    >>> print_resolution((72, 1), "inch"), print_resolution((118.11, 1), "cm"), print_resolution((100000, 1), "cm")
    (72, 300, None)
    """
    size = pixel(resolution, unit)
    if size is None:
        return None
    return next((one for one in PRINT_RESOLUTIONS if abs(25400 / size - one) < 0.005 * one), None)


def is_plausible(step: float) -> bool:
    """Whether a microscope may have voxels of this size in micrometres."""
    return SMALLEST_STEP <= step <= LARGEST_STEP


def notes_on_steps(steps: Mapping[str, float], axes: str = "ZYX") -> list[str]:
    """A sentence for each step along one of the axes that a microscope hardly has.

    >>> notes_on_steps({"Z": 0.5, "X": 25400.0})
    ['the voxel size along X is 25400 um, which is not between 1 nm and 1 mm']
    """
    return [
        f"the voxel size along {letter} is {step:g} um, which is not between 1 nm and 1 mm"
        for letter, step in steps.items()
        if letter in axes and not is_plausible(step)
    ]


def voxel_size(steps: Sequence[float | None], metadata: dict[str, Any]) -> Spacing | None:
    """(dz, dy, dx) if all three are known; a pixel size alone is put into the metadata as ``pixel_size``."""
    dz, dy, dx = steps
    if dy is None or dx is None:
        return None
    if dz is None:
        metadata["pixel_size"] = (dy, dx)
        return None
    return dz, dy, dx
