"""Read Imaris files (``.ims``), which are HDF5: one dataset for each level of resolution, frame and channel.

The datasets are padded with zeros to whole chunks; ``ImageSizeX``, ``Y`` and ``Z`` say where the image ends. Attributes
are arrays of characters. Source: the description of the Imaris 5.5 file format by Oxford Instruments.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError, SeveralVolumes
from tensorcell.files.formats import Wanted
from tensorcell.files.hdf5_found import Found
from tensorcell.files.hdf5_sources import find
from tensorcell.files.notes import add_note, text_of
from tensorcell.files.units import Spacing, finite, length

if TYPE_CHECKING:
    import h5py

PATH = re.compile(r"DataSet/ResolutionLevel (\d+)(?:/TimePoint (\d+)(?:/Channel (\d+)(?:/Data)?)?)?")
"""A level, a frame of it, or a channel of that."""

EVEN = 0.1
"""The largest difference between the intervals of frames, as a share of their mean, that one number may stand for."""


def find_imaris(file: h5py.File, wanted: Wanted) -> Found | None:
    """All frames and channels at full resolution, or those that are wanted; None if this is no Imaris file."""
    import h5py

    asked = re.fullmatch(PATH, wanted.dataset or "DataSet/ResolutionLevel 0")
    if asked is None or not isinstance(find(file, "DataSet/ResolutionLevel 0"), h5py.Group):
        return None
    if wanted.series is not None:
        raise InputError("has no series, it is an Imaris file of one image")
    top = f"DataSet/ResolutionLevel {asked[1]}"
    level = find(file, top)
    if level is None:
        raise InputError(f"has no {top!r}")
    frames = [int(asked[2])] if asked[2] else _numbers(level, "TimePoint")
    there = {number for frame in frames for number in _numbers(find(level, f"TimePoint {frame}"), "Channel")}
    channels = [int(asked[3])] if asked[3] else sorted(there)
    parts, size = _parts(file, [f"{top}/TimePoint {t}/Channel {c}" for t in frames for c in channels])
    metadata: dict[str, Any] = {"format": "Imaris HDF5"}
    spacing = _spacing(file, size, metadata)
    names = [_text(find(file, f"DataSetInfo/Channel {channel}"), "Name") for channel in channels]
    if all(names):
        metadata["channel_names"] = names
    if len(frames) > 1:
        _add_interval(file, frames, metadata)
    outer = {letter: count for letter, count in (("T", len(frames)), ("C", len(channels))) if count > 1}
    return Found(parts, "".join(outer) + "ZYX", spacing, metadata, tuple(outer.values()), size)


def _parts(file: h5py.File, names: list[str]) -> tuple[list[h5py.Dataset], tuple[int, ...]]:
    """The datasets of channels, and the size of the image in each of them."""
    import h5py

    if not names:
        raise InputError("is incomplete: it has no channels")
    parts, kinds = [], []
    for name in names:
        part = find(file, f"{name}/Data")
        if not isinstance(part, h5py.Dataset) or part.ndim != 3:
            raise InputError(f"is incomplete: {name} has no stack of planes")
        size = _size(file, find(file, name), full=name.startswith("DataSet/ResolutionLevel 0/"))
        if any(count > stored for count, stored in zip(size, part.shape, strict=True)):
            raise InputError(f"is damaged: {name} is said to have size {size}, it has shape {part.shape}")
        parts.append(part)
        kinds.append((size, part.dtype))
    if len(set(kinds)) > 1:
        listed = ", ".join(f"{name} {size} {dtype}" for name, (size, dtype) in zip(names[:8], kinds, strict=False))
        message = f"has channels of several sizes or types, name one with dataset= or after a colon: {listed}"
        raise SeveralVolumes(message, "dataset", (f"{name}/Data" for name in names))
    return parts, kinds[0][0]


def _numbers(group: Any, word: str) -> list[int]:
    """The numbers of the members called ``TimePoint 0``, ``TimePoint 1`` and so on."""
    found = [re.fullmatch(rf"{word} (\d+)", name) for name in (group or ())]
    return sorted(int(match[1]) for match in found if match is not None)


def _text(group: Any, name: str) -> str:
    """An attribute, which is an array of characters, as text; empty if there is none."""
    value = None if group is None else group.attrs.get(name)
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        value = b"".join(value.ravel().tolist())
    return (text_of(value) or "").strip("\0 ")


def _size(file: h5py.File, group: Any, *, full: bool) -> tuple[int, ...]:
    """Planes, rows and columns of the image in a padded dataset."""
    said = [_text(group, f"ImageSize{letter}") for letter in "ZYX"]
    if not all(said) and full:
        said = [_text(find(file, "DataSetInfo/Image"), letter) for letter in "ZYX"]
    if not all(text.isdecimal() and int(text) > 0 for text in said):
        raise InputError(f"does not say the size of {group.name}, so that its padding is unknown: {said}")
    return tuple(int(text) for text in said)


def _spacing(file: h5py.File, size: tuple[int, ...], metadata: dict[str, Any]) -> Spacing | None:
    """Voxel size from the extents of the whole image, which are the same for all levels."""
    image = find(file, "DataSetInfo/Image")
    unit = _text(image, "Unit") or "um"
    steps = []
    for axis, count in zip("210", size, strict=True):
        first, last = finite(_text(image, f"ExtMin{axis}")), finite(_text(image, f"ExtMax{axis}"))
        steps.append(None if first is None or last is None else length((last - first) / count, unit))
    dz, dy, dx = steps
    if dz is None or dy is None or dx is None:
        add_note(metadata, f"the voxel size is unknown: the extents or their unit {unit!r} are not understood")
        return None
    return dz, dy, dx


def _add_interval(file: h5py.File, frames: list[int], metadata: dict[str, Any]) -> None:
    """Put the seconds between frames into the metadata, or a note where they are uneven."""
    said = [_text(find(file, "DataSetInfo/TimeInfo"), f"TimePoint{frame + 1}") for frame in frames]
    try:
        steps = np.diff([datetime.fromisoformat(text).timestamp() for text in said])
    except (ValueError, OverflowError):
        return
    if steps.min() <= 0:
        return
    if np.ptp(steps) <= EVEN * steps.mean():
        metadata["time_interval"] = float(steps.mean())
    else:
        add_note(metadata, f"the frames are {steps.min():g} to {steps.max():g} s apart, which one interval cannot say")
