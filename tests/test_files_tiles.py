"""Files that are written tile by tile are those that are written as a whole, after a kill in the middle, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from volume_files import KNOWN, STACK, assert_same, refuses, tiles_of

from tensorcell.files import pyramid, read, tiff_write, write
from tensorcell.files.tile_writing import TileSpec, tile_writer
from tensorcell.volume import Volume

zarr = pytest.importorskip("zarr")

SUFFIXES = (".zarr", ".tif", ".ome.tif", ".h5", ".npy")

RNG = np.random.default_rng(2)

VOLUMES: dict[str, Volume] = {
    "known": KNOWN,
    "channels": Volume(
        RNG.integers(-5, 300, (3, 2, 5, 20, 24)).astype(np.int16),
        "TCZYX",
        (1, 0.3, 0.2),
        metadata={"channel_names": ["a", "b"], "time_interval": 3.0, "notes": ["odd"]},
    ),
    "another order": Volume(RNG.random((20, 5, 24, 2)).astype(np.float32), "YZXC", (1, 0.3, 0.2)),
    "big endian": Volume(STACK.astype(">u2")),
    "planes": Volume(RNG.random((20, 24)), "YX", (0.3, 0.3, 0.2)),
    "one plane": Volume(RNG.integers(0, 9, (1, 20, 24)).astype(np.uint8)),
    "not measured": Volume(np.where(RNG.random((5, 20, 24)) < 0.3, np.nan, 1.5).astype(np.float32)),
    "chunks of NaN": Volume(np.where(np.arange(40)[:, None, None] < 20, np.nan, np.ones((40, 8, 9), np.float32))),
    "chunks of zeros": Volume((np.arange(40)[:, None, None] < 20) * np.ones((40, 8, 9), np.uint16)),
}


def spec_of(volume: Volume) -> TileSpec:
    return TileSpec(volume.shape, volume.axes, volume.dtype, volume.spacing, volume.metadata)


def write_in_tiles(path: Path, volume: Volume) -> Any:
    part = path.with_name(f".part{path.name}")
    with tile_writer(part, path, spec_of(volume)) as writer:
        for where in tiles_of(volume.shape, writer.chunks):
            writer.write(where, volume.data[where])
        stored = writer.complete()
    part.rename(path)
    return stored


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", VOLUMES)
def test_what_is_written_in_tiles_is_what_is_written_as_a_whole(kind: str, suffix: str, tmp_path: Path) -> None:
    volume = VOLUMES[kind]
    whole = write(tmp_path / f"whole{suffix}", volume)
    stored = write_in_tiles(tmp_path / f"tiles{suffix}", volume)
    assert (stored.form, stored.lost) == (whole.format, whole.lost)
    axes = volume.axes if suffix == ".npy" else None
    expected, found = (read(tmp_path / f"{name}{suffix}", axes=axes) for name in ("whole", "tiles"))
    assert_same(found, expected)
    np.testing.assert_array_equal(found.data, volume.data)
    assert {**found.metadata, "source": ""} == {**expected.metadata, "source": ""}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["u2", "f4", "bool"])
def test_smaller_levels_are_means_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, masked: bool
) -> None:
    """By the definition, and equal whether the volume is written in tiles or as a whole: in chunks of odd lengths."""
    monkeypatch.setattr(pyramid, "LARGEST", 8)
    monkeypatch.setattr("tensorcell.files.zarr_write.BLOCK", {"Z": 3, "Y": 7, "X": 9})
    data = RNG.integers(0, 2 if dtype == "bool" else 99, (7, 33, 40)).astype(dtype)
    mask = RNG.random(data.shape) < 0.7 if masked else None
    volume = Volume(data, "ZYX", (0.1, 0.1, 0.1), mask, {"channel_names": ["a"]})
    write(tmp_path / "whole.zarr", volume)
    whole = zarr.open_group(str(tmp_path / "whole.zarr"), mode="r")
    if not masked:
        write_in_tiles(tmp_path / "tiles.zarr", volume)
        tiles = zarr.open_group(str(tmp_path / "tiles.zarr"), mode="r")
        assert dict(tiles.attrs) == dict(whole.attrs)
        for level in "0123":
            np.testing.assert_array_equal(tiles[level][...], whole[level][...])
    smaller = whole["1"][...].astype(float)
    assert smaller.shape == (4, 17, 20)
    for place in np.ndindex(smaller.shape):
        where = tuple(slice(2 * one, 2 * one + 2) for one in place)
        values = data[where].astype(float) if mask is None else data[where].astype(float)[mask[where]]
        if not values.size:
            assert np.isnan(smaller[place]) if dtype == "f4" else smaller[place] == 0
        elif dtype == "bool":
            assert smaller[place] == (values.mean() >= 0.5)
        else:
            assert abs(smaller[place] - values.mean()) < (1 if dtype == "u2" else 1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tiles_may_be_written_twice_and_along_integers(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with tile_writer(tmp_path / f".a{suffix}", path, spec_of(KNOWN)) as writer:
        for z in range(5):
            writer.write((z, slice(None), slice(None)), STACK[z])
        writer.write((slice(1, 3), slice(4, 9), slice(2, None)), STACK[1:3, 4:9, 2:])
        np.testing.assert_array_equal(writer.read((slice(1, 3), 4, slice(2, None))), STACK[1:3, 4, 2:])
        writer.complete()
    (tmp_path / f".a{suffix}").rename(path)
    np.testing.assert_array_equal(read(path).data, STACK)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_writer_goes_on_with_what_was_begun(tmp_path: Path, suffix: str) -> None:
    path, part = tmp_path / f"a{suffix}", tmp_path / f".a{suffix}"
    spec = spec_of(VOLUMES["channels"])
    data = VOLUMES["channels"].data
    where = [tuple(slice(t, t + 1) if n == 0 else slice(None) for n in range(5)) for t in range(3)]
    with tile_writer(part, path, spec, resume=True) as writer:  # nothing is there to go on with
        writer.write(where[1], data[where[1]])
    refuses(lambda: tile_writer(part, path, spec), f"a{suffix}: its unfinished file .* exists already, expected resume")
    other = spec._replace(shape=(3, 2, 5, 20, 25))
    refuses(lambda: tile_writer(part, path, other, resume=True), "was begun with .* 20, 24.* expected .* 20, 25")
    with tile_writer(part, path, spec, resume=True) as writer:
        for each in where[::2]:
            writer.write(each, data[each])
        writer.complete()
    part.rename(path)
    np.testing.assert_array_equal(read(path, axes="TCZYX" if suffix == ".npy" else None).data, data)


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from tensorcell.files.tile_writing import TileSpec, tile_writer
part, path = map(Path, sys.argv[1:])
writer = tile_writer(part, path, TileSpec((40, 64, 64), "ZYX", np.uint16, (1, 1, 1), {"a": 1}), resume=True)
step = writer.chunks[0] if writer.chunks[0] > 1 else 4
while True:
    for z in range(0, 40, step):
        values = np.arange(z, min(z + step, 40), dtype=np.uint16)[:, None, None] + np.zeros((1, 64, 64), np.uint16)
        if z + step < 40:
            writer.write((slice(z, z + step), slice(None), slice(None)), values)
        if z == step:
            writer.flush()
            print("half", flush=True)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_writer_that_is_killed_leaves_what_it_wrote(tmp_path: Path, suffix: str) -> None:
    """It writes without end until it is killed; then the last tile alone is written, and all is there."""
    path, part = tmp_path / f"a{suffix}", tmp_path / f".a{suffix}"
    for wait in (0.0, 0.013, 0.029):
        with subprocess.Popen([sys.executable, "-c", KILLED, part, path], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "half\n"
            for _ in range(2):
                child.stdout.readline()
            time.sleep(wait)
            child.send_signal(signal.SIGKILL)
    with tile_writer(part, path, TileSpec((40, 64, 64), "ZYX", np.uint16, (1, 1, 1), {"a": 1}), resume=True) as writer:
        step = writer.chunks[0] if writer.chunks[0] > 1 else 4
        first = (40 - 1) // step * step
        last = np.arange(first, 40, dtype=np.uint16)[:, None, None] + np.zeros((1, 64, 64), np.uint16)
        writer.write((slice(first, 40), slice(None), slice(None)), last)
        writer.complete()
    part.rename(path)
    volume = read(path)
    np.testing.assert_array_equal(volume.data, np.broadcast_to(np.arange(40)[:, None, None], (40, 64, 64)))
    if suffix != ".npy":
        assert (volume.spacing, volume.metadata["a"]) == ((1, 1, 1), 1)


def test_files_written_in_tiles_are_what_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageJ TIFF, a BigTIFF with OME metadata where the volume is large, one HDF5 dataset: in one piece each."""
    write_in_tiles(tmp_path / "a.tif", KNOWN)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_imagej
        assert not tif.is_bigtiff
        assert tif.series[0].dataoffset is not None
    monkeypatch.setattr(tiff_write, "CLASSIC_LIMIT", 1000)
    write_in_tiles(tmp_path / "b.tif", KNOWN)
    with tifffile.TiffFile(tmp_path / "b.tif") as tif:
        assert tif.is_bigtiff
        assert tif.is_ome
    assert_same(read(tmp_path / "b.tif"), KNOWN)
    write_in_tiles(tmp_path / "a.h5", KNOWN)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["data"].chunks is None
        assert file["data"].id.get_offset() > 0


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("a.npz", {}, r"a.npz: .npz \(.npz\) is only written as a whole, expected .tif, .ome.tif, .h5, .npy or .zarr"),
    ("a.mrc", {}, r"a.mrc: MRC \(.mrc\) is only written as a whole"),
    ("a.nd2", {}, "a.nd2: ND2 .* can be read but not written"),
    ("a.zarr", {"axes": "RYX"}, r"a.zarr: OME-Zarr has no axes RYX, expected .* \(or write"),
    ("a.ome.tif", {"dtype": np.int64}, "a.ome.tif: OME-TIFF has no dtype int64"),
    ("a.tif", {"dtype": bool}, "a.tif: TIFF stores eight values of bool in a byte"),
    ("no/a.npy", {}, "no/a.npy: cannot be written: No such file"),
]


@pytest.mark.parametrize(("name", "changed", "message"), REFUSED)
def test_what_cannot_be_written_in_tiles_is_one_line(
    tmp_path: Path, name: str, changed: dict[str, Any], message: str
) -> None:
    spec = TileSpec(STACK.shape, "ZYX", np.uint16)._replace(**changed)
    refuses(lambda: tile_writer(tmp_path / "no" / ".p", tmp_path / name, spec), message)


def test_tiles_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with tile_writer(tmp_path / ".a", tmp_path / "a.npy", spec_of(KNOWN)) as writer:
        box = (slice(0, 1), slice(None), slice(None))
        refuses(lambda: writer.write(box, STACK), r"a tile has shape \(5, 16, 18\) of uint16, expected \(1, 16, 18\)")
        refuses(lambda: writer.write(box, STACK[:1].astype(float)), "of float64, expected .* of uint16")
        refuses(lambda: writer.write(box[:2], STACK[:1]), "the index has 2 entries")


def test_a_zarr_of_which_tiles_are_missing_is_not_completed(tmp_path: Path) -> None:
    spec = TileSpec((40, 8, 8), "ZYX", np.float32)
    with tile_writer(tmp_path / ".a", tmp_path / "a.zarr", spec) as writer:
        assert writer.chunks == (14, 8, 8)
        writer.write((slice(14), slice(None), slice(None)), np.zeros((14, 8, 8), np.float32))
        refuses(writer.complete, "is incomplete: 2 of 3 chunks were not written")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for suffix in (".tif", ".h5", ".npy"):
        path = tmp_path / f"a{suffix}"
        refuses(lambda path=path: tile_writer(tmp_path / ".a", path, spec_of(KNOWN)), "No space left on device")
        assert not list(tmp_path.iterdir())


def test_a_volume_larger_than_memory_is_begun_without_it(tmp_path: Path) -> None:
    """Nothing is made of the size of the volume: 16 TB."""
    layout = TileSpec((20000, 20000, 20000), "ZYX", np.uint16).layout()
    assert layout.data.nbytes == 16 * 10**12
    spec = TileSpec((20000, 20000, 20000), "ZYX", np.uint16)
    with tile_writer(tmp_path / ".a", tmp_path / "a.zarr", spec) as writer:
        writer.write((slice(0, 16), slice(0, 254), slice(0, 254)), np.ones((16, 254, 254), np.uint16))
        assert writer.chunks == (16, 254, 254)
