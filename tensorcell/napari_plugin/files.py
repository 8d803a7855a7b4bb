"""Readers and writers for napari of all formats of `tensorcell.files.table`; `napari.yaml` names their suffixes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError, SeveralVolumes
from tensorcell.files import is_readable, open_volume, suffix_of, write
from tensorcell.lazy_volume import LazyVolume
from tensorcell.napari_plugin.layers import LayerData, array_of, axes_of, joined, layers_of, scale_without_unit
from tensorcell.volume_checks import notes_on_file

LARGE = 10**9
"""Bytes from which on planes are read when they are shown, where the format allows it."""

MOST_VOLUMES = 12
"""Volumes of a file that are read, at most."""


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """The function that reads a file, or several with a plane each; None for what is none of ours."""
    first = path if isinstance(path, str) else path[0]
    return read_layers if is_readable(Path(first)) else None


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """The layers of a file, or of several files with a plane each; what its reader notes becomes a warning.

    Of a file that holds several volumes all are read, as many as `MOST_VOLUMES`, and all but the first are hidden.
    """
    first = Path(path if isinstance(path, str) else path[0])
    name = first.name.removesuffix(suffix_of(first))
    try:
        return layers_in(path, first, name)
    except InputError as error:
        several = several_in(error)
        if several is None or not several.names:
            raise
    layers: list[LayerData] = []
    for one in several.names[:MOST_VOLUMES]:
        found = layers_in(path, first, f"{name} {one.strip('/')}", **{several.argument: one})
        for _, meta, _ in found if layers else ():
            meta["visible"] = False
        layers += found
    if len(several.names) > MOST_VOLUMES:
        warnings.warn(
            f"{first.name}: the first {MOST_VOLUMES} of {len(several.names)} volumes are shown "
            f"(tensorcell.read(..., {several.argument}=) reads each)",
            stacklevel=2,
        )
    return layers


def several_in(error: BaseException | None) -> SeveralVolumes | None:
    """The error which says that a file holds several volumes, if another was raised for it."""
    while error is not None and not isinstance(error, SeveralVolumes):
        error = error.__cause__
    return error


def layers_in(path: str | Sequence[str], first: Path, name: str, **wanted: str) -> list[LayerData]:
    """The layers of one volume, which is named by the arguments of `tensorcell.read` where there are several."""
    volume = open_volume(path, **wanted)  # type: ignore[arg-type]
    if math.prod(volume.shape) * volume.dtype.itemsize > LARGE:
        volume = by_planes(volume)
    else:
        whole = volume.part((slice(None),) * len(volume.shape))
        volume = LazyVolume(whole.data, whole.axes, whole.spacing, whole.mask, whole.metadata)
    for note in notes_on_file(volume):
        warnings.warn(f"{first.name}: {note}", stacklevel=3)
    return layers_of(volume, name)


def by_planes(volume: LazyVolume) -> LazyVolume:
    """The volume with an array of dask, of which a plane is read when it is needed."""
    from dask.array import from_array

    chunks = tuple(size if letter in "YX" else 1 for letter, size in zip(volume.axes, volume.shape, strict=True))

    def lazy(values: Any) -> Any:
        make: Any = from_array  # has no types
        if values is None:
            return None
        return make(values, chunks=chunks, name=False, meta=np.empty((0,) * len(chunks), values.dtype))

    return replace(volume, data=lazy(volume.data), mask=lazy(volume.mask))


def write_layers(path: str, layers: list[LayerData]) -> list[str]:
    """Write image layers to one file, as channels if there are several; the format follows from the suffix.

    What the file does not hold becomes a warning.
    """
    volume = joined(layers)
    done = write(path, volume)
    lost = list(done.lost)
    for layer in layers:
        _, meta, _ = layer
        axes = axes_of(meta, len(array_of(layer).shape)) or ""
        if scale_without_unit(meta, axes) is not None:
            lost.append("the scale of a layer without a unit (expected layer.units = 'um')")
            break
    if lost:
        warnings.warn(f"{Path(path).name} does not hold {', '.join(lost)}", stacklevel=2)
    return [str(done.path)]
