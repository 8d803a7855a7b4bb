"""Units of length and time, and lengths in micrometres as files state them."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Spacing = tuple[float, float, float]

UNITS = {  # size in micrometres: names in lower case, without the s of the plural
    1e-6: ("pm", "picometer", "picometre"),
    1e-4: ("\u00e5", "angstrom", "\u00e5ngstr\u00f6m"),
    1e-3: ("nm", "nanometer", "nanometre"),
    # The third: UTF-8 that was taken for Latin-1.
    1.0: ("um", "\u03bcm", "\u00e2\u03bcm", "micron", "micrometer", "micrometre"),
    1e3: ("mm", "millimeter", "millimetre"),
    1e4: ("cm", "centimeter", "centimetre"),
    25400.0: ("in", "inch", "inche"),
    1e5: ("dm", "decimeter", "decimetre"),
    1e6: ("m", "meter", "metre"),
}
MICROMETRES = {name: size for size, names in UNITS.items() for name in names}
NO_UNITS = ("", "pixel", "pixels", "px")
"""What programs write that know no unit."""

SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e3
"""Voxel sizes in micrometres beyond which a microscope is hardly meant."""

PRINT_RESOLUTIONS = (72, 75, 90, 96, 100, 120, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)
"""Pixels per inch that programs write for screens and printers."""

SECONDS = {"us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
SECONDS |= {"hour": 3600.0, "d": 86400.0}
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
    name = ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), html.unescape(str(unit)))
    # The normal form has one sign each for micro and for angstrom.
    name = unicodedata.normalize("NFKC", name).strip().strip("\"'").strip().lower()
    return MICROMETRES.get(name, MICROMETRES.get(name.removesuffix("s")) if len(name) > 2 else None)


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
