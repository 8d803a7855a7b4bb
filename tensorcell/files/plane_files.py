"""A stack that lies in several files, one plane or one frame in each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import MOST_LISTED, FilePath
from tensorcell.files.table import suffix_of
from tensorcell.volume import Volume


def files_of_folder(folder: Path) -> list[Path]:
    """The files of a folder in the order of the numbers in their names; hidden ones do not count.

    Raises
    ------
    InputError
        If there are none, or several kinds of files, or folders, or names that differ in more than one number: which
        planes follow each other is not for us to guess then.
    """
    members = [path for path in folder.iterdir() if not path.name.startswith(".")]
    kinds = sorted({"folders" if path.is_dir() else suffix_of(path).lower() or "no suffix" for path in members})
    if kinds in ([], ["folders"]):
        raise InputError("is a folder without files, expected the planes of a stack")
    if len(kinds) > 1:
        raise InputError(
            f"holds files of several kinds ({', '.join(kinds)}), expected one plane of a stack in each file"
        )
    paths = sorted(members, key=natural_order)
    varying = _varying_numbers([path.name for path in paths])
    if varying is None or len(varying) > 1:
        raise InputError(
            f"has names that vary in {'words' if varying is None else 'several numbers'} ({paths[0].name} ... "
            f"{paths[-1].name}), expected one number that counts the planes; pass the paths of one stack as a list"
        )
    return paths


def natural_order(path: FilePath) -> list[Any]:
    """A key for sorting by which 2 comes before 10.

    >>> sorted(["z10.tif", "z2.tif", "Z1.tif"], key=natural_order)
    ['Z1.tif', 'z2.tif', 'z10.tif']
    """
    texts = re.split(r"(\d+)", str(path).lower())
    return [int(text) if text.isdecimal() else text for text in texts]


def read_in_order(paths: Sequence[FilePath], read_one: Callable[[FilePath], Volume], axes: str | None) -> Volume:
    """Read one volume from each path and put them one after the other along a new first axis.

    Parameters
    ----------
    paths : sequence of path
        In the order of the planes.
    read_one : callable
        Reads a file; its errors name the file.
    axes : str or None
        Names of all axes, the new one first; None makes it Z, where the files hold no stacks.

    Raises
    ------
    InputError
        If a file differs from the first in shape, axes or data type; if it holds a stack and no axes are given.
    """
    if not paths:
        raise InputError("the list of paths is empty, expected the planes of a stack")
    first = _plane(read_one(paths[0]))
    names = axes or f"Z{first.axes}"
    if len(names) != first.data.ndim + 1:
        raise InputError(f"axes {names!r} name {len(names)} axes, files of {first.axes} make {first.data.ndim + 1}")
    if len(set(names)) != len(names):
        raise InputError(
            f"{paths[0]}: holds a stack {first.shape} ({first.axes}), expected a plane; axes='T{first.axes}' makes "
            "each file a frame"
        )
    data = np.empty((len(paths), *first.shape), first.dtype)
    mask, notes, sizes = None, list(first.metadata.get("notes", ())), {_size(first)}
    for number, path in enumerate(paths):
        plane = first if number == 0 else _plane(read_one(path))
        if (plane.shape, plane.axes, plane.dtype) != (first.shape, first.axes, first.dtype):
            raise InputError(
                f"{path}: holds {plane.shape} {plane.axes} of {plane.dtype}, expected {first.shape} {first.axes} of "
                f"{first.dtype} as in {paths[0]}"
            )
        data[number] = plane.data
        if plane.mask is not None:
            mask = np.ones(data.shape, bool) if mask is None else mask
            mask[number] = plane.mask
        sizes.add(_size(plane))
        notes += [note for note in plane.metadata.get("notes", ()) if note not in notes]
    notes += _notes_on_names([Path(path).name for path in paths])
    metadata: dict[str, Any] = {key: value for key, value in first.metadata.items() if key != "pixel_size"}
    spacing = None
    if len(sizes) > 1:
        notes.append("The voxel size is unknown: the files state different ones.")
    elif first.spacing is not None and "Z" in names and "Z" not in first.axes:
        metadata["pixel_size"] = first.spacing[1:]  # the distance of the planes is in no file
    else:
        spacing = first.spacing
    if notes:
        metadata["notes"] = notes
    metadata["files"] = len(paths)
    return Volume(data, names, spacing, mask, metadata)


def _plane(volume: Volume) -> Volume:
    """The volume without an axis Z of length 1, whose pixel size then counts."""
    if "Z" not in volume.axes or volume.planes > 1:
        return volume
    axis = volume.axes.index("Z")
    spacing = volume.spacing or volume.metadata.get("pixel_size")
    mask = None if volume.mask is None else volume.mask.squeeze(axis)
    return Volume(volume.data.squeeze(axis), volume.axes.replace("Z", ""), spacing, mask, volume.metadata)


def _size(plane: Volume) -> tuple[float, ...] | None:
    """The voxel size to six digits: files that were calibrated alike may differ in the last ones."""
    if plane.spacing is None:
        return None
    steps = plane.spacing if "Z" in plane.axes else plane.spacing[1:]
    return tuple(float(f"{step:.6g}") for step in steps)


def _varying_numbers(names: Sequence[str]) -> list[list[int]] | None:
    """The columns of numbers that are not the same in all names; None where the names differ in more than numbers.

    >>> _varying_numbers(["a1_z1.tif", "a1_z2.tif"]), _varying_numbers(["a.tif", "b.tif"])
    ([[1, 2]], None)
    """
    parts = [re.split(r"(\d+)", name.lower()) for name in names]
    if len({tuple(part[::2]) for part in parts}) != 1:
        return None
    columns = [[int(part[place]) for part in parts] for place in range(1, len(parts[0]), 2)]
    return [column for column in columns if len(set(column)) > 1]


def _notes_on_names(names: Sequence[str]) -> list[str]:
    """What the numbers in the names say against the order of the planes, or that planes are missing."""
    notes = []
    if list(names) != sorted(names, key=natural_order):
        notes.append("The planes are in the order in which the files were given, which is not that of their names.")
    varying = _varying_numbers(names)
    if varying is not None and len(varying) == 1:
        numbers = sorted(varying[0])
        steps = np.diff(numbers)
        step = int(np.min(steps)) if steps.size else 1
        lacking = sorted(set(range(numbers[0], numbers[-1], step)) - set(numbers)) if step > 0 else []
        if lacking and np.all(steps % step == 0):
            more = ", ..." if len(lacking) > MOST_LISTED else ""
            listed = ", ".join(map(str, lacking[:MOST_LISTED])) + more
            notes.append(f"The numbers in the names of the files leave out {listed}; no plane was left free for them.")
    return notes
