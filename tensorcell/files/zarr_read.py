"""Read Zarr: images of OME-Zarr (NGFF up to 0.5) at any of their levels, and plain arrays of zarr 2 and 3."""

from __future__ import annotations

import itertools
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tensorcell.errors import InputError, SeveralVolumes
from tensorcell.files.claimed_sizes import check_claim
from tensorcell.files.formats import MOST_LISTED, Wanted, chosen_series
from tensorcell.files.layout import native
from tensorcell.files.lazy_values import Box, Opened, Values, arranged, nonzero
from tensorcell.files.messages import library
from tensorcell.files.ngff import WORDS, Level, letters_of, levels_of, ngff_of, place_of, version_of
from tensorcell.files.notes import NOTES_KEY, apply_notes
from tensorcell.volume import Volume
from tensorcell.volume_checks import guess_axes

Array: TypeAlias = Any
Group: TypeAlias = Any
"""Those of the package zarr, which need not be installed."""

MARKS = ("zarr.json", ".zgroup", ".zarray")
"""Files one of which every zarr group or array holds."""

DEEPEST = 6
"""Levels of groups that are searched for images: a plate has four."""

CHUNK = re.compile(r"(?:c[./])?(\d+(?:[./]\d+)*)")
"""The name of a chunk or shard in the folder of its array."""

BLOSC_HEADER = 16
"""Bytes before the data of a chunk of blosc; the last four say how long it is."""


class Found(NamedTuple):
    """An array that was chosen, and what the groups around it say."""

    array: Array
    level: Level | None
    """None for an array outside of any image."""
    notes: dict[str, Any]
    """What `write_zarr` stores in the group of the image."""
    group: Group | None
    metadata: dict[str, Any]


def read_zarr(path: Path, wanted: Wanted) -> Volume:
    """Read the array or image at that path inside, or the only one.

    Of an image the first level is read; of several images none is, unless one is named. ``series`` chooses a level of
    an image, or one of several images.
    """
    return open_zarr(path, wanted).volume()


def open_zarr(path: Path, wanted: Wanted) -> Opened:
    """Find the array or image, and which of its chunks there are."""
    with zarr_library() as zarr:
        found = _found(zarr, path, wanted)
        array = found.array
        _check_array(array)
        notes = _missing_chunks(path, array, own=bool(found.notes))
        data: Values = ZarrValues(path, array)
        mask = _mask(path, found)
    metadata: dict[str, Any] = dict(found.metadata)
    spacing = None
    level = found.level
    names = wanted.axes or (_dimension_names(array) if level is None else level.letters)
    if level is not None:
        if len(level.axes) != array.ndim:
            raise InputError(f"is damaged: its metadata name {len(level.axes)} axes, {array.name} has {array.ndim}")
        place = place_of(level, names or "".join(axis.letter for axis in level.axes))
        spacing, metadata, notes = place.spacing, {**metadata, **place.metadata}, [*place.notes, *notes]
    names = names or guess_axes(data)
    before = names
    names, spacing, stored = apply_notes(data.shape, names, spacing, found.notes.get("volume"))
    data = arranged(data, before, names)
    if mask is not None:
        mask = arranged(mask, before, names)
    names = wanted.axes or names
    if "Z" not in names:  # single planes need no distance
        spacing = metadata.pop("pixel_size", spacing)
    notes = [*metadata.pop("notes", []), *notes]
    return Opened(data, names, spacing, {**stored, **metadata, **({"notes": notes} if notes else {})}, mask)


class ZarrValues(Values):
    """The values of an array of zarr, which holds the path of its folder."""

    def __init__(self, path: Path, array: Array) -> None:
        super().__init__(array.shape, array.dtype)
        self.path, self.array = path, array
        self.files = (path / array.path,)

    def read(self, box: Box) -> np.ndarray:
        with zarr_library():
            _check_blosc(self.path, self.array, box)
            return native(np.asarray(self.array[box]))


@contextmanager
def zarr_library() -> Iterator[Any]:
    """The module zarr, whose warnings (of what it does not know in a folder) are kept off the terminal."""
    zarr = library("zarr", "formats")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield zarr


def _found(zarr: Any, path: Path, wanted: Wanted) -> Found:
    """The array that is wanted."""
    inside = wanted.dataset or ""
    if ".." in inside.split("/"):
        raise InputError(f"has no dataset {inside!r}, expected a path without '..'")
    if not any((path / mark).is_file() for mark in MARKS):
        raise InputError(f"is no zarr, or it is incomplete: expected {', '.join(MARKS[:-1])} or {MARKS[-1]} in it")
    start = zarr.open(str(path), mode="r")
    if isinstance(start, zarr.Array):
        if inside:
            raise InputError(f"has no dataset {inside!r}, it is one array {start.shape}")
        return _plain(start, wanted.series)
    node = start if not inside else start.get(inside)
    if node is None:
        raise InputError(f"has no dataset {inside!r}, it has {_listed(_candidates(start)) or 'no array'}")
    if isinstance(node, zarr.Array):
        return _with_its_image(start, node, inside, wanted.series)
    return _in_group(zarr, node, wanted.series)


def _plain(array: Array, series: Any) -> Found:
    """An array that is part of no image."""
    if series is not None:
        raise InputError(f"has no series {series!r}, it is one array {array.shape}")
    return Found(array, None, {}, None, {"format": f"Zarr {array.metadata.zarr_format}"})


def _with_its_image(start: Group, array: Array, inside: str, series: Any) -> Found:
    """An array named by its path, with the metadata of the image it is a level of."""
    if series is not None:
        raise InputError(f"has no series {series!r} in {inside!r}, which is one array {array.shape}")
    parts = inside.split("/")
    for depth in range(len(parts)):
        group = start if depth == 0 else start["/".join(parts[:depth])]
        levels = levels_of(ngff_of(dict(group.attrs)))
        below = "/".join(parts[depth:])
        if below in [level.path for level in levels]:
            return _level(group, levels, below)
    return _plain(array, None)


def _in_group(zarr: Any, group: Group, series: Any) -> Found:
    """The level that is wanted of the group's image; in a group that is none, the image or array that is wanted."""
    levels = levels_of(ngff_of(dict(group.attrs)))
    if levels:
        return _level(group, levels, series)
    candidates = _candidates(group)
    if not candidates:
        raise InputError("has no array of two or more axes, expected a volume")
    names = list(candidates)
    if series is None and len(names) > 1:
        message = f"holds {len(names)} images, name one with series= or dataset=: {_listed(candidates)}"
        raise SeveralVolumes(message, "dataset", names)
    chosen = names[0 if series is None else _number_of(names, series)]
    one = group[chosen]
    if isinstance(one, zarr.Array):
        return _plain(one, None)
    found = _level(one, levels_of(ngff_of(dict(one.attrs))), None)
    if len(names) > 1:
        found.metadata["series"] = f"{names.index(chosen)} of {len(names)}: {chosen}"
    return found


def _level(group: Group, levels: list[Level], series: Any) -> Found:
    """The level of an image by its number or path, the first one where nothing is said."""
    import zarr

    names = [level.path for level in levels]
    number = 0 if series is None else _number_of(names, series)
    level = levels[number]
    array = group.get(level.path)
    if not isinstance(array, zarr.Array):
        raise InputError(f"is incomplete: its level {level.path!r} is no array")
    ngff = ngff_of(dict(group.attrs))
    metadata: dict[str, Any] = {"format": f"OME-Zarr {version_of(ngff)}".rstrip()}
    if len(levels) > 1:
        metadata["series"] = f"level {number} of {len(levels)}: {level.path}"
    metadata |= _channels(ngff, level, array.shape)
    labels = ngff_of(dict(group["labels"].attrs)).get("labels") if "labels" in group else None
    notes = group.attrs.get(NOTES_KEY)
    notes = dict(notes) if isinstance(notes, dict) else {}
    others = [str(one) for one in labels or [] if f"labels/{one}" != notes.get("mask")]
    if others:
        metadata["notes"] = [
            f"Labels beside the image were not read: {', '.join(others[:MOST_LISTED])} (dataset=labels/...)."
        ]
    return Found(array, level, notes, group, metadata)


def _channels(ngff: Any, level: Level, shape: tuple[int, ...]) -> dict[str, Any]:
    """Names of the channels, and their colours and ranges as they stand in the file."""
    omero = ngff.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    letters = level.letters or ""
    count = shape[letters.index("C")] if "C" in letters else 1
    if not isinstance(channels, list) or len(channels) != count or not all(isinstance(one, dict) for one in channels):
        return {}
    names = [str(one.get("label") or "") for one in channels]
    return {"omero": omero} | ({"channel_names": names} if all(names) else {})


def _candidates(group: Group) -> dict[str, str]:
    """Images and arrays below a group that can be volumes: their paths, and what they are."""
    import zarr

    images: dict[str, str] = {}
    arrays: dict[str, tuple[int, ...]] = {}
    labels: dict[str, str] = {}

    def visit(node: Group, path: str, depth: int) -> None:
        for name, member in sorted(node.members(), key=lambda one: (len(one[0]), one[0])):  # 2 before 10
            below = f"{path}/{name}".strip("/")
            if isinstance(member, zarr.Array):
                if member.ndim >= 2 and member.dtype.kind in "buif":
                    arrays[below] = member.shape
                continue
            levels = levels_of(ngff_of(dict(member.attrs)))
            if levels:
                array = member.get(levels[0].path)
                kind = labels if "labels" in below.split("/")[:-1] else images
                kind[below] = str(getattr(array, "shape", "without its array"))
            if depth < DEEPEST and not levels:
                visit(member, below, depth + 1)

    visit(group, "", 1)
    if images or labels:
        return images or labels
    deep = {path: str(shape) for path, shape in arrays.items() if len(shape) > 2}
    return deep or {path: str(shape) for path, shape in arrays.items()}


def _listed(candidates: dict[str, str]) -> str:
    named = ", ".join(f"{path} {said}" for path, said in list(candidates.items())[:MOST_LISTED])
    return named + (", ..." if len(candidates) > MOST_LISTED else "")


def _number_of(names: list[str], series: str | int) -> int:
    """The place of the name that is meant by its number or as a path."""
    wanted = series.strip("/") if isinstance(series, str) else series
    return chosen_series(names, [1] * len(names), wanted)


def _check_array(array: Array) -> None:
    """Refuse what is no volume, and chunks that the memory cannot hold, before any of it is read."""
    if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "buif":
        raise InputError(
            f"{array.name} has shape {array.shape} and dtype {array.dtype}, expected intensities in planes"
        )
    check_claim(array.chunks, array.dtype)


def _check_blosc(path: Path, array: Array, box: Box) -> None:
    """Refuse chunks of a box that blosc would read beyond their end: numcodecs 0.16.6 then crashes the process.

    The length that a chunk states must be that of its file. In shards, where this cannot be told, nothing is checked.
    """
    codecs = [*getattr(array.metadata, "codecs", ()), getattr(array.metadata, "compressor", None)]
    if not any("blosc" in type(codec).__name__.lower() for codec in codecs):
        return
    numbers = [range(each.start // n, (each.stop - 1) // n + 1) for each, n in zip(box, array.chunks, strict=True)]
    for place in itertools.product(*numbers):
        chunk = path / array.path / array.metadata.encode_chunk_key(place)
        if not chunk.is_file():
            continue
        with chunk.open("rb") as file:
            stated = int.from_bytes(file.read(BLOSC_HEADER)[12:16], "little")
        if stated != chunk.stat().st_size:
            raise InputError(
                f"is damaged: chunk {chunk.relative_to(path)} states {stated} bytes, it has {chunk.stat().st_size}"
            )


def chunks_there(path: Path, array: Array) -> int:
    """How many chunks of an array in the folder ``path`` exist, by the names of the files.

    zarr 3.1.6 makes the names of all chunks that the metadata claim, of which there may be any number.
    """
    outer: tuple[int, ...] = array.shards or array.chunks
    grid = [math.ceil(size / length) for size, length in zip(array.shape, outer, strict=True)]
    files, folder = 0, path / array.path
    for top, _, names in os.walk(folder):
        inner = Path(top).relative_to(folder).parts
        for name in names:
            match = CHUNK.fullmatch("/".join((*inner, name)))
            place = [int(number) for number in re.split("[./]", match[1])] if match else []
            files += len(place) == len(grid) and all(a < b for a, b in zip(place, grid, strict=True))
    in_each: int = math.prod(math.ceil(a / b) for a, b in zip(outer, array.chunks, strict=True))
    return files * in_each


def _missing_chunks(path: Path, array: Array, own: bool) -> list[str]:
    """A note on chunks that do not exist; an error where none does, or in files of ours, which hold them all.

    Other programs leave out chunks that hold the fill value alone, so that a missing chunk may be measured darkness as
    well as what was never written. That cannot be told; NaN as fill value says by itself that nothing was measured.
    """
    total = array.nchunks
    missing = total - chunks_there(path, array)
    if missing <= 0:
        return []
    if own or missing == total:
        raise InputError(f"is incomplete: {missing} of {total} chunks of {array.name} do not exist")
    fill = array.fill_value if array.fill_value is not None else 0
    if isinstance(fill, np.floating | float) and math.isnan(fill):
        return [f"{missing} of {total} chunks do not exist: their voxels are not measured."]
    return [
        f"{missing} of {total} chunks do not exist and count as measured, with the fill value {fill:g}: some programs "
        f"leave out chunks of this value, but a run that was stopped leaves chunks out, too. "
        f"missing_value={fill:g} takes all voxels of this value as not measured."
    ]


def _mask(path: Path, found: Found) -> Values | None:
    """The mask that `write_zarr` put beside the level that is read."""
    name = found.notes.get("mask")
    if name is None or found.group is None or found.level is None:
        return None
    stored = found.group.get(f"{name}/{found.level.path}")
    if getattr(stored, "shape", None) != found.array.shape:
        raise InputError(f"is incomplete: its mask {name}/{found.level.path} is not there, or of another shape")
    _check_array(stored)
    _missing_chunks(path, stored, own=True)
    return nonzero(ZarrValues(path, stored))


def _dimension_names(array: Array) -> str | None:
    """Axes from ``dimension_names`` of zarr 3 or xarray's attribute in zarr 2."""
    said = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(said, list | tuple):
        return None
    names = [str(name or "").lower() for name in said]
    return letters_of([WORDS.get(name, name[:1].upper()) for name in names])
