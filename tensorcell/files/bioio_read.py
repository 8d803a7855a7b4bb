"""Read files of microscopes (ND2, LIF, CZI, OIR ...) through the plugins of bioio.

A plugin hands on sizes as numbers without a unit: those of ND2, LIF and CZI are micrometres, others those of the
file, so that nanometres of an OME file would become micrometres. The unit is taken from the OME metadata for these.
"""

from __future__ import annotations

import importlib
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import Wanted, chosen_series
from tensorcell.files.layout import native
from tensorcell.files.units import finite, length, seconds_of, voxel_size
from tensorcell.volume import Volume

PERMISSIVE = {".nd2": "bioio-nd2", ".lif": "bioio-lif"}
"""Plugins by the suffix of the file, which the extra ``formats`` brings."""

OTHERS = {".czi": "bioio-czi", **dict.fromkeys((".oir", ".oib", ".oif", ".vsi"), "bioio-bioformats")}
"""Plugins that users install themselves: they, or what they run, are under the GPL."""

MICROMETRES = ("bioio-nd2", "bioio-lif", "bioio-czi")
"""Plugins that give sizes in micrometres whatever the file says."""


def read_bioio(path: Path, wanted: Wanted) -> Volume:
    """Read the scene that is wanted, else the only one."""
    suffix = path.suffix.lower()
    package = PERMISSIVE.get(suffix) or OTHERS[suffix]
    return read_with(package, path, wanted)


def read_with(package: str, path: Path, wanted: Wanted) -> Volume:
    """Read a file through a plugin of bioio that is named by its package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dependencies, about themselves
        reader = _plugin(package).Reader(str(path))
        scenes = [str(scene) for scene in reader.scenes]
        if wanted.series is None and len(scenes) > 1:
            listed = ", ".join(f"{number}: {name}" for number, name in enumerate(scenes[:8]))
            more = ", ..." if len(scenes) > 8 else ""
            raise InputError(f"holds {len(scenes)} images, name one with series=: {listed}{more}")
        number = chosen_series(scenes, [1] * len(scenes), wanted.series)
        reader.set_scene(number)
        names = "".join(reader.dims.order)
        if "S" in names and wanted.axes is None:
            raise InputError(f"is a colour image {reader.shape} ({names}), expected intensities; split the colours")
        data = native(np.asarray(reader.data))
        metadata: dict[str, Any] = {"format": f"{path.suffix[1:].upper()} ({package})"}
        notes: list[str] = []
        steps = _steps(reader, package, number, notes)
        channels = reader.channel_names
        interval = _interval(reader, number)
    if len(scenes) > 1:
        metadata["series"] = f"{number} of {len(scenes)}: {scenes[number]}"
    if channels and len(channels) == dict(zip(names, data.shape, strict=True)).get("C", 1):
        metadata["channel_names"] = [str(name) for name in channels]
    if interval is not None:
        metadata["time_interval"] = interval
    if "M" in names:
        notes.append("The tiles of a mosaic were not put together: they lie along the axis M.")
    spacing: Any = voxel_size(steps, metadata)
    names = wanted.axes or names
    if "Z" not in names:  # single planes need no distance
        spacing = metadata.pop("pixel_size", spacing)
    if notes:
        metadata["notes"] = notes
    return Volume(data, names, spacing, metadata=metadata)


def _plugin(package: str) -> Any:
    """The module of a plugin, or one line that says how to install it."""
    try:
        return importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        if package in PERMISSIVE.values():
            hint = 'pip install "tensorcell[formats]" installs it'
        else:
            hint = f"pip install {package} installs it (under a licence of its own; no part of tensorcell)"
        raise InputError(f"needs the package {package}; {hint}") from error


def _steps(reader: Any, package: str, number: int, notes: list[str]) -> list[float | None]:
    """(dz, dy, dx) in micrometres; None where the unit is not known."""
    given = reader.physical_pixel_sizes
    values = [finite(getattr(given, axis)) for axis in "ZYX"]
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


def _interval(reader: Any, number: int) -> float | None:
    """Seconds between frames; None where the file, or the unit, does not say."""
    given = reader.time_interval
    if isinstance(given, timedelta):
        return given.total_seconds() or None
    pixels = _pixels(reader, number)
    interval = None if pixels is None else finite(pixels.time_increment)
    unit = None if pixels is None else pixels.time_increment_unit
    scale = seconds_of(getattr(unit, "value", unit))
    return interval * scale if interval and scale else None
