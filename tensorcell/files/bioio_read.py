"""Read files of microscopes (ND2, LIF, CZI, OIR ...) through the plugins of bioio.

`tensorcell.files.bioio_sizes` says what their sizes mean.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError, SeveralVolumes
from tensorcell.files.bioio_sizes import interval, steps_of
from tensorcell.files.formats import Wanted, chosen_series
from tensorcell.files.layout import native
from tensorcell.files.units import voxel_size
from tensorcell.volume import Volume

PERMISSIVE = {".nd2": "bioio-nd2", ".lif": "bioio-lif"}
"""Plugins by the suffix of the file, which the extra ``formats`` brings."""

OTHERS = {".czi": "bioio-czi", **dict.fromkeys((".oir", ".oib", ".oif", ".vsi"), "bioio-bioformats")}
"""Plugins that users install themselves: they, or what they run, are under the GPL."""


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
            raise SeveralVolumes(
                f"holds {len(scenes)} images, name one with series=: {listed}{more}", "series", range(len(scenes))
            )
        number = chosen_series(scenes, [1] * len(scenes), wanted.series)
        reader.set_scene(number)
        names = "".join(reader.dims.order)
        if "S" in names and wanted.axes is None:
            raise InputError(f"is a colour image {reader.shape} ({names}), expected intensities; split the colours")
        data = native(np.asarray(reader.data))
        metadata: dict[str, Any] = {"format": f"{path.suffix[1:].upper()} ({package})"}
        notes: list[str] = []
        steps = steps_of(reader, package, number, notes)
        channels = reader.channel_names
        seconds = interval(reader, number)
    if len(scenes) > 1:
        metadata["series"] = f"{number} of {len(scenes)}: {scenes[number]}"
    if channels and len(channels) == dict(zip(names, data.shape, strict=True)).get("C", 1):
        metadata["channel_names"] = [str(name) for name in channels]
    if seconds is not None:
        metadata["time_interval"] = seconds
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
