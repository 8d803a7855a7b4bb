"""Write OME-Zarr: the volume with smaller versions of it for viewers, and its mask as a label image beside it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import Stored, Way
from tensorcell.files.layout import arrange, chunk_shape
from tensorcell.files.ngff import channels_metadata, dataset_metadata, image_metadata
from tensorcell.files.notes import NOTES_KEY, notes_of
from tensorcell.files.pyramid import boxes, fill_level, smaller_levels
from tensorcell.files.tiles import TileWriter, Tiling
from tensorcell.files.whole_files import flush_folder
from tensorcell.files.zarr_read import MARKS, Array, Group, chunks_there, zarr_library
from tensorcell.volume import Index, Volume

AXES = "TCZYX"
"""The order of the axes in OME-Zarr."""

BLOCK = {"Z": 16, "Y": 256, "X": 256}
"""The largest length of a chunk along each axis; it is 1 along other axes."""

LEVEL = 3
"""Level of the compression, which has a checksum: blosc, which makes files a tenth smaller, has none.

It is by zstd, and in zarr 2 by zlib, since readers that know zarr 2 alone, such as JZarr, have no zstd.
"""

TILE_LEVEL = 1
"""Level for a volume that is written tile by tile: some times as fast as `LEVEL`, for chunks a tenth larger."""

VERSIONS = {2: "0.4", 3: "0.5"}
"""Version of OME-NGFF by the version of zarr that it is made of."""

NEWEST = 3

FORMATS = {ngff: version for version, ngff in VERSIONS.items()}
"""Version of zarr by that of OME-NGFF."""

MASK = "measured"
"""Name of the mask among the labels."""


def write_zarr(part: Path, volume: Volume, dataset: str | None, compress: bool, ngff: str | None = None) -> Stored:
    """Write the volume as an image: of its own, or as the group of that name beside what there is.

    It has the version of OME-NGFF that is wanted, else the newest. What is put into an older store has the version of
    zarr of that store, and OME-NGFF 0.4 in zarr 2.
    """
    with zarr_library() as zarr:
        existed = any((part / mark).exists() for mark in MARKS)
        root = zarr.open(str(part), mode="r+") if existed else _new_group(zarr, part, ngff)
        if isinstance(root, zarr.Array):
            raise InputError("exists and is one array, so nothing can be put into it")
        _check_version(root, ngff)
        group = root if dataset is None else _make_room(zarr, root, dataset)
        lost = _write_image(zarr, group, volume, dataset or "volume", compress)
    return Stored(f"OME-Zarr {VERSIONS[root.metadata.zarr_format]}", lost)


def _new_group(zarr: Any, part: Path, ngff: str | None) -> Group:
    return zarr.open_group(str(part), mode="w", zarr_format=NEWEST if ngff is None else FORMATS[ngff])


def _check_version(group: Group, ngff: str | None) -> None:
    """Raise `InputError` if another version of OME-NGFF is wanted than that of the store."""
    found = VERSIONS[group.metadata.zarr_format]
    if ngff not in (None, found):
        raise InputError(f"exists in zarr {FORMATS[found]}, which has OME-NGFF {found}, expected {ngff} or a new file")


def _make_room(zarr: Any, root: Group, name: str) -> Group:
    """A new group in the place of an earlier image; an error if the name is taken by something else."""
    parts = name.split("/")
    if ".." in parts:
        raise InputError(f"{name!r} is no name of a group, expected a path without '..'")
    for depth in range(1, len(parts) + 1):
        taken = root.get("/".join(parts[:depth]))
        if isinstance(taken, zarr.Array):
            raise InputError(f"{'/'.join(parts[:depth])!r} is an array in the file, expected a group")
    if taken is not None and NOTES_KEY not in taken.attrs:
        raise InputError(f"{name!r} is a group in the file that was not written here, expected a new name")
    return root.create_group(name, overwrite=True)


def _write_image(zarr: Any, group: Group, volume: Volume, name: str, compress: bool) -> tuple[str, ...]:
    """Write all levels, the mask's too, and the metadata last; return what was not kept."""
    axes = _stored_axes(volume)
    data = arrange(volume.data, volume.axes, axes)
    mask = None if volume.mask is None else arrange(volume.mask, volume.axes, axes)
    labels = None if mask is None else group.create_group(f"labels/{MASK}")
    coding = Coding(zarr, axes, LEVEL if compress else None)
    coding.make_array(group, "0", data.shape, data.dtype)[...] = data
    if labels is not None:
        coding.make_array(labels, "0", data.shape, np.dtype(np.uint8))[...] = mask
    return _finish_image(coding, group, volume, name, data, mask)


def _stored_axes(volume: Volume) -> str:
    return "".join(letter for letter in AXES if letter in volume.axes)


class Coding(NamedTuple):
    """How arrays are stored."""

    zarr: Any
    axes: str
    level: int | None
    """Level of the compression; None for none."""

    def make_array(self, group: Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A new array, in which every chunk is to be written: one that is missing later is a damage.

        Those that hold the fill value alone are written, too.
        """
        version = group.metadata.zarr_format
        options: dict[str, Any] = {"compressors": None}
        if self.level is not None and version == 2:
            import numcodecs

            options["compressors"] = numcodecs.Zlib(self.level)
        elif self.level is not None:
            options["compressors"] = self.zarr.codecs.ZstdCodec(level=self.level, checksum=True)
        if version == 2:
            options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        else:
            options["dimension_names"] = tuple(self.axes.lower())
        return group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunk_shape(shape, self.axes, BLOCK),
            fill_value=np.nan if dtype.kind == "f" else 0,
            config={"write_empty_chunks": True},
            overwrite=True,
            **options,
        )


def _finish_image(
    coding: Coding, group: Group, volume: Volume, name: str, data: Any, mask: Any | None
) -> tuple[str, ...]:
    """Write the smaller levels of an image and of its mask, and the metadata last; return what was not kept.

    Parameters
    ----------
    coding : Coding
    group : zarr.Group
        It holds the first level.
    volume : Volume
        Its values are not looked at.
    name : str
        Name of the image.
    data, mask : array-like or None
        The first level: arrays, or those of the group.
    """
    axes, spacing = coding.axes, volume.spacing
    image, shown = (image_metadata(one, axes, spacing, volume.metadata) for one in (name, MASK))
    labels = None if mask is None else group[f"labels/{MASK}"]
    levels = {"0": {letter: 1 for letter in "ZYX" if letter in axes}}
    source, measured = data, mask
    for number, level in enumerate(smaller_levels(data.shape, axes, spacing), start=1):
        target = coding.make_array(group, str(number), level.shape, volume.dtype)
        shares = labels and coding.make_array(labels, str(number), level.shape, np.dtype(np.uint8))
        fill_level(source, measured, target, shares, target.chunks, axes, level.halved)
        source, measured = target, shares
        levels[str(number)] = level.factors
    for path, factors in levels.items():
        entry = dataset_metadata(path, axes, spacing, volume.metadata, factors)
        image["datasets"].append(entry)
        shown["datasets"].append(entry)
    text, lost = notes_of(volume)
    notes: dict[str, Any] = {"volume": text}
    if labels is not None:
        notes["mask"] = f"labels/{MASK}"
        _describe(labels, {"multiscales": [shown], "image-label": {"source": {"image": "../../"}}})
        _describe(group["labels"], {"labels": [MASK]})
    image["type"] = "mean"
    described: dict[str, Any] = {"multiscales": [image]}
    names = volume.metadata.get("channel_names")
    count = data.shape[axes.index("C")] if "C" in axes else 1
    if isinstance(names, list | tuple) and len(names) == count:
        ranges = _ranges(data, axes)
        described["omero"] = channels_metadata([str(one) for one in names], ranges, volume.metadata.get("omero"))
    _describe(group, described)
    group.attrs[NOTES_KEY] = notes
    return lost


def _ranges(data: Any, axes: str) -> list[tuple[float, float]]:
    """The smallest and the largest number of each channel of an array, which is read chunk by chunk."""
    channels = data.shape[axes.index("C")] if "C" in axes else 1
    found: list[tuple[float, float] | None] = [None] * channels
    for box in boxes(data.shape, chunk_shape(data.shape, axes, BLOCK)):
        channel = box[axes.index("C")].start if "C" in axes else 0
        values = np.asarray(data[box])
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = found[channel] or (np.inf, -np.inf)
            found[channel] = (min(low, float(finite.min())), max(high, float(finite.max())))
    return [ends or (0.0, 1.0) for ends in found]


def _describe(group: Group, ngff: dict[str, Any]) -> None:
    """Store NGFF metadata where their version has them."""
    version = VERSIONS[group.metadata.zarr_format]
    if group.metadata.zarr_format == 2:
        for one in ngff.get("multiscales", []):
            one["version"] = version
        if "image-label" in ngff:
            ngff["image-label"]["version"] = version
        group.attrs.update(ngff)
    else:
        group.attrs["ome"] = {"version": version, **ngff}


class ZarrTiles(TileWriter):
    """A volume that is written tile by tile as an image of OME-Zarr."""

    def __init__(self, part: Path, layout: Volume, ngff: str | None = None) -> None:
        with zarr_library() as zarr, zarr.config.set({"array.write_empty_chunks": True}):  # no array keeps this
            self.group = zarr.open_group(str(part), mode="r+")
            _check_version(self.group, ngff or VERSIONS[NEWEST])
            self.array = self.group["0"]
        axes = _stored_axes(layout)
        super().__init__(part, layout, axes, self.array.shape, self.array.dtype)
        by_letter = dict(zip(axes, self.array.chunks, strict=True))
        self.chunks = tuple(by_letter[letter] for letter in layout.axes)

    @staticmethod
    def begin(part: Path, layout: Volume, ngff: str | None = None) -> None:
        """Make the image with a first level that holds nothing."""
        with zarr_library() as zarr:
            group = _new_group(zarr, part, ngff)
            shape = arrange(layout.data, layout.axes, _stored_axes(layout)).shape
            Coding(zarr, _stored_axes(layout), TILE_LEVEL).make_array(group, "0", shape, layout.dtype)

    def store(self, index: Index, values: np.ndarray) -> None:
        with zarr_library():
            self.array[index] = values

    def load(self, index: Index) -> np.ndarray:
        with zarr_library():
            return np.asarray(self.array[index])

    def flush(self) -> None:
        if hasattr(os, "sync"):  # one call for all chunks: a call for each takes longer than writing them
            os.sync()
        else:
            flush_folder(self.part)

    def complete(self) -> Stored:
        """Make the smaller levels, each of the one before, and write the metadata."""
        missing = self.array.nchunks - chunks_there(self.part, self.array)
        if missing:
            raise InputError(f"is incomplete: {missing} of {self.array.nchunks} chunks were not written")
        for left in self.part.rglob("*.partial"):  # of a run that was killed while it wrote a chunk
            left.unlink()
        with zarr_library() as zarr:
            coding = Coding(zarr, _stored_axes(self.layout), TILE_LEVEL)
            lost = _finish_image(coding, self.group, self.layout, "volume", self.array, None)
        self.flush()
        return Stored(f"OME-Zarr {VERSIONS[self.group.metadata.zarr_format]}", lost)


def _way(ngff: str | None) -> Way:
    return Way(
        partial(write_zarr, ngff=ngff), Tiling(partial(ZarrTiles.begin, ngff=ngff), partial(ZarrTiles, ngff=ngff))
    )


AS_NEWEST = _way(None)
AS_VERSION = {ngff: _way(ngff) for ngff in FORMATS}
"""How each version of OME-NGFF is written."""
