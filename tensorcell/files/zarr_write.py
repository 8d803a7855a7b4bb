"""Write OME-Zarr: the volume with smaller versions of it for viewers, and its mask as a label image beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import Stored
from tensorcell.files.layout import arrange, chunk_shape
from tensorcell.files.ngff import channels_metadata, dataset_metadata, image_metadata
from tensorcell.files.notes import NOTES_KEY, notes_of
from tensorcell.files.pyramid import pyramid
from tensorcell.files.zarr_read import MARKS, Group, zarr_library
from tensorcell.volume import Volume

AXES = "TCZYX"
"""The order of the axes in OME-Zarr."""

BLOCK = {"Z": 16, "Y": 256, "X": 256}
"""The largest length of a chunk along each axis; it is 1 along other axes."""

LEVEL = 3
"""Level of the compression by zstd, with a checksum: blosc, which makes files a tenth smaller, has none."""

VERSIONS = {2: "0.4", 3: "0.5"}
"""Version of OME-NGFF by the version of zarr that it is made of."""

NEWEST = 3

MASK = "measured"
"""Name of the mask among the labels."""


def write_zarr(part: Path, volume: Volume, dataset: str | None, compress: bool) -> Stored:
    """Write the volume as an image: of its own (OME-NGFF 0.5), or as the group of that name beside what there is.

    What is put into an older store has the version of zarr of that store, and OME-NGFF 0.4 in zarr 2.
    """
    with zarr_library() as zarr:
        existed = any((part / mark).exists() for mark in MARKS)
        root = zarr.open(str(part), mode="r+") if existed else zarr.open_group(str(part), mode="w", zarr_format=NEWEST)
        if isinstance(root, zarr.Array):
            raise InputError("exists and is one array, so nothing can be put into it")
        group = root if dataset is None else _make_room(zarr, root, dataset)
        lost = _write_image(zarr, group, volume, dataset or "volume", compress)
    return Stored(f"OME-Zarr {VERSIONS[root.metadata.zarr_format]}", lost)


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
    axes = "".join(letter for letter in AXES if letter in volume.axes)
    data = arrange(volume.data, volume.axes, axes)
    mask = None if volume.mask is None else arrange(volume.mask, volume.axes, axes)
    labels = None if mask is None else group.create_group(f"labels/{MASK}")
    image, shown = image_metadata(name, axes, volume.spacing, volume.metadata), None
    if labels is not None:
        shown = image_metadata(MASK, axes, volume.spacing, volume.metadata)
    for number, level in enumerate(pyramid(data, mask, axes, volume.spacing)):
        entry = dataset_metadata(str(number), axes, volume.spacing, volume.metadata, level.factors)
        _write_array(zarr, group, str(number), level.data, axes, compress)
        image["datasets"].append(entry)
        if labels is not None and shown is not None:
            _write_array(zarr, labels, str(number), np.asarray(level.mask, np.uint8), axes, compress)
            shown["datasets"].append(entry)
    text, lost = notes_of(volume)
    notes: dict[str, Any] = {"volume": text}
    if labels is not None and shown is not None:
        notes["mask"] = f"labels/{MASK}"
        _describe(labels, {"multiscales": [shown], "image-label": {"source": {"image": "../../"}}})
        _describe(group["labels"], {"labels": [MASK]})
    image["type"] = "mean"
    described: dict[str, Any] = {"multiscales": [image]}
    names = volume.metadata.get("channel_names")
    count = data.shape[axes.index("C")] if "C" in axes else 1
    if isinstance(names, list | tuple) and len(names) == count:
        ranges = _ranges(np.moveaxis(data, axes.index("C"), 0) if "C" in axes else data[None])
        described["omero"] = channels_metadata([str(one) for one in names], ranges, volume.metadata.get("omero"))
    _describe(group, described)
    group.attrs[NOTES_KEY] = notes
    return lost


def _write_array(zarr: Any, group: Group, name: str, data: np.ndarray, axes: str, compress: bool) -> None:
    """Write every chunk, those that hold the fill value alone too: a chunk that is missing later is a damage."""
    version = group.metadata.zarr_format
    options: dict[str, Any] = {"compressors": None}
    if compress and version == 2:
        import numcodecs

        options["compressors"] = numcodecs.Zstd(LEVEL, checksum=True)
    elif compress:
        options["compressors"] = zarr.codecs.ZstdCodec(level=LEVEL, checksum=True)
    if version == 2:
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    else:
        options["dimension_names"] = tuple(axes.lower())
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunk_shape(data.shape, axes, BLOCK),
        fill_value=np.nan if data.dtype.kind == "f" else 0,
        config={"write_empty_chunks": True},
        **options,
    )
    array[...] = data


def _ranges(channels: Iterable[np.ndarray]) -> list[tuple[float, float]]:
    """The smallest and the largest number of each channel."""
    found = []
    for values in channels:
        finite = values[np.isfinite(values)]
        found.append((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    return found


def _describe(group: Group, ngff: dict[str, Any]) -> None:
    """Store NGFF metadata where their version has them."""
    version = VERSIONS[group.metadata.zarr_format]
    if group.metadata.zarr_format == 2:
        for one in ngff.get("multiscales", []):
            one["version"] = version
        group.attrs.update(ngff)
    else:
        group.attrs["ome"] = {"version": version, **ngff}
