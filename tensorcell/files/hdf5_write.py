"""Write HDF5 files, a volume alone or beside what a file holds already."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorcell.errors import InputError
from tensorcell.files.disk_space import reserve
from tensorcell.files.formats import Stored
from tensorcell.files.layout import chunk_shape
from tensorcell.files.notes import plain_metadata
from tensorcell.files.probing import trust, try_first
from tensorcell.files.tiles import MappedTiles, Plot, TileWriter, Tiling
from tensorcell.volume import Volume

if TYPE_CHECKING:
    import h5py

BLOCK = {"Z": 8, "Y": 128, "X": 128}
"""The largest length of a chunk along each axis; it is 1 along other axes."""

VISIT = "tensorcell.files.hdf5_write:visit"

ATTRIBUTE_LIMIT = 60_000
"""The largest number of characters of the metadata: an HDF5 attribute holds 64 kB."""


def write_hdf5(part: Path, volume: Volume, dataset: str | None, compress: bool) -> Stored:
    """Write the volume as the dataset of that name (``data`` without one), and its mask beside it."""
    import h5py

    name = dataset or "data"
    if not part.exists():
        h5py.File(part, "w-").close()
    elif not h5py.is_hdf5(part):
        raise InputError("exists and is no HDF5 file, so nothing can be put into it")
    else:
        try_first(VISIT, part)
    chunks = chunk_shape(volume.shape, volume.axes, BLOCK)
    count = math.prod(-(-size // chunk) for size, chunk in zip(volume.shape, chunks, strict=True))
    chunk_bytes = math.prod(chunks) * (volume.dtype.itemsize + 1)  # 1 for the mask
    reserve(part, part.stat().st_size + count * (chunk_bytes + 200) + 2**16)
    options: dict[str, Any] = {"chunks": chunks}
    if compress:
        options |= {"compression": "gzip", "shuffle": True}
    with h5py.File(part, "r+") as file:
        _make_room(file, name)
        stored = file.create_dataset(name, data=volume.data, **options)
        lost = _describe(stored, volume)
        if volume.mask is not None:
            file.create_dataset(f"{name}_mask", data=volume.mask, **options).attrs["axes"] = volume.axes
            stored.attrs["mask"] = f"/{name}_mask"
    trust(part)
    return Stored("HDF5", lost)


def _describe(stored: h5py.Dataset, volume: Volume) -> tuple[str, ...]:
    """Write all but the values and the mask; return what was not kept."""
    metadata, lost = _metadata(volume)
    stored.attrs["axes"] = volume.axes
    for dimension, letter in zip(stored.dims, volume.axes, strict=True):
        dimension.label = letter.lower()
    if volume.spacing is not None:
        stored.attrs["element_size_um"] = volume.spacing  # (dz, dy, dx), as plantseg and Fiji have it
    if metadata is not None:
        stored.attrs["metadata"] = metadata
    return lost


def _metadata(volume: Volume) -> tuple[str | None, tuple[str, ...]]:
    """The metadata as JSON, or None where that is too long, and what is not kept."""
    plain, lost = plain_metadata(volume)
    metadata = json.dumps(plain)
    return (metadata, lost) if len(metadata) < ATTRIBUTE_LIMIT else (None, (*lost, "metadata"))


def _begin(part: Path, layout: Volume) -> None:
    """A dataset ``data`` whose values lie one after the other, so that no kill while they are written damages HDF5."""
    import h5py

    with h5py.File(part, "w-") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.CONTIGUOUS)
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        kind = h5py.h5t.py_create(layout.dtype, logical=True)
        made = h5py.h5d.create(file.id, b"data", kind, h5py.h5s.create_simple(layout.shape), settings)
        _describe(h5py.Dataset(made), layout)
    reserve(part, part.stat().st_size)


def _resume(part: Path, layout: Volume) -> TileWriter:
    import h5py

    with h5py.File(part, "r") as file:
        stored = file["data"]
        plot = Plot(int(stored.id.get_offset()), stored.shape, stored.dtype)
    return MappedTiles(part, layout, layout.axes, plot, _finish)


def _finish(part: Path, layout: Volume) -> Stored:
    trust(part)
    return Stored("HDF5", _metadata(layout)[1])


HDF5_TILES = Tiling(_begin, _resume)


def visit(path: Path) -> None:
    """Look at everything in a file, as far as its values."""
    import h5py

    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: None)


def _make_room(file: h5py.File, name: str) -> None:
    """Remove an earlier volume and its mask; an error if the name is taken by something else."""
    import h5py

    parts = name.split("/")
    for parent in ("/".join(parts[:depth]) for depth in range(1, len(parts))):
        _check_no_link(file, parent)
        if isinstance(file.get(parent), h5py.Dataset):
            raise InputError(f"{parent!r} is a dataset in the file, expected a group")
    for old in (name, f"{name}_mask"):
        _check_no_link(file, old)
        if isinstance(file.get(old), h5py.Group):
            raise InputError(f"{old!r} is a group in the file, expected the name of a dataset")
        if old in file:
            del file[old]


def _check_no_link(file: h5py.File, name: str) -> None:
    """Raise `InputError` if the name leads elsewhere: into another file even, which is no output."""
    import h5py

    link = file.get(name, getlink=True)
    if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
        place = f" in {link.filename!r}" if isinstance(link, h5py.ExternalLink) else ""
        raise InputError(f"{name!r} is a link to {link.path}{place} in the file, expected a group or dataset")
