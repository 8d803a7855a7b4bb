"""Read NIfTI and NRRD through nibabel and pynrrd: stacks whose steps are often millimetres, stated or not."""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.claimed_sizes import check_claim
from tensorcell.files.formats import Wanted
from tensorcell.files.layout import native
from tensorcell.files.messages import library
from tensorcell.files.units import finite, length, micrometres, seconds_of, voxel_size
from tensorcell.volume import Volume

NIFTI_AXES = "XYZTC"
"""The first five axes of NIfTI, the fastest one first."""

AGREEMENT = 1e-3
"""Relative difference up to which two statements of a step are the same: headers hold them in 32 bits."""


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Nothing of a log is printed. (nibabel's own way to this, 5.4.2, takes its handlers away for good.)"""
    log = logging.getLogger(name)
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def read_nifti(path: Path, wanted: Wanted) -> Volume:
    """Read NIfTI, with its slope and intercept applied.

    A header states the steps by themselves (zooms) and in the matrix that places the voxels (affine); where the two
    contradict each other the voxel size is unknown.
    """
    nibabel = library("nibabel", "formats")
    with _unlogged("nibabel.global"):  # what it mends in a header it would print
        image: Any = nibabel.load(path, mmap=False)
    header = image.header
    shape = tuple(int(size) for size in image.shape)
    if not 2 <= len(shape) <= len(NIFTI_AXES):
        raise InputError(f"has {len(shape)} axes {shape}, expected two to five")
    check_claim(shape, np.dtype(float))
    if path.suffix.lower() == ".gz":
        _check_gzip(path, math.prod(shape) * int(header.get_data_dtype().itemsize) + int(image.dataobj.offset))
    data = native(np.asarray(image.dataobj)).T
    axes = NIFTI_AXES[: len(shape)][::-1]
    length_unit, time_unit = header.get_xyzt_units()
    zooms = [float(zoom) for zoom in header.get_zooms()]
    notes: list[str] = []
    metadata: dict[str, Any] = {"format": "NIfTI"}
    columns = [float(step) for step in np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)]
    steps = zooms[:3] + [0.0] * (3 - len(zooms))
    if not np.allclose(columns[: len(zooms)], zooms[:3], rtol=AGREEMENT, atol=0):
        notes.append(f"The voxel size is unknown: the header states steps of {zooms[:3]}, its affine matrix {columns}.")
        steps = [0.0] * 3
    elif micrometres(length_unit) is None:
        notes.append(f"The voxel size is unknown: the file states {zooms[:3]} along x, y and z without a unit.")
    spacing = voxel_size([length(step, length_unit) for step in steps[::-1]], metadata)
    interval = zooms[3] * (seconds_of(time_unit) or 0) if len(zooms) > 3 else 0
    if interval > 0:
        metadata["time_interval"] = interval
    return _volume(data, wanted.axes or axes, spacing, metadata, notes)


def read_nrrd(path: Path, wanted: Wanted) -> Volume:
    """Read NRRD: the axes of space are X, Y, Z, the fastest first; those that are not are time or channels."""
    nrrd = library("nrrd", "formats", "pynrrd")
    header = nrrd.read_header(str(path))
    if "data file" in header or "datafile" in header:
        raise InputError("has its data in another file, expected them in the same one")
    sizes = tuple(int(size) for size in header["sizes"])
    check_claim(sizes, np.dtype(float))
    data, header = nrrd.read(str(path), index_order="C")
    axes = _nrrd_axes(header, len(sizes))
    notes: list[str] = []
    metadata: dict[str, Any] = {"format": "NRRD"}
    said = _nrrd_steps(header, len(sizes))
    units = _nrrd_units(header, said)
    found = dict(zip(axes, zip(said, units, strict=True), strict=True))
    steps = {letter: length(*found[letter]) for letter in "ZYX" if letter in found}
    lacking = [letter for letter, step in steps.items() if step is None and found[letter][0]]
    if lacking:
        named = ", ".join(
            f"{letter.lower()} {found[letter][0]:g} {found[letter][1] or '(no unit)'}" for letter in lacking
        )
        notes.append(f"The voxel size is unknown along {', '.join(lacking).lower()}: the file states {named}.")
    spacing = voxel_size([steps.get(letter) for letter in "ZYX"], metadata)
    step, unit = found.get("T", (None, ""))
    interval = (step or 0) * (seconds_of(unit) or 0)
    if interval > 0:
        metadata["time_interval"] = interval
    return _volume(native(data), wanted.axes or axes[::-1], spacing, metadata, notes)


def _check_gzip(path: Path, expected: int) -> None:
    """Read to the end, where the checksum is compared, but not beyond what the header says: nibabel does neither."""
    found = 0
    with gzip.open(path) as file:
        while block := file.read(2**20):
            found += len(block)
            if found > expected:
                raise InputError(f"is damaged: its header says {expected} bytes, the file holds more")


def _volume(data: np.ndarray, names: str, spacing: Any, metadata: dict[str, Any], notes: list[str]) -> Volume:
    if "Z" not in names:  # single planes need no distance
        spacing = metadata.pop("pixel_size", spacing)
    return Volume(data, names, spacing, metadata={**metadata, **({"notes": notes} if notes else {})})


def _nrrd_axes(header: Any, count: int) -> str:
    """Letters of the axes, the fastest one first."""
    directions = header.get("space directions")
    kinds = list(header.get("kinds") or [""] * count)
    if len(kinds) != count:
        raise InputError(f"is damaged: its header names {len(kinds)} kinds for {count} axes")
    outer = {"time": "T", "list": "C", "vector": "C", "scalar": "C"}
    space, letters = iter("XYZ"), []
    for number, kind in enumerate(kinds):
        inside = directions is None or np.all(np.isfinite(np.asarray(directions[number], float)))
        if "color" in str(kind).lower():
            raise InputError(
                f"is a colour image {tuple(map(int, header['sizes']))}, expected intensities; split the colours"
            )
        letters.append(outer.get(str(kind).lower(), "" if inside else "C") or next(space, "T"))
    return "".join(letters)


def _nrrd_steps(header: Any, count: int) -> list[float | None]:
    """The step along each axis, from its spacing or the length of its direction in space."""
    steps = [finite(step) for step in header.get("spacings", [None] * count)]
    directions = header.get("space directions")
    if directions is not None:
        lengths = [finite(np.linalg.norm(np.asarray(one, float))) for one in directions]
        steps = [own if one is None else one for one, own in zip(steps, lengths, strict=True)]
    return steps


def _nrrd_units(header: Any, steps: list[float | None]) -> list[str]:
    """The unit of each axis: its own, or that of the space where it has a direction there."""
    own = list(header.get("units") or [""] * len(steps))
    space = list(header.get("space units") or [""])
    shared = str(space[0]) if len(set(space)) == 1 else ""
    return [str(unit or shared).strip() for unit in own]
