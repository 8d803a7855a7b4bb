"""Parts of a volume: ``volume[3]`` and ``volume[:, ::2, ::2]`` with the axes, voxel size and metadata that remain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.volume_checks import pixel_size_of

if TYPE_CHECKING:
    from tensorcell.volume import Volume

COUNTED = {
    "channel_names": "C",
    "planes": "TCZ",
    "labels": "TCZ",
    "channel_colors": "C",
    "emission_wavelengths": "C",
    "excitation_wavelengths": "C",
    "display_ranges": "C",
    "luts": "C",
}
"""Items of the metadata that are lists, or lists by name, with an entry for each index along these axes."""


def part_of(volume: Volume, key: Any) -> Any:
    """``volume[key]``; see `Volume.__getitem__`."""
    entries = key if isinstance(key, tuple) else (key,)
    entries = tuple(np.asarray(entry) if isinstance(entry, type(volume)) else entry for entry in entries)
    data = volume.data[entries]
    index = whole_index(entries, volume.data.ndim)
    if index is None:
        return data
    kept = {letter: each for letter, each in zip(volume.axes, index, strict=True) if isinstance(each, slice)}
    if not set("YX") <= set(kept) or data.size == 0:
        return data
    steps = {letter: abs(each.step or 1) for letter, each in kept.items()}
    spacing = volume.spacing
    if spacing is not None:
        dz, dy, dx = (size * steps.get(letter, 1) for letter, size in zip("ZYX", spacing, strict=True))
        spacing = (dz, dy, dx)
    mask = None if volume.mask is None else volume.mask[entries]
    metadata = metadata_of_part(volume, dict(zip(volume.axes, index, strict=True)), steps)
    return dataclasses.replace(volume, data=data, axes="".join(kept), spacing=spacing, mask=mask, metadata=metadata)


def whole_index(entries: tuple[Any, ...], count: int) -> tuple[int | slice, ...] | None:
    """An entry for each of so many axes, if all are integers, slices or one Ellipsis; else None.

    >>> whole_index((..., 3), 3)
    (slice(None, None, None), slice(None, None, None), 3)
    """
    if any(entry is None or not (entry is ... or isinstance(entry, slice | Integral)) for entry in entries):
        return None
    if any(isinstance(entry, bool) for entry in entries):
        return None
    place = next((i for i, entry in enumerate(entries) if entry is ...), len(entries))
    before, after = entries[:place], entries[place + 1 :]
    return (*before, *[slice(None)] * (count - len(before) - len(after)), *after)


def metadata_of_part(volume: Volume, index: Mapping[str, int | slice], steps: Mapping[str, int]) -> Mapping[str, Any]:
    """The metadata, with the channels, the time between frames and the pixel size of a part."""
    metadata = dict(volume.metadata)
    for key, letters in COUNTED.items():
        if key in metadata:
            metadata[key] = counted_part(metadata[key], volume, letters, index)
    if steps.get("T", 1) > 1 and isinstance(metadata.get("time_interval"), int | float):
        metadata["time_interval"] *= steps["T"]
    pixels = pixel_size_of(volume)
    if "pixel_size" in metadata and pixels is not None:
        metadata["pixel_size"] = (pixels[0] * steps["Y"], pixels[1] * steps["X"])
    return metadata


def counted_part(value: Any, volume: Volume, letters: str, index: Mapping[str, int | slice]) -> Any:
    """The entries of a part: of a list, or of each list of a mapping, that counts along these axes."""
    if isinstance(value, Mapping):
        return {name: counted_part(one, volume, letters, index) for name, one in value.items()}
    present = [letter for letter in letters if letter in volume.axes]
    sizes = [volume.shape[volume.axes.index(letter)] for letter in present]
    if not isinstance(value, list | tuple) or len(value) != math.prod(sizes):
        return value
    places = np.arange(len(value)).reshape(sizes)[tuple(index[letter] for letter in present)]
    return [value[place] for place in np.atleast_1d(places).ravel()]
