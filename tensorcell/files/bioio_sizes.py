"""Voxel sizes and times between frames as the readers of bioio give them.

A plugin hands on sizes as numbers without a unit: those of ND2, LIF and CZI are micrometres, others those of the
file, so that nanometres of an OME file would become micrometres. The unit is taken from the OME metadata for these.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tensorcell.files.units import finite, length, seconds_of

MICROMETRES = ("bioio-nd2", "bioio-lif", "bioio-czi")
"""Plugins that give sizes in micrometres whatever the file says."""


def steps_of(reader: Any, package: str, number: int, notes: list[str]) -> list[float | None]:
    """(dz, dy, dx) in micrometres; None where the unit is not known."""
    sizes = reader.physical_pixel_sizes
    values = [finite(getattr(sizes, axis, None)) for axis in "ZYX"]
    if package in MICROMETRES:
        return [length(value, "um") for value in values]
    pixels = _pixels(reader, number)
    if pixels is not None:
        sizes = [getattr(pixels, f"physical_size_{axis}") for axis in "zyx"]
        units = [getattr(pixels, f"physical_size_{axis}_unit") for axis in "zyx"]
        return [length(size, getattr(unit, "value", unit)) for size, unit in zip(sizes, units, strict=True)]
    if any(values):
        notes.append(f"The voxel size is unknown: {package} gives {values} along z, y and x without a unit.")
    return [None, None, None]


def _pixels(reader: Any, number: int) -> Any:
    """The OME metadata of the pixels of a scene; None where the plugin has none."""
    try:
        images = reader.ome_metadata.images
    except NotImplementedError:
        return None
    return images[number].pixels if number < len(images) else None


def interval(reader: Any, number: int) -> float | None:
    """Seconds between frames; None where the file, or the unit, does not say."""
    given = reader.time_interval
    if isinstance(given, timedelta):
        return given.total_seconds() or None
    pixels = _pixels(reader, number)
    step = None if pixels is None else finite(pixels.time_increment)
    unit = None if pixels is None else pixels.time_increment_unit
    scale = seconds_of(getattr(unit, "value", unit))
    return step * scale if step and scale else None
