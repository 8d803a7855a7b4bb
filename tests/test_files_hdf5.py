"""HDF5 and ``.npz`` files: several datasets in one file, and what other programs write."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from volume_files import KNOWN, STACK, assert_same, hdf5, npz, refuses, tiff

from tensorcell.files import check_writable, open_volume, read, write
from tensorcell.volume import Volume

FRAMES = np.arange(2 * 3 * STACK.size, dtype=np.uint16).reshape(2, 3, *STACK.shape)


def fiji(path: Path, data: np.ndarray = FRAMES, first: int = 0, below: str = "") -> Path:
    """A dataset for each frame and channel, as Fiji's plugin writes them."""
    with h5py.File(path, "w") as file:
        for t, c in np.ndindex(data.shape[:2]):
            part = file.create_dataset(f"{below}/t{t + first}/channel{c}", data=data[t, c])
            part.attrs["element_size_um"] = [0.5, 0.2, 0.1]
    return path


@pytest.mark.parametrize("below", ["", "/deep/raw"])
def test_frames_and_channels_of_fiji_are_put_together(tmp_path: Path, below: str) -> None:
    """Frames in the order of their numbers: t10 after t9."""
    volume = read(fiji(tmp_path / "a.h5", first=9, below=below))
    assert_same(volume, Volume(FRAMES, "TCZYX", (0.5, 0.2, 0.1)))
    assert volume.metadata["notes"] == [
        f"6 datasets, {below}/t9/channel0 to {below}/t10/channel2, are its frames and channels"
    ]
    assert_same(read(tmp_path / "a.h5", axes="CTZYX"), Volume(FRAMES, "CTZYX", (0.5, 0.2, 0.1)))
    one = read(tmp_path / "a.h5", dataset=f"{below}/t10/channel1")
    assert_same(one, Volume(FRAMES[1, 1], "ZYX", (0.5, 0.2, 0.1)))
    for channels in (read(tmp_path / "a.h5", dataset=f"{below}/t10"), read(fiji(tmp_path / "b.h5", FRAMES[1:]))):
        assert_same(channels, Volume(FRAMES[1], "CZYX", (0.5, 0.2, 0.1)))
    part = open_volume(tmp_path / "a.h5").part((1, slice(1, 3), slice(2), slice(4, 9), slice(0, 18, 3)))
    np.testing.assert_array_equal(part.data, FRAMES[1, 1:3, :2, 4:9, ::3])


def test_frames_and_channels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = fiji(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["t1/channel2"].attrs["element_size_um"] = [1.0, 0.2, 0.1]
    volume = read(path)
    assert volume.spacing is None
    assert "The voxel size is unknown: the datasets state different ones." in volume.metadata["notes"]
    with h5py.File(path, "r+") as file:
        del file["t0/channel1"]
    refuses(lambda: read(path), "is incomplete: it lacks t0/channel1 of 2 frames of 3 channels")
    with h5py.File(path, "r+") as file:
        file["t999999999/channel0"] = STACK
    refuses(lambda: read(path), "is incomplete: it lacks t0/channel1 of 1000000000 frames of 3 channels")
    for other in (STACK.astype(np.uint8), STACK[1:]):
        path = fiji(tmp_path / "b.h5")
        with h5py.File(path, "r+") as file:
            del file["t0/channel1"]
            file["t0/channel1"] = other
        refuses(lambda: read(path), "has 6 volumes, name one with dataset=")  # noqa: B023
    path = fiji(tmp_path / "c.h5")
    with h5py.File(path, "r+") as file:
        file["other"] = STACK
    refuses(lambda: read(path), "has 7 volumes, name one with dataset=")


def test_write_hdf5_inside_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, KNOWN)
    write(f"{path}:/rec/one", Volume(STACK + 1, mask=STACK > 9))
    write(f"{path}:/rec/one", Volume(STACK + 2))
    np.testing.assert_array_equal(read(path, dataset="data").data, STACK)
    np.testing.assert_array_equal(read(f"{path}:/rec/one").data, STACK + 2)
    assert read(f"{path}:rec").mask is None
    refuses(lambda: write(f"{path}:/rec", KNOWN), "'rec' is a group in the file")
    refuses(lambda: write(f"{path}:/data/x", KNOWN), "'data' is a dataset in the file, expected a group")
    (tmp_path / "b.h5").write_text("hello")
    refuses(lambda: write(f"{tmp_path}/b.h5:/x", KNOWN), "exists and is no HDF5 file")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_hdf5_attributes_are_those_of_other_programs(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", dataclasses.replace(KNOWN, mask=STACK > 9))
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["data", "data_mask"]
        assert file["data"].attrs["element_size_um"].tolist() == [0.5, 0.108, 1 / 9]
        assert [dim.label for dim in file["data"].dims] == ["z", "y", "x"]
        assert file["data"].compression == "gzip"
        assert file["data"].chunks is not None


def test_hdf5_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = STACK
        file["raw"].attrs["element_size_um"] = [0.5, 0.1, 0.2]  # plantseg
        file["note"] = "text"
        file["lines"] = STACK[0]
    assert_same(read(path), Volume(STACK, spacing=(0.5, 0.1, 0.2)))
    tags = {"axes": [{"key": key, "typeFlags": 2} for key in "tzyxc"]}
    with h5py.File(path, "w") as file:
        file["exported_data"] = STACK[None, ..., None]
        file["exported_data"].attrs["axistags"] = json.dumps(tags)  # ilastik
        file["exported_data"].attrs["element_size_um"] = [1, 0.5, 0.1, 0.2, 1]
    assert_same(read(path), Volume(STACK[None, ..., None], "TZYXC", (0.5, 0.1, 0.2)))
    with h5py.File(path, "w") as file:
        file["a"] = STACK[:, None]
        for dim, label in zip(file["a"].dims, ("depth", "channel", "height", "width"), strict=True):
            dim.label = label
        file["a"].attrs["element_size_um"] = "unknown"
    assert_same(read(path), Volume(STACK[:, None], "ZCYX"))
    assert read(path, axes="TZYX").axes == "TZYX"


def test_hdf5_series_of_planes(tmp_path: Path) -> None:
    with h5py.File(hdf5(tmp_path / "a.h5", raw=STACK), "r+") as file:
        file["raw"].attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "tyx"]})
        file["raw"].attrs["element_size_um"] = [9.0, 0.2, 0.1]
    assert_same(read(tmp_path / "a.h5"), Volume(STACK, "TYX", (0.2, 0.1)))
    assert_same(read(tmp_path / "a.h5", axes="ZYX"), Volume(STACK, spacing=(9.0, 0.2, 0.1)))


@pytest.mark.parametrize("size", [[0.0, 1.0, 1.0], [np.nan, 1, 1], [1.0, 1.0], "x"])
def test_hdf5_with_a_senseless_voxel_size(tmp_path: Path, size: Any) -> None:
    with h5py.File(hdf5(tmp_path / "a.h5", raw=STACK), "r+") as file:
        file["raw"].attrs["element_size_um"] = size
        file["raw"].attrs["axistags"] = "{broken"
    assert_same(read(tmp_path / "a.h5"), Volume(STACK))


def test_hdf5_paths_inside(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", **{"raw": STACK, "g/label": STACK + 1})
    for inside in ("raw", "/raw"):
        np.testing.assert_array_equal(read(f"{path}:{inside}").data, STACK)
        np.testing.assert_array_equal(read(path, dataset=inside).data, STACK)
    np.testing.assert_array_equal(read(f"{path}:/g").data, STACK + 1)
    np.testing.assert_array_equal(read(f"{path}:/raw", dataset="raw").data, STACK)
    refuses(lambda: read(f"{path}:/none"), r"has no dataset 'none', it has /g/label \(5, 16, 18\), /raw")
    refuses(lambda: read(f"{path}:/raw", dataset="g"), "two datasets are named, 'raw' in the path and dataset='g'")
    refuses(lambda: read(tiff(tmp_path / "a.tif"), dataset="raw"), "dataset= is for HDF5, Imaris, .npz and OME-Zarr")


def test_hdf5_contiguous_and_virtual_layouts(tmp_path: Path) -> None:
    assert_same(read(hdf5(tmp_path / "a.h5", raw=STACK)), Volume(STACK))
    layout = h5py.VirtualLayout(STACK.shape, np.uint16)
    layout[:] = h5py.VirtualSource(tmp_path / "a.h5", "raw", STACK.shape)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    assert_same(read(tmp_path / "v.h5"), Volume(STACK))


def test_npz_of_other_programs(tmp_path: Path) -> None:
    assert_same(read(npz(tmp_path / "a.npz", volume=STACK)), Volume(STACK))
    path = npz(tmp_path / "b.npz", x=STACK, y=STACK[0])
    assert_same(read(path, dataset="x"), Volume(STACK))
    assert_same(read(f"{path}:x"), Volume(STACK))
    assert read(f"{path}:/y").axes == "YX"
    refuses(lambda: read(path, dataset="z"), "has no array 'z': x, y")
    refuses(lambda: read(f"{path}:x", dataset="y"), "two datasets are named, 'x' in the path and dataset='y'")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("readme.txt", "x")
    refuses(lambda: read(tmp_path / "c.npz"), "has several arrays, name one with dataset= or after a colon: none")


def test_a_name_in_an_npz_is_not_written(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=STACK)
    for call in (write, lambda output, _: check_writable(output)):
        refuses(lambda: call(f"{path}:x", STACK), "npz:x: .npz is written with one volume, expected a path without 'x'")  # noqa: B023
    assert_same(read(path), Volume(STACK))
