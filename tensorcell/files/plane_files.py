"""A stack that lies in several files, one plane or one frame in each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.claimed_sizes import check_claim
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


def read_in_order(
    paths: Sequence[FilePath],
    read_one: Callable[[FilePath], Volume],
    axes: str | None,
    missing_planes: bool = False,
) -> Volume:
    """Read one volume from each path and put them one after the other along a new first axis.

    Parameters
    ----------
    paths : sequence of path
        In the order of the planes.
    read_one : callable
        Reads a file; its errors name the file.
    axes : str or None
        Names of all axes, the new one first; None makes it Z, where the files hold no stacks.
    missing_planes : bool
        Whether places are left free, as not measured, for numbers that the names of the files leave out.

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
    numbering = _numbering([Path(path).name for path in paths])
    gaps = missing_planes and numbering.in_order and numbering.left_out > 0
    places = numbering.places if gaps else range(len(paths))
    shape = (max(places) + 1, *first.shape)
    check_claim(shape, first.dtype)
    data = np.full(shape, np.nan if first.dtype.kind == "f" else 0, first.dtype)
    mask = np.zeros(shape, bool) if gaps else None
    notes, sizes = list(first.metadata.get("notes", ())), {_size(first)}
    for number, path in enumerate(paths):
        plane = first if number == 0 else _plane(read_one(path))
        if (plane.shape, plane.axes, plane.dtype) != (first.shape, first.axes, first.dtype):
            raise InputError(
                f"{path}: holds {plane.shape} {plane.axes} of {plane.dtype}, expected {first.shape} {first.axes} of "
                f"{first.dtype} as in {paths[0]}"
            )
        data[places[number]] = plane.data
        if plane.mask is not None and mask is None:
            mask = np.ones(shape, bool)
        if mask is not None:
            mask[places[number]] = True if plane.mask is None else plane.mask
        sizes.add(_size(plane))
        notes += [note for note in plane.metadata.get("notes", ()) if note not in notes]
    notes += numbering.notes(gaps=gaps)
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


class _Numbering(NamedTuple):
    """What the numbers in the names of files say of the order of the planes."""

    in_order: bool
    """Whether the files are in the order of their names."""
    places: Sequence[int]
    """Of each file, where places are left free for the numbers that are left out."""
    left_out: int = 0
    """How many numbers are."""
    first: str = ""
    """The first of them, in words."""

    def notes(self, *, gaps: bool) -> list[str]:
        """What is said of them; ``gaps`` are places that were left free."""
        notes = []
        if not self.in_order:
            notes.append("The planes are in the order in which the files were given, which is not that of their names.")
        if self.left_out:
            said = f"The numbers in the names of the files leave out {self.first}; "
            if gaps:
                planes = "1 plane counts" if self.left_out == 1 else f"{self.left_out} planes count"
                notes.append(f"{said}{planes} as not measured.")
            else:
                how = " (missing_planes=True or --missing-planes does)" if self.in_order else ""
                notes.append(f"{said}no plane was left free for them{how}.")
        return notes


def _numbering(names: Sequence[str]) -> _Numbering:
    """What one number in the names that counts in equal steps says of them."""
    in_order = list(names) == sorted(names, key=natural_order)
    usual = _Numbering(in_order, range(len(names)))
    varying = _varying_numbers(names)
    if varying is None or len(varying) != 1:
        return usual
    numbers = varying[0]
    steps = np.diff(sorted(numbers))
    step = int(steps.min())
    if step < 1 or np.any(steps % step):
        return usual
    every, there = range(min(numbers), max(numbers) + 1, step), set(numbers)
    left_out = len(every) - len(numbers)
    first = [str(number) for number in itertools.islice((n for n in every if n not in there), MOST_LISTED)]
    places = [(number - every[0]) // step for number in numbers]
    return _Numbering(in_order, places, left_out, ", ".join(first) + (", ..." if left_out > MOST_LISTED else ""))
