"""Read HDF5 files: those of tensorcell, plantseg, Fiji and ilastik, any whose dimensions are labelled, and two layouts.

Fiji's plugin writes a dataset for each frame and channel, ``t0/channel0``; these are put together. The layouts
of BigDataViewer (`bdv_read`) and Imaris (`imaris_read`) are known by their groups, whatever the suffix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError, SeveralVolumes
from tensorcell.files.bdv_read import find_bdv
from tensorcell.files.bdv_xml import description, image_file, parsed
from tensorcell.files.formats import Wanted
from tensorcell.files.hdf5_found import Found
from tensorcell.files.hdf5_sources import find, numbered_files
from tensorcell.files.imaris_read import find_imaris
from tensorcell.files.lazy_values import Opened
from tensorcell.files.notes import add_note, json_object, text_of
from tensorcell.files.probing import try_first
from tensorcell.files.units import Spacing, finite, length, seconds_of, voxel_size
from tensorcell.volume import Volume

if TYPE_CHECKING:
    import h5py


FRAME_OF_CHANNEL = re.compile(r"(.*)/t(\d+)/channel(\d+)")
"""Path of the dataset of a channel in a frame, as Fiji's plugin writes it."""

LOOK = "tensorcell.files.hdf5_read:look"


def read_hdf5(path: Path, wanted: Wanted) -> Volume:
    """Read the volume that is wanted, or the only one; of a BigDataViewer XML, from the HDF5 file that it names.

    All but the values is read in a child process first, unless this process has written or read the file before:
    damaged files can crash HDF5.
    """
    return open_hdf5(path, wanted).volume()


def open_hdf5(path: Path, wanted: Wanted) -> Opened:
    """Find the volume that is wanted, and that all of it is there."""
    import h5py

    if path.suffix.lower() == ".xml" or h5py.is_hdf5(path):
        try_first(LOOK, path, *wanted)
    with opened(path, wanted) as found:
        return found.opened()


def look(path: Path, *wanted: Any) -> None:
    """Do all that reading a file takes except for the values."""
    with opened(path, Wanted(*wanted)):
        pass


@contextmanager
def opened(path: Path, wanted: Wanted) -> Iterator[Found]:
    """The volume that is wanted, in an open file; all of it is there, and none of its values have been read."""
    import h5py

    told = None
    if path.suffix.lower() == ".xml":
        root = parsed(path)
        path, told = image_file(path, root), description(root)
        if not path.is_file():
            raise InputError(f"names the file {str(path)!r}, which is missing")
    if not h5py.is_hdf5(path):
        raise InputError("is no HDF5 file, or its beginning is damaged")
    with h5py.File(path.resolve(), "r") as file:  # beside the file itself, not beside a link to it, lie its sources
        found = find_bdv(file, wanted, told) or find_imaris(file, wanted) or _find_dataset(file, wanted)
        found = found._replace(axes=wanted.axes or found.axes)
        found.check()
        yield found


def _find_dataset(file: h5py.File, wanted: Wanted) -> Found:
    """A dataset, and what its attributes say."""
    import h5py

    if wanted.series is not None:
        raise InputError("has no series, expected dataset= or a path after a colon where it holds several volumes")
    stored, outer = _choose_datasets(file, wanted.dataset)
    attributes = stored[0].attrs
    mask_name = text_of(attributes.get("mask"))
    mask = None if mask_name is None else find(file, mask_name)
    tags = _tags(attributes.get("axistags"))
    inner = (wanted.axes or "")[len(outer) :] or _axes(stored[0], tags)
    if outer and inner is None:
        inner = "ZYX"[-stored[0].ndim :]
    metadata = json_object(attributes.get("metadata"))
    metadata["format"] = "HDF5"
    spacing = _spacing(attributes.get("element_size_um"), inner)
    if spacing is None and inner is not None and len(inner) == len(tags):
        spacing = _spacing_of_tags(tags, json_object(attributes.get("axis_units")), inner, metadata)
    mask = mask if isinstance(mask, h5py.Dataset) else None
    numbered = numbered_files(stored[0])
    if numbered:
        last = f"{len(numbered)} numbered files, to {numbered[-1]}"
        add_note(metadata, f"its values are in {last}; whether later ones are missing it does not say")
    if not outer:
        return Found(stored, inner, spacing, metadata, mask=mask)
    if len({str(part.attrs.get("element_size_um")) for part in stored}) > 1:
        spacing = None
        add_note(metadata, "The voxel size is unknown: the datasets state different ones.")
    add_note(metadata, f"{len(stored)} datasets, {stored[0].name} to {stored[-1].name}, are its frames and channels")
    return Found(stored, "".join(outer) + (inner or ""), spacing, metadata, tuple(outer.values()))


def _choose_datasets(file: h5py.File, name: str | None) -> tuple[list[h5py.Dataset], dict[str, int]]:
    """The dataset called ``name``, or the only one in the file or group that can be a volume, and no further axes.

    Or the datasets of all frames and channels, in their order, and the lengths of the axes T and C.
    """
    import h5py

    start = file if name is None else find(file, name)
    if isinstance(start, h5py.Dataset):
        return [start], {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, Any] = {}
    masks: set[str | None] = set()

    def visit(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "buif":
            shapes[item.name], dtypes[item.name] = item.shape, item.dtype
            masks.add(text_of(item.attrs.get("mask")))

    (file if start is None else start).visititems(visit)
    if any(len(shape) > 2 for shape in shapes.values()):  # what has two axes beside a volume belongs to it
        shapes = {key: shape for key, shape in shapes.items() if len(shape) > 2}
    listed = [key for key in shapes if key not in masks]
    names = ", ".join(f"{key} {shapes[key]}" for key in listed[:8]) + (", ..." if len(listed) > 8 else "")
    if start is None:
        raise InputError(f"has no dataset {name!r}, it has {names or 'none that can be a volume'}")
    if not listed:
        raise InputError("has no dataset of two or more axes, expected a volume")
    if len(listed) > 1:
        frames = _frames_and_channels({key: (shapes[key], dtypes[key]) for key in listed})
        if frames is not None:
            ordered, outer = frames
            return [_dataset_at(file, key) for key in ordered], outer
        message = f"has {len(listed)} volumes, name one with dataset= or after a colon: {names}"
        raise SeveralVolumes(message, "dataset", listed)
    return [_dataset_at(file, listed[0])], {}


def _dataset_at(file: h5py.File, path: str) -> h5py.Dataset:
    import h5py

    chosen = find(file, path)
    assert isinstance(chosen, h5py.Dataset)
    return chosen


def _frames_and_channels(kinds: Mapping[str, Any]) -> tuple[list[str], dict[str, int]] | None:
    """The paths in the order of frames and channels, and how many there are; None if they are something else.

    ``kinds`` are what all of them must share, by their paths.

    Raises
    ------
    InputError
        If a channel of a frame is missing.
    """
    found = {match: path for path in kinds if (match := FRAME_OF_CHANNEL.fullmatch(path))}
    if len(found) != len(kinds) or len(set(kinds.values())) > 1 or len({match[1] for match in found}) > 1:
        return None
    numbers = {(int(match[2]), int(match[3])): path for match, path in found.items()}
    frames, channels = (range(min(column), max(column) + 1) for column in zip(*numbers, strict=True))
    places = ((t, c) for t in frames for c in channels)
    if len(frames) * len(channels) != len(numbers):
        t, c = next(place for place in places if place not in numbers)
        raise InputError(f"is incomplete: it lacks t{t}/channel{c} of {len(frames)} frames of {len(channels)} channels")
    outer = {letter: len(each) for letter, each in (("T", frames), ("C", channels)) if len(each) > 1}
    return [numbers[place] for place in places], outer


def _tags(value: Any) -> list[dict[str, Any]]:
    """ilastik's ``axistags``: for each axis its key, resolution and description; empty if there are none."""
    tags = json_object(value).get("axes")
    return tags if isinstance(tags, list) and all(isinstance(tag, dict) for tag in tags) else []


def _axes(stored: h5py.Dataset, tags: Sequence[dict[str, Any]]) -> str | None:
    """Axes from our ``axes`` attribute, ilastik's ``axistags`` or HDF5's dimension labels.

    The labels are read only where the others do not decide: in damaged files HDF5 is seen to crash there.
    """
    own, keys = text_of(stored.attrs.get("axes")), "".join(str(tag.get("key", "")) for tag in tags)
    return _named(own, stored.ndim) or _named(keys, stored.ndim) or _named(_labels(stored), stored.ndim)


def _labels(stored: h5py.Dataset) -> str:
    words = {"depth": "Z", "height": "Y", "width": "X"}
    return "".join(words.get(dim.label.lower(), dim.label[:1]) for dim in stored.dims)


def _named(text: str | None, count: int) -> str | None:
    """The text as names of axes, if it names that many."""
    named = (text or "").upper()
    return named if len(named) == count and set("YX") <= set(named) and len(set(named)) == count else None


def _spacing(value: Any, axes: str | None) -> Spacing | None:
    """``element_size_um``, as (dz, dy, dx) or with one entry per axis, if it holds positive numbers."""
    try:
        steps = [float(step) for step in np.ravel(value)]
    except (TypeError, ValueError):
        return None
    if axes is not None and len(steps) == len(axes) and (len(axes) > 3 or "Z" not in axes):
        steps = [steps[axes.index(letter)] for letter in ("ZYX" if "Z" in axes else "YYX")]
    if len(steps) != 3 or not all(math.isfinite(step) and step > 0 for step in steps):
        return None
    return steps[0], steps[1], steps[2]


def _spacing_of_tags(
    tags: Sequence[dict[str, Any]], units: dict[str, Any], axes: str, metadata: dict[str, Any]
) -> Spacing | None:
    """Voxel size from ilastik's resolutions and their units; the time between frames goes into the metadata.

    The unit of an axis is that of ``axis_units``; without that attribute, the description of the tag may be one.
    """
    steps: dict[str, float | None] = {}
    for letter, tag in zip(axes, tags, strict=True):
        unit = units.get(str(tag.get("key")), "") if units else tag.get("description", "")
        if letter == "T":
            step, seconds = finite(tag.get("resolution")), seconds_of(unit)
            if step is not None and step > 0 and seconds is not None:
                metadata["time_interval"] = step * seconds
        else:
            steps[letter] = length(tag.get("resolution"), unit)
    planes = "Z" if "Z" in steps else "Y"  # of single planes dz says nothing
    return voxel_size([steps.get(letter) for letter in (planes, "Y", "X")], metadata)
