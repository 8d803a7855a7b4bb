"""Parts of files: what `open_volume` says and reads is what `read` does, and no more is read than is asked for."""

from __future__ import annotations

import json
import math
import pickle
import re
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
from test_files_tiff_ome import write_set
from volume_files import KNOWN, STACK, hdf5, imagej, npz, refuses, tiff

from tensorcell.errors import InputError
from tensorcell.files import lazy_reading, open_volume, read, write
from tensorcell.lazy_volume import LazyVolume
from tensorcell.volume import Volume

zarr = pytest.importorskip("zarr")

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
            group.create_dataset(
                "Data", data=np.random.default_rng(frame).integers(0, 9, (8, 32, 32)), chunks=(4, 8, 8)
            )
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
        folder / "a.tif", "ZYX", STACK ^ 0x8000, cf=0, c0=-32768.0, c1=1.0, vunit="Gray Value"
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


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 4}], ids=str)
def test_parts_of_images_in_several_files(tmp_path: Path, options: dict[str, Any]) -> None:
    write_set(tmp_path, **options)
    for opened in ("a.ome.tif", "b.ome.tif"):
        for series in ("A", "B", "C"):
            assert_opens_as_it_reads(tmp_path / opened, series=series)


def test_what_is_wanted_of_a_file_is_opened(tmp_path: Path) -> None:
    path = zarr_with_missing_chunks(tmp_path)
    assert assert_opens_as_it_reads(path, axes="RCZYX").axes == "RCZYX"
    hdf5(tmp_path / "b.h5", raw=STACK, other=STACK + 1)
    assert_opens_as_it_reads(tmp_path / "b.h5", dataset="other")
    assert_opens_as_it_reads(f"{tmp_path}/b.h5:/raw")
    assert_opens_as_it_reads(pages_that_differ(tmp_path), series="all pages")
    refuses(lambda: open_volume(path, axes="ZYX"), "axes 'ZYX' name 3 axes, data has 5")
    refuses(lambda: open_volume(tmp_path / "b.h5"), "b.h5: has 2 volumes, name one")


def test_planes_in_several_files_are_opened(tmp_path: Path) -> None:
    for z in range(3):
        tiff(tmp_path / f"z{z}.tif", STACK[z])
    assert_opens_as_it_reads(tmp_path)
    assert_opens_as_it_reads([tmp_path / "z0.tif", tmp_path / "z1.tif"])


def test_a_large_file_that_is_read_at_once_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_reading, "LARGE", 1000)
    noted = open_volume(npz(tmp_path / "a.npz", data=STACK)).metadata["notes"]
    assert noted == ["this kind of file is read as a whole, which takes 2.88e-06 GB of memory"]


def damaged_tiff(folder: Path) -> Path:
    """A page of another size among those of the image."""
    with tifffile.TiffWriter(folder / "a.tif") as writer:
        for plane in (STACK[0], STACK[1, :8], STACK[2]):
            writer.write(plane, photometric="minisblack", metadata=None, compression="zlib")
    return folder / "a.tif"


def cut_off(make: Callable[[Path], Path], share: float) -> Callable[[Path], Path]:
    def cut(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return path

    return cut


def hdf5_never_written(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("raw", (4, 8, 8), "u2", chunks=(2, 4, 4))[:2] = 1
    return folder / "a.h5"


def own_zarr_without_a_chunk(folder: Path) -> Path:
    write(folder / "a.zarr", KNOWN)
    (folder / "a.zarr" / "0" / "c" / "0" / "0" / "0").unlink()
    return folder / "a.zarr"


DAMAGED: dict[str, Callable[[Path], Path]] = {
    "pages of another size": damaged_tiff,
    "tiff, cut off": cut_off(in_tiff(), 0.8),
    "compressed tiff, cut off": cut_off(in_tiff(compression="zlib"), 0.8),
    "npy, cut off": cut_off(written(KNOWN, "a.npy"), 0.8),
    "mrc, cut off": cut_off(written(Volume(STACK), "a.mrc"), 0.8),
    "hdf5 of which half was written": hdf5_never_written,
    "zarr of ours without a chunk": own_zarr_without_a_chunk,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_when_it_is_opened_in_the_words_of_read(kind: str, tmp_path: Path) -> None:
    path = DAMAGED[kind](tmp_path)
    with pytest.raises(InputError) as caught:
        read(path)
    refuses(lambda: open_volume(path), re.escape(str(caught.value)))


def test_a_damaged_chunk_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = zarr_of_blosc(tmp_path)
    opened = open_volume(path)
    chunk = path / "c" / "1" / "0" / "0" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    refuses(lambda: open_volume(path).part((1, *[slice(None)] * 4)), r"a.zarr: is damaged: chunk c/1/0/0/1/1 states")
    np.testing.assert_array_equal(opened.part((0, *[slice(None)] * 4)).data, FRAMES[0])


def test_a_file_that_is_gone_or_has_changed_is_one_line(tmp_path: Path) -> None:
    path = written(KNOWN, "a.npy")(tmp_path)
    opened = open_volume(path)
    path.write_bytes(path.read_bytes()[:500])
    refuses(lambda: opened.part((0, slice(None), slice(None))), "a.npy: cannot be read: mmap length is greater")
    path.unlink()
    refuses(lambda: opened.part((0, slice(None), slice(None))), "a.npy: cannot be read: No such file")


LARGE = (64, 512, 512)


def large(kind: str, folder: Path) -> Path:
    """A file of 33 MB of values."""
    data = np.random.default_rng(0).integers(0, 2**16, LARGE).astype(np.uint16)
    path = folder / f"a{kind.split()[0]}"
    if kind == ".tif tiles":
        return tiff(path, data, tile=(64, 64), compression="zlib", compressionargs={"level": 1})
    if kind == ".h5 chunks":
        with h5py.File(path, "w") as file:
            file.create_dataset("raw", data=data, chunks=(8, 64, 64))
        return path
    write(path, data, compress=False)
    return path


@pytest.mark.parametrize("kind", [".tif", ".tif tiles", ".h5 chunks", ".npy", ".zarr", ".mrc"])
def test_a_small_box_of_a_large_file_takes_little_memory(kind: str, tmp_path: Path) -> None:
    """What Python allocates from opening to having the box, and what the process has read from files by then."""
    path = large(kind, tmp_path)
    box = (slice(33, 36), slice(200, 220), slice(200, 240))
    open_volume(path).part(box)  # what is imported and remembered does not count
    size = math.prod(LARGE) * 2
    before = bytes_read()
    tracemalloc.start()
    part = open_volume(path).part(box)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < size / 8
    assert bytes_read() - before < size / 8
    np.testing.assert_array_equal(part.data, read(path).data[box])


def bytes_read() -> int:
    """What this process has read by calls of the system; pages of maps of memory are not among it."""
    counts = Path("/proc/self/io")
    return int(counts.read_text().split()[1]) if counts.exists() else 0


def test_another_process_reads_what_was_opened_here(tmp_path: Path) -> None:
    """In a process that has not opened the file, from a folder of its own."""
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).part([slice(1, 3)] * 3).data.sum())"
    for make in (in_tiff(compression="zlib"), *(written(KNOWN, f"a{suffix}") for suffix in (".h5", ".zarr", ".npy"))):
        opened = open_volume(make(tmp_path))
        found = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(opened), capture_output=True, check=True
        )
        assert int(found.stdout) == STACK[1:3, 1:3, 1:3].sum()


def test_parts_of_real_volumes_are_those_of_the_whole(volumes_folder: Path) -> None:
    for path in sorted(volumes_folder.glob("*.tif")):
        if path.stat().st_size < 3e7:
            assert_opens_as_it_reads(path)
