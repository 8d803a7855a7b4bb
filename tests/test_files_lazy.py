"""Parts of files: what `open_volume` says and reads is what `read` does, and no more is read than is asked for."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from volume_files import KNOWN, STACK, imagej, npz, refuses, tiff

import tensorcell as tc
from tensorcell.files import lazy_reading, open_volume, read, write
from tensorcell.lazy_volume import LazyVolume
from tensorcell.volume import Volume

MASKED = Volume(STACK, "ZYX", (0.5, 0.108, 1 / 9), STACK % 4 != 0, KNOWN.metadata)
FRAMES = np.random.default_rng(1).integers(-500, 500, (2, 3, 4, 40, 50)).astype(np.int16)


def written(volume: Volume, name: str, **options: Any) -> Callable[[Path], Path]:
    """A file that we write."""

    def make(folder: Path) -> Path:
        write(folder / name, volume, **options)
        return folder / name

    return make


def in_tiff(data: np.ndarray = STACK, **options: Any) -> Callable[[Path], Path]:
    """A TIFF as other programs write them."""
    return lambda folder: tiff(folder / "a.tif", data, **options)


def pages_that_differ(folder: Path) -> Path:
    """Pages alike in size and type, each of which is stored in its own way."""
    kinds: list[dict[str, Any]] = [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 3}]
    with tifffile.TiffWriter(folder / "a.tif") as writer:
        for number, options in enumerate(kinds):
            writer.write(FRAMES[0, 0, number], photometric="minisblack", metadata=None, **options)
    return folder / "a.tif"


def set_of_files(folder: Path) -> Path:
    """An OME-TIFF whose second half lies in another file."""
    from test_files_tiff_ome import two_files  # type: ignore[attr-defined]

    return two_files(folder)


def big_endian_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", np.asfortranarray(STACK.astype(">u2")))
    return folder / "a.npy"


def chunked_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        stored = file.create_dataset("raw", data=FRAMES, chunks=(1, 2, 2, 16, 16), compression="gzip")
        tags = [{"key": key, "resolution": 0.5, "description": "um"} for key in "tczyx"]
        stored.attrs["axistags"] = json.dumps({"axes": tags})
    return folder / "a.h5"


def big_data_viewer(folder: Path) -> Path:
    """Two frames of two setups, uint16 that is stored as int16."""
    with h5py.File(folder / "a.h5", "w") as file:
        for place in np.ndindex(2, 2):
            cells = np.random.default_rng(place).integers(0, 2**16, (5, 20, 24)).astype(np.uint16).view(np.int16)
            file.create_dataset("t{:05d}/s{:02d}/0/cells".format(*place), data=cells, chunks=(2, 8, 8))
    return folder / "a.h5"


def imaris(folder: Path) -> Path:
    """Two frames of one channel, padded to whole chunks."""
    with h5py.File(folder / "a.ims", "w") as file:
        for frame in range(2):
            group = file.create_group(f"DataSet/ResolutionLevel 0/TimePoint {frame}/Channel 0")
            group.create_dataset("Data", data=np.random.default_rng(frame).integers(0, 9, (8, 32, 32)), chunks=(4, 8, 8))
            for letter, size in zip("ZYX", (5, 30, 27), strict=True):
                group.attrs[f"ImageSize{letter}"] = np.array(list(str(size)), "S1")
    return folder / "a.ims"


def virtual_hdf5(folder: Path) -> Path:
    """A dataset that is made of others in a file beside it."""
    with h5py.File(folder / "source.h5", "w") as file:
        file["raw"] = STACK
    layout = h5py.VirtualLayout(STACK.shape, STACK.dtype)
    layout[...] = h5py.VirtualSource("source.h5", "raw", STACK.shape)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    return folder / "a.h5"


def zarr_with_missing_chunks(folder: Path, version: int = 3) -> Path:
    array = zarr.create_array(
        str(folder / "a.zarr"), shape=FRAMES.shape, dtype=FRAMES.dtype, chunks=(1, 1, 2, 16, 16), zarr_format=version
    )
    array[0] = FRAMES[0]
    array.attrs["_ARRAY_DIMENSIONS"] = list("tczyx")
    return folder / "a.zarr"


def zarr_of_blosc(folder: Path) -> Path:
    array = zarr.create_array(
        str(folder / "a.zarr"),
        shape=FRAMES.shape,
        dtype=FRAMES.dtype,
        chunks=(1, 3, 4, 16, 16),
        zarr_format=3,
        compressors=zarr.codecs.BloscCodec(),
        dimension_names=list("tczyx"),
    )
    array[...] = FRAMES
    return folder / "a.zarr"


def zarr_in_shards(folder: Path) -> Path:
    array = zarr.create_array(
        str(folder / "a.zarr"), shape=STACK.shape, dtype=STACK.dtype, chunks=(1, 4, 6), shards=(5, 8, 18)
    )
    array[...] = STACK
    return folder / "a.zarr"


FILES: dict[str, Callable[[Path], Path]] = {
    "imagej": written(KNOWN, "a.tif", compress=False),
    "imagej of one plane": written(Volume(STACK[0], "YX", (0.2, 0.1, 0.1)), "a.tif"),
    "imagej in another order": written(Volume(FRAMES, "CTXZY"), "a.tif"),
    "imagej of signed numbers": lambda folder: imagej(
        folder / "a.tif", "ZYX", STACK ^ 0x8000, **{"cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "Gray Value"}
    ),
    "ome, compressed": written(Volume(FRAMES, "TCZYX", (1, 0.2, 0.2)), "a.ome.tif"),
    "ome of flags": written(Volume(STACK % 2 == 0), "a.ome.tif"),
    "plain": written(Volume(STACK.astype("u8"), "RYX"), "a.tif"),
    "strips": in_tiff(rowsperstrip=5),
    "strips, compressed": in_tiff(rowsperstrip=5, compression="zlib", predictor=True),
    "big endian": in_tiff(byteorder=">", compression="zlib"),
    "tiles": in_tiff(FRAMES, tile=(16, 16), metadata={"axes": "TCZYX"}),
    "tiles, compressed": in_tiff(FRAMES, tile=(32, 16), compression="zlib", metadata={"axes": "TCZYX"}),
    "tiles in depth": in_tiff(FRAMES[0, 0], tile=(2, 16, 16)),
    "pages that differ": pages_that_differ,
    "npy": written(KNOWN, "a.npy"),
    "npy, big endian, columns first": big_endian_npy,
    "npz": lambda folder: npz(folder / "a.npz", data=STACK),
    "mrc": written(Volume(STACK, "ZYX", (1, 0.5, 0.5)), "a.mrc"),
    "hdf5": written(MASKED, "a.h5"),
    "hdf5 in five axes": chunked_hdf5,
    "big data viewer": big_data_viewer,
    "imaris": imaris,
    "virtual": virtual_hdf5,
    "ome-zarr": written(MASKED, "a.zarr"),
    "ome-zarr in another order": written(Volume(FRAMES, "YXCZT", mask=FRAMES > 0), "a.zarr"),
    "zarr 3, chunks missing": zarr_with_missing_chunks,
    "zarr 2, chunks missing": lambda folder: zarr_with_missing_chunks(folder, 2),
    "zarr of blosc": zarr_of_blosc,
    "zarr in shards": zarr_in_shards,
}


def assert_opens_as_it_reads(path: Any, **wanted: Any) -> LazyVolume:
    """All that is known, the whole, and parts of it, also in another process, equal what `read` gives."""
    whole, opened = read(path, **wanted), open_volume(path, **wanted)
    assert (opened.axes, opened.shape, opened.dtype) == (whole.axes, whole.shape, whole.dtype)
    assert (opened.spacing, opened.planes) == (whole.spacing, whole.planes)
    assert repr(opened.metadata) == repr(whole.metadata)  # arrays are among them
    assert (opened.mask is None) == (whole.mask is None)
    rng = np.random.default_rng(0)
    boxes = [(slice(None),) * len(whole.axes), *(box_in(whole.shape, rng) for _ in range(20))]
    for where in boxes:
        part = opened.part(where)
        assert part.dtype == whole.dtype
        np.testing.assert_array_equal(part.data, whole.data[where])
        if whole.mask is not None:
            np.testing.assert_array_equal(part.mask, whole.mask[where])
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(again.part(boxes[1]).data, whole.data[boxes[1]])
    return opened


def box_in(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, ...]:
    found = []
    for size in shape:
        start, stop = sorted(rng.choice(size + 1, 2, replace=False).tolist())
        found.append(slice(start, stop, int(rng.integers(1, 3))))
    return tuple(found)


@pytest.mark.parametrize("kind", FILES)
def test_parts_of_every_kind_of_file_are_those_of_the_whole(kind: str, tmp_path: Path) -> None:
    assert_opens_as_it_reads(FILES[kind](tmp_path))


def test_parts_of_real_volumes_are_those_of_the_whole(volumes_folder: Path) -> None:
    for path in sorted(volumes_folder.glob("*.tif")):
        if path.stat().st_size < 3e7:
            assert_opens_as_it_reads(path)
