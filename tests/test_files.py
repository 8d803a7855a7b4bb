"""Files of every format: real volumes, exact round trips, masks."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volume_files import ALL_DTYPES, KNOWN, STACK, assert_same, refuses

from tensorcell.files import read, read_mask, write
from tensorcell.volume import Volume


def test_read_real_volumes(volumes_folder: Path) -> None:
    """Axes, shape, dtype and voxel size of every volume as its table of provenance has them."""
    table = (volumes_folder / "PROVENANCE.md").read_text()
    rows = re.findall(r"^\| (\S+\.tif) \| \(([\d, ]+)\) (\w+) \| (\w+) (\d+)\.\.(\d+) \| ([^|]+) \|", table, re.M)
    assert len(rows) == len(list(volumes_folder.glob("*.tif")))
    for name, shape, axes, dtype, low, high, voxel in rows:
        volume = read(volumes_folder / name)
        assert volume.axes == axes
        assert volume.shape == tuple(int(size) for size in shape.split(","))
        assert volume.dtype == dtype
        assert (volume.data.min(), volume.data.max()) == (int(low), int(high))
        if voxel == "unknown":
            assert volume.spacing is None
        else:  # the tags hold ratios of 32-bit integers
            steps = [float(step) for step in voxel.split(",")]
            assert volume.spacing == pytest.approx(steps if "Z" in axes else [steps[0], *steps], rel=1e-8)
        assert volume.metadata["source"] == name


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz"])
def test_real_volume_round_trip(volumes_folder: Path, tmp_path: Path, suffix: str) -> None:
    volume = read(volumes_folder / "carcinoma_cells_4d_T2.tif")
    cropped = Volume(volume.data[:, :6], volume.axes, (0.5, 1.242, 1.242))
    write(tmp_path / f"out{suffix}", cropped)
    assert_same(read(tmp_path / f"out{suffix}"), cropped)


def test_truncated_real_volume_is_never_partly_read(volumes_folder: Path, tmp_path: Path) -> None:
    source = volumes_folder / "ovule_membranes_confocal.tif"
    whole = source.read_bytes()
    cuts = np.unique(np.linspace(0, len(whole) - 1, 60).astype(int))
    for cut in [*cuts, len(whole) - 1]:
        path = tmp_path / "cut.tif"
        path.write_bytes(whole[:cut])
        refuses(partial(read, path), "truncated|damaged|empty|no TIFF file")


@st.composite
def volumes(draw: st.DrawFn, suffix: str) -> Volume:
    """Small volumes of any order of axes and any dtype that the format takes."""
    ome = suffix == ".ome.tif"
    dtype = np.dtype(draw(st.sampled_from([d for d in ALL_DTYPES if not ome or d not in ("i8", "u8", "f2")])))
    outer = draw(st.lists(st.sampled_from("TC" if ome else "TCAQI"), max_size=2, unique=True))
    axes = "".join(draw(st.permutations(["Z", "Y", "X", *outer])))
    shape = tuple(draw(st.integers(2 if letter == "X" else 1, 4)) for letter in axes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = random.bytes(int(np.prod(shape)) * dtype.itemsize)
    data: Any = np.frombuffer(raw, dtype).reshape(shape)  # every bit pattern: NaN, infinities, subnormal numbers
    if dtype.kind == "b":
        data = np.frombuffer(raw, np.uint8).reshape(shape) > 127
    steps = st.floats(1e-3, 1e3)
    spacing = draw(st.none() | st.tuples(steps, steps, steps))
    mask = draw(st.none() | st.just(random.random(shape) < 0.5))
    channels = dict(zip(axes, shape, strict=True)).get("C", 1)
    names = [draw(st.text(max_size=5)) for _ in range(channels)]
    return Volume(data, axes, spacing, mask, {"channel_names": names, "k": 1.5} if draw(st.booleans()) else {})


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_write_read_round_trip(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    volume = data.draw(volumes(suffix))
    path = tmp_path / f"volume{suffix}"
    done = write(path, volume, compress=data.draw(st.booleans()))
    again = read(path)
    assert_same(again, volume)
    assert again.data.tobytes() == np.ascontiguousarray(volume.data).tobytes()  # bit for bit, NaN included
    if suffix in (".h5", ".npz"):
        assert (again.mask is None) == (volume.mask is None)
        if volume.mask is not None:
            np.testing.assert_array_equal(again.mask, volume.mask)
    else:
        assert again.mask is None
    assert done.lost == (("mask",) if volume.mask is not None and "tif" in suffix else ())
    assert again.metadata.get("k") == volume.metadata.get("k")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_npy_holds_the_array_only(tmp_path: Path, dtype: str) -> None:
    volume = Volume(STACK.astype(dtype)[None], "TZYX", (1, 1, 1), STACK[None] > 9, {"a": 1})
    done = write(tmp_path / "a.npy", volume)
    assert done.lost == ("axes", "spacing", "mask", "metadata")
    again = read(tmp_path / "a.npy", axes="TZYX")
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.dtype == volume.dtype
    assert again.spacing is None


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz"])
def test_metadata_survives(tmp_path: Path, suffix: str) -> None:
    names = ["DAPI <1>", 'GFP & "α"']
    metadata = {"channel_names": names, "time_interval": 2.5, "info": "a = 1\nµ", "objective": {"NA": np.float32(0.5)}}
    volume = Volume(np.stack([STACK, STACK + 1]), "CZYX", metadata=metadata)
    write(tmp_path / f"a{suffix}", volume)
    again = read(tmp_path / f"a{suffix}").metadata
    assert again["channel_names"] == names
    assert again["time_interval"] == 2.5
    assert again["info"] == "a = 1\nµ"
    assert again["objective"] == {"NA": 0.5}
    assert again["source"] == f"a{suffix}"


def test_metadata_that_no_file_holds_is_reported(tmp_path: Path) -> None:
    volume = Volume(STACK, metadata={"reader": object(), "kept": 1})
    assert write(tmp_path / "a.tif", volume).lost == ("metadata 'reader'",)
    assert read(tmp_path / "a.tif").metadata["kept"] == 1
    huge = Volume(STACK, metadata={"text": "x" * 100_000})
    assert write(tmp_path / "a.h5", huge).lost == ("metadata",)
    assert_same(read(tmp_path / "a.h5"), Volume(STACK))


def test_write_takes_arrays_and_any_memory_layout(tmp_path: Path) -> None:
    view = np.asfortranarray(STACK)[::-1, ::2]
    for suffix in (".tif", ".ome.tif", ".h5", ".npz", ".npy"):
        write(tmp_path / f"a{suffix}", view.astype(">u2"))
        np.testing.assert_array_equal(read(tmp_path / f"a{suffix}").data, view)


def test_write_converts_and_counts(tmp_path: Path) -> None:
    data = np.array([-1.0, 0.4, 2.0, 300.0]).reshape(1, 2, 2)
    done = write(tmp_path / "a.tif", Volume(data), dtype="uint8")
    assert (done.rounded, done.clipped) == (1, 2)
    assert read(tmp_path / "a.tif").data.tolist() == [[[0, 0], [2, 255]]]


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz", ".npy"])
@pytest.mark.parametrize("dtype", ["bool", "u1", "f4"])
def test_read_mask_nonzero_is_measured(tmp_path: Path, suffix: str, dtype: str) -> None:
    mask = STACK > 2000
    write(tmp_path / f"m{suffix}", (255 * mask.astype(np.uint8)).astype(dtype))
    found = read_mask(tmp_path / f"m{suffix}")
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_read_mask_fits_the_volume(tmp_path: Path) -> None:
    mask = STACK > 2000
    volume = Volume(np.zeros((18, 2, 16, 5), np.float32), "XCYZ")
    write(tmp_path / "m.tif", mask.astype(np.uint8))
    found = read_mask(tmp_path / "m.tif", like=volume)
    for channel in (0, 1):
        np.testing.assert_array_equal(found[:, channel], mask.transpose(2, 1, 0))
    found[:] = True  # the caller's own
    other = Volume(np.zeros((5, 16, 17)))
    refuses(lambda: read_mask(tmp_path / "m.tif", like=other), r"m.tif: mask has shape \(5, 16, 18\) \(ZYX\), data has")
    write(tmp_path / "m.h5", Volume(mask[None], "TZYX"))
    refuses(lambda: read_mask(tmp_path / "m.h5", like=volume), "mask has axes TZYX, data has axes XCYZ")


def test_read_mask_of_a_file_that_carries_one(tmp_path: Path) -> None:
    write(tmp_path / "v.h5", dataclasses.replace(KNOWN, mask=STACK > 2000))
    np.testing.assert_array_equal(read_mask(tmp_path / "v.h5"), STACK > 2000)
    np.testing.assert_array_equal(read_mask(f"{tmp_path}/v.h5:/data_mask"), STACK > 2000)


def test_read_mask_refuses_nan(tmp_path: Path) -> None:
    write(tmp_path / "m.npy", np.full((2, 3, 4), np.nan))
    refuses(lambda: read_mask(tmp_path / "m.npy"), "m.npy: the mask holds NaN")
