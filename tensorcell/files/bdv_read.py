"""Read BigDataViewer's HDF5 files: a dataset ``t00000/s00/0/cells`` for each frame, setup and level, and an XML.

The values are uint16 that are stored as int16, unless an attribute ``dataType`` says otherwise. A *setup* is a
combination of channel, angle, tile and illumination. Source: the description of the format at imagej.net/plugins/bdv.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError, SeveralVolumes
from tensorcell.files.bdv_xml import Description, read_description
from tensorcell.files.formats import Wanted, chosen_series
from tensorcell.files.hdf5_found import Found
from tensorcell.files.hdf5_sources import find
from tensorcell.files.notes import add_note, text_of
from tensorcell.files.units import Spacing, length

if TYPE_CHECKING:
    import h5py

PATH = re.compile(r"t(\d{5,})(?:/s(\d{2,})(?:/(\d+)(?:/cells)?)?)?")
"""A frame, a setup of it, or a level of that."""


def find_bdv(file: h5py.File, wanted: Wanted, told: Description | None = None) -> Found | None:
    """All frames at full resolution of a setup or of all channels, or what is wanted; None if this is no such file.

    Several setups become channels if they have one shape and one voxel size, and if the XML, where there is one, says
    that they differ in channel alone. Else one must be chosen by ``series``.
    """
    asked = re.fullmatch(PATH, wanted.dataset) if wanted.dataset else None
    if wanted.dataset and asked is None:
        return None
    every = {frame: _members(find(file, f"t{frame:05d}"), r"s(\d{2,})") for frame in _members(file, r"t(\d{5,})")}
    every = {frame: setups for frame, setups in every.items() if setups}
    if not every:
        return None
    told = read_description(Path(file.filename)) if told is None else told
    frames, level = sorted(every), 0
    setups = sorted({setup for found in every.values() for setup in found})
    if asked is not None:
        frames, level = [int(asked[1])], int(asked[3] or 0)
        setups = [int(asked[2])] if asked[2] else setups
    else:
        _check_complete(told, frames, setups)
    metadata: dict[str, Any] = {"format": "BigDataViewer HDF5"}
    if len(setups) > 1:
        setups = _chosen_setups(file, told, setups, every, wanted, metadata)
    elif wanted.series is not None:
        chosen_series([_name(told, setups[0])], [1], wanted.series)
    parts = [_cells(file, frame, setup, level) for frame in frames for setup in setups]
    _check_alike(told, parts, setups if level == 0 else [])
    _add_affine(told, [(frame, setup) for frame in frames for setup in setups], metadata)
    names = [told.setups[setup].channel for setup in setups if setup in told.setups]
    if len(names) == len(setups) and all(names):
        metadata["channel_names"] = names
    spacing = _spacing(file, told, setups[0], level)
    outer = {letter: count for letter, count in (("T", len(frames)), ("C", len(setups))) if count > 1}
    unsigned = _is_unsigned(file, parts[0], setups[0])
    return Found(parts, "".join(outer) + "ZYX", spacing, metadata, tuple(outer.values()), unsigned=unsigned)


def _members(group: Any, pattern: str) -> list[int]:
    """The numbers in the names of members that fit the pattern."""
    found = [re.fullmatch(pattern, name) for name in (group or ())]
    return sorted(int(match[1]) for match in found if match is not None)


def _cells(file: h5py.File, frame: int, setup: int, level: int) -> h5py.Dataset:
    import h5py

    name = f"t{frame:05d}/s{setup:02d}/{level}/cells"
    part = find(file, name)
    if not isinstance(part, h5py.Dataset) or part.ndim != 3:
        raise InputError(f"is incomplete: it has no stack of planes {name!r}")
    return part


def _check_alike(told: Description, parts: Sequence[h5py.Dataset], setups: Sequence[int]) -> None:
    """Raise `InputError` unless all views have one shape and type, and the shape that the XML says for the setups."""
    if len({(part.shape, part.dtype) for part in parts}) > 1:
        listed = ", ".join(f"{part.name} {part.shape} {part.dtype}" for part in parts[:8])
        raise SeveralVolumes(
            f"has views of several shapes or types, name one with dataset= or after a colon: {listed}",
            "dataset",
            (part.name for part in parts),
        )
    for setup in setups:
        size = told.setups[setup].size if setup in told.setups else None
        if size not in (None, parts[0].shape):
            raise InputError(f"is damaged: its XML says size {size} for setup {setup}, it has shape {parts[0].shape}")


def _check_complete(told: Description, frames: Sequence[int], setups: Sequence[int]) -> None:
    """Raise `InputError` if the XML names frames or setups that the file does not have."""
    for kind, said, there in (("frame", told.frames or (), frames), ("setup", tuple(told.setups), setups)):
        lacking = sorted(set(said) - set(there))
        if lacking:
            raise InputError(f"is incomplete: its XML names {len(said)} {kind}s, it lacks {kind} {lacking[0]}")


def _chosen_setups(
    file: h5py.File,
    told: Description,
    setups: list[int],
    every: dict[int, list[int]],
    wanted: Wanted,
    metadata: dict[str, Any],
) -> list[int]:
    """The setup that is wanted, or all of them where they are channels of one view."""
    first = {setup: min(frame for frame, there in every.items() if setup in there) for setup in setups}
    shapes = {setup: _cells(file, first[setup], setup, 0).shape for setup in setups}
    names = [_name(told, setup) for setup in setups]
    if wanted.series is not None:
        number = chosen_series(names, [1] * len(setups), wanted.series)
        metadata["series"] = f"{number} of {len(setups)}: {names[number]}"
        return [setups[number]]
    if len(set(shapes.values())) > 1:
        why = "of several shapes"
    elif len({_spacing(file, told, setup, 0) for setup in setups}) > 1:
        why = "of several voxel sizes"
    elif len({told.setups[setup].place for setup in setups if setup in told.setups}) > 1:
        why = "that differ in angle, tile or illumination"
    else:
        if not told.setups:
            said = "have one shape and are taken for channels: no XML beside it says what they are"
            add_note(metadata, f"its {len(setups)} setups {said}")
        return setups
    pairs = zip(names, shapes.values(), strict=True)
    listed = ", ".join(f"{number}: {name} {shape}" for number, (name, shape) in enumerate(pairs) if number < 8)
    more = ", ..." if len(setups) > 8 else ""
    raise SeveralVolumes(
        f"has {len(setups)} setups {why}, choose one with series=: {listed}{more}", "series", range(len(setups))
    )


def _name(told: Description, setup: int) -> str:
    return (told.setups[setup].name if setup in told.setups else "") or f"s{setup:02d}"


def _spacing(file: h5py.File, told: Description, setup: int, level: int) -> Spacing | None:
    """Voxel size that the XML says for the full resolution, times the factors of the level."""
    if setup not in told.setups:
        return None
    said = told.setups[setup]
    steps = [length(step, said.unit) for step in said.steps]
    factors = _factors(file, setup, level)
    if factors is None or len(steps) != 3:
        return None
    dz, dy, dx = (None if step is None else step * factor for step, factor in zip(steps, factors, strict=True))
    return None if dz is None or dy is None or dx is None else (dz, dy, dx)


def _factors(file: h5py.File, setup: int, level: int) -> tuple[float, ...] | None:
    """By how much the voxels of a level are larger along z, y and x; None if the file does not say it."""
    import h5py

    stored = find(file, f"s{setup:02d}/resolutions")
    if level == 0:
        return 1.0, 1.0, 1.0
    if not isinstance(stored, h5py.Dataset) or stored.ndim != 2 or stored.shape[1] != 3 or stored.shape[0] <= level:
        return None
    return tuple(float(factor) for factor in stored[level][::-1])  # stored as x, y, z


def _is_unsigned(file: h5py.File, part: h5py.Dataset, setup: int) -> bool:
    """Whether int16 means uint16: unless ``dataType`` says that it is signed."""
    if part.dtype.kind != "i" or part.dtype.itemsize != 2:
        return False
    group = find(file, f"s{setup:02d}")
    said = [text_of(item.attrs.get("dataType")) for item in (group, part) if item is not None]
    return "int16" not in [(text or "").strip('"').lower() for text in said]


def _add_affine(told: Description, views: list[tuple[int, int]], metadata: dict[str, Any]) -> None:
    """Put the transformation into the metadata, and a note where views have several or one that turns or shears."""
    found = [told.affines[view] for view in views if view in told.affines]
    if not found:
        return
    if len(found) < len(views) or any(not np.array_equal(affine, found[0]) for affine in found):
        add_note(
            metadata, f"its XML says several transformations for {len(views)} views, which are not applied or kept"
        )
        return
    metadata["affine"] = found[0].tolist()
    linear = found[0][:, :3]
    if np.any(linear != np.diag(np.diag(linear))):
        add_note(metadata, "the transformation that its XML says turns or shears, which is not applied: see affine")
